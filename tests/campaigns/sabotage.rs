//! Sabotage: each patch in `sabotage/` takes away one thing that a promise rests on, and names the test that has to notice. `tests/faults
//! sabotage` applies one after the other to a copy of the tree and demands that its test fails. Here: that they still apply.

use std::{fs, path::Path};

#[test]
fn every_sabotage_still_applies_and_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let patches = fs::read_dir(root.join("tests/campaigns/sabotage")).expect("a directory").map(|entry| entry.expect("an entry").path());
    let patches: Vec<_> = patches.filter(|path| path.extension().is_some_and(|extension| extension == "patch")).collect();
    assert!(patches.len() >= 20, "{patches:?}");
    for path in patches {
        let patch = fs::read_to_string(&path).expect("text");
        let wrong = [applies(&patch, root), names_a_test(&patch, root)].into_iter().find_map(Result::err);
        assert!(wrong.is_none(), "{}: {}", path.display(), wrong.unwrap_or_default());
    }
}

/// What each hunk takes out stands in its file once.
fn applies(patch: &str, root: &Path) -> Result<(), String> {
    let mut files = patch.split("\n--- a/").skip(1).peekable();
    files.peek().ok_or("it changes nothing")?;
    for file in files {
        let (name, hunks) = file.split_once('\n').ok_or("a name and hunks")?;
        let text = fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"))?;
        for hunk in hunks.split("\n@@ ").skip(1) {
            let lines = hunk.lines().skip(1).filter(|line| !line.starts_with('+'));
            let before: String = lines.map(|line| format!("{}\n", line.get(1..).unwrap_or_default())).collect();
            let found = text.matches(&before).count();
            if found != 1 {
                return Err(format!("{name} has this {found} times:\n{before}"));
            }
        }
    }
    Ok(())
}

/// The last part of its test's name is a module of the tests or the beginning of a function.
fn names_a_test(patch: &str, root: &Path) -> Result<(), String> {
    let check = patch.lines().find_map(|line| line.strip_prefix("caught by: ")).ok_or("it isn't said what catches it")?;
    let (name, home) = match check.split_once(' ') {
        Some(("--lib", name)) => (name, "src"),
        Some((_, name)) => (name.strip_prefix("forebay ").ok_or(check)?, "tests"),
        None => return Err(check.to_owned()),
    };
    let last = name.rsplit("::").next().unwrap_or(name);
    let known = |text: &str| text.contains(&format!("fn {last}")) || text.contains(&format!("mod {last};"));
    if any_file(&root.join(home), &known) { Ok(()) } else { Err(format!("there is no test {name}")) }
}

fn any_file(directory: &Path, known: &dyn Fn(&str) -> bool) -> bool {
    let paths = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    paths.into_iter().any(|path| match path.is_dir() {
        true => any_file(&path, known),
        false => path.extension().is_some_and(|extension| extension == "rs") && known(&fs::read_to_string(&path).expect("text")),
    })
}
