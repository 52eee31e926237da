//! The shape of the tree, checked: who may import whom, and which crate may be named where (written once, here).

use std::{fs, path::Path};

/// What each part of `src/` may import of ours. A new line here is a design change: the commit says why.
const IMPORTS: &[(&str, &[&str])] = &[
    ("save", &[]),
    ("failed", &["save"]),
    ("outcomes", &["save"]),
    ("limits", &["settings"]),
    ("metrics", &["limits"]),
    ("exit", &[]),
    ("proto", &[]),
    ("collections", &["save"]),
    ("backlog", &["save", "collections"]),
    ("settings", &["collections"]),
    ("status", &["save", "limits", "failed"]),
    ("logs", &["settings"]),
    ("journal", &["save", "collections", "limits", "settings"]),
    ("postgres", &["save", "failed", "collections", "backlog", "settings"]),
    ("drain", &["save", "collections", "backlog", "limits", "settings", "postgres", "journal"]),
    ("grpc", &["save", "failed", "outcomes", "collections", "limits", "settings", "proto", "status"]),
    ("http", &["settings", "metrics", "limits", "outcomes"]),
    ("client", &["proto"]),
];

/// Crates that only these parts may name.
const CRATES: &[(&str, &[&str])] = &[
    ("sled", &["journal"]),
    ("tokio_postgres", &["postgres", "sandbox"]),
    ("deadpool_postgres", &["postgres"]),
    // The bench's callers must cost as little as the ceiling's: they use the generated clients themselves.
    ("tonic", &["grpc", "client", "proto", "bench"]),
    ("tower_layer", &["grpc"]),
    ("prost", &["grpc", "client", "proto"]),
    ("metrics", &["metrics"]),
    ("axum", &["http"]),
];

#[test]
fn parts_import_only_what_the_design_allows() {
    let mut wrong = Vec::new();
    for (part, path, text) in sources() {
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == part) else { continue };
        for imported in imported_parts(&text) {
            if imported != part && !allowed.contains(&imported.as_str()) {
                wrong.push(format!("{path}: {part} imports {imported}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (part, path, text) in sources() {
        for (name, rooms) in CRATES {
            let named = code(&text).lines().any(|line| names_crate(line, name));
            if named && !rooms.contains(&part.as_str()) {
                wrong.push(format!("{path}: names {name}, which belongs to {rooms:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rules_name_parts_that_exist() {
    let parts: Vec<String> = sources().into_iter().map(|(part, _, _)| part).collect();
    for (part, _) in IMPORTS {
        assert!(parts.iter().any(|name| name == part), "there is no src/{part}.rs, but a rule for it");
    }
}

/// Source without comments and without what it imports of our own; `async_trait` is no tonic of its own.
fn code(text: &str) -> String {
    let mut rest: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    rest = rest.replace("#[tonic::async_trait]", "");
    while let Some(from) = rest.find("use crate::{") {
        let to = rest[from..].find("};").map_or(rest.len(), |at| from + at + 2);
        rest.replace_range(from..to, "");
    }
    rest
}

/// A path that begins with the crate: `name::`, not preceded by another path segment, or `use name`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    }) && !line.contains(&format!("crate::{name}::"))
}

/// The parts named as `crate::part` or in `use crate::{part, ...}`.
fn imported_parts(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut parts = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => parts.extend(top_names(list)),
            None => parts.extend(leading_name(rest)),
        }
    }
    parts
}

/// The first names of a `{a::b, c, d::{e, f}}` list.
fn top_names(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut fresh) = (0, Vec::new(), true);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && c.is_alphabetic() => {
                names.extend(leading_name(&list[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn leading_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    // Types and constants at the crate's root are none of ours.
    name.chars().next().filter(|c| c.is_lowercase()).map(|_| name)
}

/// Tests may import what they need to set the stage.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "simulation" | "simulation.rs")))
}

/// Part, path and text of every source file; the part is the file's or folder's name below `src/`.
fn sources() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") && !is_test(&path) {
                let inside = path.strip_prefix(&root).expect("below src");
                let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
                let text = fs::read_to_string(&path).expect("source is text");
                found.push((first.trim_end_matches(".rs").to_owned(), inside.display().to_string(), text));
            }
        }
    }
    assert!(found.len() > 10, "the tree is where the test looks");
    found
}
