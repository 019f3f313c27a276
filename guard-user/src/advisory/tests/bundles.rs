//! Bundles that minisign signed; `tests/data/advisories/README.md` says how they were made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::advisory::{
    bundle::{documents, signature_of},
    embedded::FILES,
    set::{self, Places},
};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/advisories")
        .join(name)
}

fn said(bundle: &Path, key: &Path) -> String {
    documents(bundle, key).map_or_else(
        |problems| problems.to_string(),
        |documents| format!("{} documents", documents.len()),
    )
}

fn scratch(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("bulkhead-bundle-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_bundle_that_was_signed_with_the_key_counts_and_an_old_advisory_in_it_does_not() {
    let places = Places::one(&data("advisories.bundle"), &data("advisories.pub"));
    let set = set::load(&places).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(set.advisories.len(), FILES.len() + 1);
    assert!(set.from[1].starts_with("1 of "), "{:?}", set.from);
    let of = |id: &str| {
        set.advisories
            .iter()
            .find(|advisory| advisory.id == id)
            .unwrap()
    };
    assert_eq!(of("TEST-0001").place.line, 3);
    assert!(of("CVE-2022-0847").place.file.starts_with("(built in)"));
}

#[test]
fn a_bundle_is_refused_whole() {
    let key = data("advisories.pub");
    for (bundle, expected) in [
        ("foreign.bundle", "it was signed with another key than"),
        ("legacy.bundle", "the signature does not belong to it"),
        ("missing.bundle", "cannot read the file"),
    ] {
        let said = said(&data(bundle), &key);
        assert!(said.contains(expected), "{bundle}: {said}");
    }
    // The signature is right, and one advisory is not: none counts, and the place is the bundle's.
    let places = Places::one(&data("mistake.bundle"), &key);
    let said = set::load(&places).unwrap_err().to_string();
    assert!(
        said.contains("mistake.bundle:6:7: `harm` cannot be `bad`"),
        "{said}"
    );
}

#[test]
fn one_byte_more_or_another_is_another_bundle() {
    let folder = scratch("changed");
    let bundle = folder.join("x.bundle");
    fs::copy(data("advisories.bundle.minisig"), signature_of(&bundle)).unwrap();
    let good = fs::read(data("advisories.bundle")).unwrap();
    fs::write(&bundle, &good).unwrap();
    let key = data("advisories.pub");
    assert_eq!(said(&bundle, &key), "2 documents");
    let mut more = good.clone();
    more.push(b'\n');
    let mut other = good;
    other[100] ^= 1;
    for changed in [more, other, Vec::new()] {
        fs::write(&bundle, &changed).unwrap();
        assert!(said(&bundle, &key).contains("the signature does not belong to it"));
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_key_or_no_signature_is_told_so() {
    let folder = scratch("keys");
    let bundle = folder.join("x.bundle");
    fs::copy(data("advisories.bundle"), &bundle).unwrap();
    let key = data("advisories.pub");
    assert!(said(&bundle, &key).contains("x.bundle.minisig:1:1: cannot read the file"));
    for nonsense in [
        "",
        "untrusted comment: x\n",
        "a\nb\nc\nd\n",
        "untrusted comment: x\nRWQ=\ntrusted comment: y\nzz\n",
    ] {
        fs::write(signature_of(&bundle), nonsense).unwrap();
        let said = said(&bundle, &key);
        assert!(
            said.contains("this is no signature of minisign"),
            "{nonsense:?}: {said}"
        );
    }
    fs::copy(data("advisories.bundle.minisig"), signature_of(&bundle)).unwrap();
    let wrong = folder.join("wrong.pub");
    for nonsense in [
        "",
        "untrusted comment: x\n",
        "RWQ",
        "untrusted comment: x\nnot base64\n",
    ] {
        fs::write(&wrong, nonsense).unwrap();
        assert!(
            said(&bundle, &wrong).contains("this is no public key of minisign"),
            "{nonsense:?}"
        );
    }
    // The second line of the key alone is a key as well.
    let text = fs::read_to_string(&key).unwrap();
    fs::write(&wrong, text.lines().nth(1).unwrap()).unwrap();
    assert_eq!(said(&bundle, &wrong), "2 documents");
    fs::remove_dir_all(folder).unwrap();
}
