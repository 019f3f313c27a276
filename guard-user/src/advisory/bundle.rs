//! A signed set of advisories: one file of YAML documents, and what minisign wrote beside it. Nothing in it is read before
//! the signature is found to be right.

use std::path::{Path, PathBuf};

use minisign_verify::{Error, PublicKey, Signature};

use crate::policy::{
    load,
    problem::{Problem, Problems, Source},
};

/// Bytes of a bundle.
const BUNDLE_BYTES: usize = 4 << 20;
/// Bytes of a key or a signature.
const KEY_BYTES: usize = 4 << 10;
/// Documents of a bundle.
const DOCUMENTS: usize = 1024;

/// Where the signature of a bundle is: `advisories.bundle.minisig`.
#[must_use]
pub fn signature_of(bundle: &Path) -> PathBuf {
    let mut name = bundle.as_os_str().to_owned();
    name.push(".minisig");
    PathBuf::from(name)
}

/// The documents of a bundle that was signed with `key`.
///
/// # Errors
/// A file cannot be read, or is no key or signature; the signature is not the bundle's; the bundle has too many documents.
pub fn documents(bundle: &Path, key: &Path) -> Result<Vec<Source>, Problems> {
    let whole = |problem: Box<Problem>| Problems(vec![*problem]);
    let name = bundle.display().to_string();
    let bytes = load::bounded(bundle, BUNDLE_BYTES).map_err(whole)?;
    if bytes.len() > BUNDLE_BYTES {
        return Err(refused(
            &name,
            "the bundle has more than 4 MiB",
            "at most 4 MiB",
            "sign fewer advisories",
        ));
    }
    verify(bundle, &bytes, key)?;
    let source = load::text(&name, &bytes).map_err(whole)?;
    let documents = split(&source);
    match documents.len() {
        0 => Err(refused(
            &name,
            "the bundle has no advisory",
            "YAML documents, each of which begins with `---`",
            "make it with `cat *.yaml`, of files that begin with `---`",
        )),
        count if count > DOCUMENTS => Err(refused(
            &name,
            &format!("{count} documents; at most {DOCUMENTS}"),
            "a bundle of advisories",
            "sign fewer advisories",
        )),
        _ => Ok(documents),
    }
}

fn verify(bundle: &Path, bytes: &[u8], key: &Path) -> Result<(), Problems> {
    let text = |path: &Path| {
        let name = path.display().to_string();
        load::bounded(path, KEY_BYTES)
            .and_then(|bytes| load::text(&name, &bytes))
            .map_err(|problem| Problems(vec![*problem]))
    };
    let key_text = text(key)?.text;
    let key_name = key.display().to_string();
    let no_key = |_: Error| {
        refused(
            &key_name,
            "this is no public key of minisign",
            "the two lines that `minisign -G` writes, or the second of them",
            "put the public key of whoever signs the bundle there, as you got it from them",
        )
    };
    let trimmed = key_text.trim();
    let public = match trimmed.lines().count() {
        1 => PublicKey::from_base64(trimmed),
        _ => PublicKey::decode(trimmed),
    }
    .map_err(no_key)?;
    let path = signature_of(bundle);
    let name = path.display().to_string();
    let signature = Signature::decode(&text(&path)?.text).map_err(|_| {
        refused(
            &name,
            "this is no signature of minisign",
            "the four lines that `minisign -S` writes",
            "take it over together with the bundle",
        )
    })?;
    // Not the older form of signature, which hashes nothing before it signs.
    public.verify(bytes, &signature, false).map_err(|error| {
        let message = match error {
            Error::UnexpectedKeyId => format!("it was signed with another key than {key_name}"),
            _ => format!("the signature does not belong to it: {error}"),
        };
        refused(
            &bundle.display().to_string(),
            &message,
            "a bundle, and the signature of that very bundle beside it",
            "nothing of it is used; get bundle and signature anew from whoever publishes them",
        )
    })
}

/// Splits a stream of YAML documents. Each keeps the lines before it as empty ones, so that a problem is told where it is in
/// the bundle.
fn split(source: &Source) -> Vec<Source> {
    let mut documents: Vec<Source> = Vec::new();
    let mut begun = false;
    let mut current = String::new();
    for (number, line) in source.text.split_inclusive('\n').enumerate() {
        let marker = (line.strip_prefix("---"))
            .is_some_and(|rest| rest.trim().is_empty() || rest.starts_with(char::is_whitespace));
        if marker || !begun {
            if begun {
                push(&mut documents, source, &current);
            }
            current = "\n".repeat(number);
            begun = true;
        }
        if marker {
            // What stands behind the marker is part of the document.
            current.push_str("   ");
            current.push_str(line.get(3..).unwrap_or_default());
        } else {
            current.push_str(line);
        }
    }
    push(&mut documents, source, &current);
    documents
}

fn push(documents: &mut Vec<Source>, source: &Source, text: &str) {
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if text.lines().any(says) {
        documents.push(Source {
            file: source.file.clone(),
            text: text.to_owned(),
        });
    }
}

fn refused(file: &str, message: &str, expected: &str, advice: &str) -> Problems {
    Problems(vec![Problem::of_file(
        file,
        message.to_owned(),
        expected,
        advice,
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advisory::{embedded::FILES, set::parse};

    #[test]
    fn the_shipped_files_one_after_the_other_are_a_bundle() {
        let text: String = FILES.iter().map(|(_, text)| *text).collect();
        let source = Source {
            file: "x".to_owned(),
            text: text.clone(),
        };
        let documents = split(&source);
        assert_eq!(documents.len(), FILES.len());
        let set = parse(documents, false).unwrap_or_else(|problems| panic!("{problems}"));
        for advisory in set {
            let line = text.lines().nth(advisory.place.line - 1).unwrap();
            assert_eq!(line, format!("id: {}", advisory.id));
        }
    }

    #[test]
    fn comments_and_empty_documents_are_none() {
        let count = |text: &str| {
            let source = Source {
                file: "x".to_owned(),
                text: text.to_owned(),
            };
            split(&source).len()
        };
        for (text, expected) in [
            ("", 0),
            ("# nothing\n---\n\n---\n# nothing\n", 0),
            ("a: 1\n", 1),
            ("--- \na: 1\n---\nb: |\n  ---\n", 2),
            ("--- {a: 1}\n---\tb\n", 2),
            ("----\na: 1\n", 1),
        ] {
            assert_eq!(count(text), expected, "{text:?}");
        }
    }
}
