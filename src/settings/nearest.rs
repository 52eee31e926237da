//! The key that a misspelt one was probably meant to be.

use super::{
    keys::{KEYS, NAMED_KEYS, is_section, section_of},
    sources::Path,
};

/// Below this two names have nothing to do with each other.
const LIKENESS_MIN: f64 = 0.8;

/// What to say about a key that there isn't.
pub(super) fn unknown(path: &Path) -> String {
    let given = path.to_string();
    let best = candidates(path).into_iter().map(|name| (likeness(&given, &name), name)).max_by(|(a, _), (b, _)| a.total_cmp(b));
    match best {
        Some((likeness, name)) if likeness >= LIKENESS_MIN => format!("there is no such key; did you mean {name}?"),
        _ => format!("there is no such key; {}", what_there_is(section_of(&given))),
    }
}

fn candidates(path: &Path) -> Vec<String> {
    let name = match path.0.as_slice() {
        [_, name, _] => Path(vec![name.clone()]).to_string(),
        _ => "NAME".to_owned(),
    };
    let fixed = KEYS.iter().map(|key| key.name.to_owned());
    fixed.chain(NAMED_KEYS.iter().map(|key| format!("{}.{name}.{}", key.section, key.field))).collect()
}

/// Between 0 and 1. Words in another order count as nearly the same: `max_connections` is `connections_max`.
fn likeness(given: &str, known: &str) -> f64 {
    let ordered = strsim::normalized_damerau_levenshtein(&in_order(given), &in_order(known));
    let whole = strsim::normalized_damerau_levenshtein(given, known);
    // The section forgotten, or another one's key.
    let field = if last(given) == last(known) { 0.9 } else { 0.0 };
    whole.max(0.99 * ordered).max(field)
}

fn in_order(name: &str) -> String {
    let mut words: Vec<&str> = name.split(['.', '_']).collect();
    words.sort_unstable();
    words.join(" ")
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn what_there_is(section: &str) -> String {
    let of_section = |name: &str| section_of(name) == section;
    let mut names: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    names.extend(NAMED_KEYS.iter().map(|key| format!("{}.NAME.{}", key.section, key.field)));
    if is_section(section) {
        names.retain(|name| of_section(name));
        return format!("{section} has {}", names.join(", "));
    }
    let mut sections: Vec<&str> = names.iter().map(|name| section_of(name)).collect();
    sections.dedup();
    format!("the sections are {}", sections.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(parts: &[&str]) -> String {
        unknown(&Path(parts.iter().map(|&part| part.to_owned()).collect()))
    }

    #[test]
    fn the_nearest_key_is_named() {
        assert!(said(&["grpc", "listn"]).ends_with("did you mean grpc.listen?"));
        assert!(said(&["grpc", "max_connections"]).ends_with("did you mean grpc.connections_max?"));
        assert!(said(&["jurnal", "directory"]).ends_with("did you mean journal.directory?"));
        assert!(said(&["directory"]).ends_with("did you mean journal.directory?"));
        assert!(said(&["collections", "player", "tabel"]).ends_with("did you mean collections.player.table?"));
    }

    #[test]
    fn without_a_near_key_the_section_is_listed() {
        assert!(said(&["stop", "xyz"]).ends_with("stop has stop.drain_timeout, stop.timeout"));
        assert!(said(&["kafka", "brokers"]).contains("the sections are grpc, http, journal"));
    }
}
