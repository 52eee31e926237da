//! Where values come from: the settings file, the environment, `--set`. Each gives entries; what they mean is told by
//! `keys`.

use std::{fmt, fs, path::Path as FilePath};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    keys::is_named_section,
    kinds::Raw,
    problem::{Origin, Problem},
};

/// One value of one source.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Path,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// The parts of a key: `grpc`, `listen`, or `collections`, `game.player`, `mode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<String>);

const VARIABLE_PREFIX: &str = "FOREBAY__";

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.iter().enumerate() {
            let dot = if at == 0 { "" } else { "." };
            if part.contains('.') { write!(f, "{dot}\"{part}\"")? } else { write!(f, "{dot}{part}")? }
        }
        Ok(())
    }
}

impl Path {
    fn of(parts: &[&str]) -> Self {
        Self(parts.iter().map(|&part| part.to_owned()).collect())
    }

    /// From text that has one separator for everything: what stands between section and key is the name.
    fn split(text: &str, separator: &str) -> Self {
        let parts: Vec<&str> = text.split(separator).collect();
        match parts.as_slice() {
            [section, name @ .., field] if name.len() > 1 && is_named_section(section) => {
                let name = name.join(separator);
                Self::of(&[section, name.trim_matches('"'), field])
            }
            parts => Self::of(parts),
        }
    }
}

/// What ranks below the settings file: `DATABASE_URL`, and the directory that systemd prepares.
pub(super) fn conventions(env: &[(String, String)]) -> Vec<Entry> {
    let given = |name: &str| env.iter().find(|(variable, value)| variable == name && !value.is_empty()).map(|(_, value)| value.as_str());
    // systemd separates several state directories by colons; the first is ours.
    let directory = given("STATE_DIRECTORY").and_then(|directories| directories.split(':').next());
    [("DATABASE_URL", ["postgres", "url"], given("DATABASE_URL")), ("STATE_DIRECTORY", ["journal", "directory"], directory)]
        .into_iter()
        .filter_map(|(variable, path, value)| {
            let origin = Origin::Environment(variable.to_owned());
            Some(Entry { path: Path::of(&path), raw: Raw::Text(value?.to_owned()), origin })
        })
        .collect()
}

/// `FOREBAY__SECTION__KEY`
pub(super) fn environment(env: &[(String, String)]) -> Vec<Entry> {
    env.iter()
        .filter_map(|(variable, value)| {
            let key = variable.strip_prefix(VARIABLE_PREFIX)?.to_lowercase();
            Some(Entry { path: Path::split(&key, "__"), raw: Raw::Text(value.clone()), origin: Origin::Environment(variable.clone()) })
        })
        .collect()
}

/// `--set section.key=value`
pub(super) fn flags(sets: &[String], problems: &mut Vec<Problem>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for set in sets {
        match set.split_once('=') {
            Some((key, value)) => {
                entries.push(Entry { path: Path::split(key.trim(), "."), raw: Raw::Text(value.trim().to_owned()), origin: Origin::Flag })
            }
            // What stands there may be a misplaced secret: it is not repeated.
            None => problems.push(problem(Origin::Flag, "write section.key=value")),
        }
    }
    entries
}

/// The settings file.
pub(super) fn file(path: &FilePath, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let origin = Origin::File { path: path.to_owned(), line: 0 };
            problems.push(problem(origin, &format!("read settings file: {error}")));
            return Vec::new();
        }
    };
    self::text(path, &text, problems)
}

/// What the settings file of this path holds.
pub(super) fn text(path: &FilePath, text: &str, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let at = |line| Origin::File { path: path.to_owned(), line };
    let line = |offset: usize| 1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count();
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let mut entries = Vec::new();
        flatten(&mut Vec::new(), table.get_ref(), &mut |parts, value, span| {
            entries.push(Entry { path: Path(parts.to_vec()), raw: raw_of(value), origin: at(line(span)) });
        });
        return entries;
    }
    // The parser's own rendering quotes the line, which may hold a password.
    problems.extend(errors.iter().map(|error| problem(at(line(error.span().map_or(0, |span| span.start))), error.message())));
    Vec::new()
}

/// Every value with its path; an empty table is a value too.
fn flatten(parts: &mut Vec<String>, table: &DeTable<'_>, found: &mut impl FnMut(&[String], &DeValue<'_>, usize)) {
    for (key, value) in table {
        parts.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => flatten(parts, inner, found),
            value => found(parts, value, key.span().start),
        }
        parts.pop();
    }
}

fn raw_of(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Raw::Other("a number too large for any key"), Raw::Integer)
        }
        DeValue::Boolean(flag) => Raw::Boolean(*flag),
        DeValue::Array(items) => Raw::List(items.iter().map(Spanned::get_ref).map(raw_of).collect()),
        DeValue::Table(_) => Raw::Table,
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date or time"),
    }
}

fn problem(origin: Origin, text: &str) -> Problem {
    Problem { origin, key: String::new(), text: text.to_owned() }
}
