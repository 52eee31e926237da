//! Objects that a call names: a collection and keys of it.

use std::sync::Arc;

use super::{Findings, Rules, canonical_part, unknown_collection, wrong_part_count};
use crate::{
    collections::{Collection, KeyForm, Mode},
    save::Key,
};

/// The collection of this name and these keys in canonical form, each checked as those of saves are and told by its field.
pub(in crate::grpc) fn locate(name: &str, keys: &[(&str, &[String])], rules: &Rules<'_>) -> Result<(Arc<Collection>, Vec<Key>), Findings> {
    let mut findings = Findings::default();
    let Some(collection) = rules.collections.named(name) else {
        findings.unknown_name = true;
        findings.violations.push("collection", || unknown_collection(name, rules.collections));
        return Err(findings);
    };
    if collection.mode == Mode::Append {
        findings.violations.push("collection", || format!("{name} is of mode append: its rows have no keys that saves know"));
        return Err(findings);
    }
    let found: Vec<_> = keys.iter().filter_map(|(field, parts)| key(collection, field, parts, rules, &mut findings)).collect();
    if found.len() == keys.len() { Ok((Arc::clone(collection), found)) } else { Err(findings) }
}

fn key(collection: &Collection, field: &str, parts: &[String], rules: &Rules<'_>, findings: &mut Findings) -> Option<Key> {
    if parts.len() != collection.key.len() {
        findings.violations.push(field, || wrong_part_count(collection, parts));
        return None;
    }
    let bytes = parts.iter().map(|part| part.len() as u64).sum();
    let limit = rules.key_bytes;
    if !limit.lets_through(bytes) || parts.iter().any(|part| part.len() > Key::PART_BYTES_MAX) {
        findings
            .violations
            .push(field, || format!("has {bytes} bytes, more than {} = {}", limit.name(), limit.max().min(Key::PART_BYTES_MAX as u64)));
        return None;
    }
    let mut canonical = Vec::with_capacity(parts.len());
    for (n, (column, part)) in collection.key_columns().zip(parts).enumerate() {
        match canonical_part(column, part) {
            Ok(part) => canonical.push(part),
            Err(why) => {
                // A newer catalog may have more labels of an enum.
                findings.unknown_name |= matches!(column.key_form, Some(KeyForm::Enum { .. }));
                findings.violations.push(format_args!("{field}[{n}]"), || format!("is no {}: it {why}", column.name));
            }
        }
    }
    (canonical.len() == parts.len()).then(|| Key::from_parts(canonical.iter().map(|part| &**part)))
}
