//! What people write into settings, given any text.

use std::path::Path;

use super::{load::Loaded, sources};

/// A file, then variables (`NAME=value`) and flags (`--section.key=value`), parted by NUL.
pub(crate) fn sources(text: &str) {
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let (flags, variables): (Vec<_>, Vec<_>) = parts.partition(|part| part.starts_with("--"));
    let env: Vec<_> = variables.iter().filter_map(|part| part.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect();
    let sets: Vec<_> = flags.iter().map(|flag| flag[2..].to_owned()).collect();
    let mut problems = Vec::new();
    let entries = sources::text(Path::new("fuzzed.toml"), file, &mut problems);
    match Loaded::of(entries, problems, &env, &sets) {
        Ok(loaded) => {
            let listed = loaded.listing();
            assert!(listed.iter().all(|line| !line.key.is_empty()));
            let _ = loaded.settings.collection_rules(loaded.settings.layout());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
