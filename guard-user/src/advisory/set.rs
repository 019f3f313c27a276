//! Which advisories count: those that are built in, those of a signed bundle, and the operator's own; all valid, or none.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{bundle, embedded, language::ADVISORY, model::Advisory, read::advisory};
use crate::policy::{
    load,
    problem::{Desk, Problem, Problems, Source},
    section::twice,
    yaml::{self, FILE_BYTES},
};

/// The operator's own advisories, one a file.
pub const FOLDER: &str = "/etc/bulkhead/advisories";
/// A signed set.
pub const BUNDLE: &str = "/etc/bulkhead/advisories.bundle";
/// The key that the set must be signed with.
pub const KEY: &str = "/etc/bulkhead/advisories.pub";
/// Files of a folder.
const FILES: usize = 1024;

/// Where advisories come from, beside those that are built in. What is not there is left out.
#[derive(Clone, Debug)]
pub struct Places {
    /// A folder.
    pub folder: Option<PathBuf>,
    /// A bundle, and the key that it must be signed with.
    pub bundle: Option<(PathBuf, PathBuf)>,
}

impl Places {
    /// Those that are configured on this host, a bundle signed with `key`.
    ///
    /// # Errors
    /// One of them cannot be looked for.
    pub fn of_this_host(key: &Path) -> Result<Self, Problems> {
        let there = |path: &str| match fs::symlink_metadata(path) {
            Ok(_) => Ok(Some(PathBuf::from(path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Problems(vec![Problem::of_file(
                path,
                format!("cannot look for it: {error}"),
                "advisories that can be read, or none",
                "check the permissions",
            )])),
        };
        Ok(Self {
            folder: there(FOLDER)?,
            bundle: there(BUNDLE)?.map(|bundle| (bundle, key.to_owned())),
        })
    }

    /// One folder, or one bundle.
    #[must_use]
    pub fn one(path: &Path, key: &Path) -> Self {
        if path.is_dir() {
            Self {
                folder: Some(path.to_owned()),
                bundle: None,
            }
        } else {
            Self {
                folder: None,
                bundle: Some((path.to_owned(), key.to_owned())),
            }
        }
    }
}

/// Advisories, by their id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// In order of their ids.
    pub advisories: Vec<Advisory>,
    /// How many came from where, in words.
    pub from: Vec<String>,
}

/// What counts: the built-in advisories, then a bundle's, then a folder's. A bundle's takes the place of a built-in one
/// unless that was checked later, so that an old bundle takes nothing back; a folder's always does.
///
/// # Errors
/// All that is wrong with any of them; none counts then.
pub fn load(places: &Places) -> Result<Set, Problems> {
    let built_in = embedded()?;
    let mut from = vec![format!("{} built in", built_in.len())];
    let mut all: BTreeMap<String, Advisory> = (built_in.into_iter())
        .map(|advisory| (advisory.id.clone(), advisory))
        .collect();
    if let Some((path, key)) = &places.bundle {
        let set = parse(bundle::documents(path, key)?, false)?;
        let mut counted = 0;
        for advisory in set {
            let newer =
                (all.get(&advisory.id)).is_none_or(|known| known.checked <= advisory.checked);
            if newer {
                counted += 1;
                all.insert(advisory.id.clone(), advisory);
            }
        }
        from.push(format!("{counted} of {}", path.display()));
    }
    if let Some(path) = &places.folder {
        let set = parse(files(path)?, true)?;
        from.push(format!("{} of {}", set.len(), path.display()));
        all.extend(
            set.into_iter()
                .map(|advisory| (advisory.id.clone(), advisory)),
        );
    }
    Ok(Set {
        advisories: all.into_values().collect(),
        from,
    })
}

/// Those that are built in.
///
/// # Errors
/// None that a test would not have found.
pub fn embedded() -> Result<Vec<Advisory>, Problems> {
    let sources = (embedded::FILES.iter())
        .map(|(id, text)| Source {
            file: format!("(built in) advisories/{id}.yaml"),
            text: (*text).to_owned(),
        })
        .collect();
    parse(sources, true)
}

/// Reads the advisories of these sources, each one document.
///
/// # Errors
/// All that is wrong with them.
pub fn parse(sources: Vec<Source>, named: bool) -> Result<Vec<Advisory>, Problems> {
    let mut desk = Desk {
        sources,
        problems: Vec::new(),
    };
    let mut all = Vec::new();
    for number in 0..desk.sources.len() {
        match yaml::read_as(&ADVISORY, &desk.sources[number], number) {
            Ok(node) => all.extend(advisory(&mut desk, &node)),
            Err(problem) => desk.problems.push(*problem),
        }
    }
    for (index, (advisory, at)) in all.iter().enumerate() {
        let file = &advisory.place.file;
        let called = Path::new(file).file_stem().and_then(|stem| stem.to_str());
        if named && called != Some(advisory.id.as_str()) {
            let message = format!("the file of `{}` is called otherwise", advisory.id);
            let expected = format!("a file called {}.yaml", advisory.id);
            desk.tell(*at, message, &expected, "rename the file, or correct `id`");
        }
        let earlier = all.get(..index).unwrap_or_default();
        if let Some((first, _)) = earlier.iter().find(|(other, _)| other.id == advisory.id) {
            let first = first.place.to_string();
            twice(
                &mut desk,
                *at,
                &format!("advisory `{}`", advisory.id),
                &first,
            );
        }
    }
    if desk.problems.is_empty() {
        Ok(all.into_iter().map(|(advisory, _)| advisory).collect())
    } else {
        Err(Problems(desk.problems))
    }
}

/// The files of a folder, in order of their names.
fn files(folder: &Path) -> Result<Vec<Source>, Problems> {
    let name = folder.display().to_string();
    let refused = |message: String| {
        Problems(vec![Problem::of_file(
            &name,
            message,
            "a folder of advisories, NAME.yaml",
            "check that it is a folder, and its permissions",
        )])
    };
    let entries = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(|error| refused(format!("cannot read the folder: {error}")))?;
    let mut paths: Vec<PathBuf> = (entries.into_iter())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    paths.sort();
    if paths.len() > FILES {
        return Err(refused(format!("{} files; at most {FILES}", paths.len())));
    }
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        match load::bounded(&path, FILE_BYTES)
            .and_then(|bytes| load::text(&path.display().to_string(), &bytes))
        {
            Ok(source) => sources.push(source),
            Err(problem) => problems.push(*problem),
        }
    }
    if problems.is_empty() {
        Ok(sources)
    } else {
        Err(Problems(problems))
    }
}
