//! Which save Postgres' words point at, when what is wrong lies between rows: "Key (guild)=(7) is not present in table ...".
//!
//! A guess: it only says where a generation is split first. A wrong one costs a transaction or two, a right one saves a search.

use super::Failure;
use crate::{
    backlog::{Fold, Generation, Object},
    collections::{Collection, Collections},
    save::{Body, Key, Sequence},
};

/// The last save of the row that the failure's DETAIL names; none of a batch, which is never split.
pub(super) fn suspect(failure: &Failure, collections: &Collections, generation: &Generation) -> Option<Sequence> {
    let collection = collections.named(failure.collection.as_deref()?)?;
    let (columns, values) = failure.detail.as_deref()?.strip_prefix("Key (")?.split_once(")=(")?;
    let columns: Vec<_> = columns.split(", ").collect();
    let values: Vec<_> = values.split(')').next()?.split(", ").collect();
    if columns.len() != values.len() {
        return None;
    }
    let folds = generation.parts.iter().filter_map(|part| part.collections.get(&collection.id));
    let named: Vec<_> = columns.into_iter().zip(values).collect();
    let mut objects = folds.flat_map(|fold| &fold.objects);
    objects.find(|(key, object)| !object.batched && is_named(collection, key, object, &named)).map(|(_, object)| object.last)
}

fn is_named(collection: &Collection, key: &Key, object: &Object, named: &[(&str, &str)]) -> bool {
    let body = match &object.fold {
        Fold::Set { body, .. } | Fold::Replace { body, .. } => Some(body),
        Fold::Delete | Fold::Entries(_) => None,
    };
    // Most bodies don't hold the text at all: they need not be read.
    named.iter().all(|(column, value)| key_has(collection, key, column, value) || body.is_some_and(|body| body_has(body, column, value)))
}

fn key_has(collection: &Collection, key: &Key, column: &str, value: &str) -> bool {
    collection.key_columns().zip(key.parts()).any(|(known, part)| known.name == column && part == value)
}

fn body_has(body: &Body, column: &str, value: &str) -> bool {
    body.as_str().contains(value) && body.members().iter().any(|member| member.name == column && member.value.trim_matches('"') == value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Action;

    #[test]
    fn other_words_point_at_nothing() {
        let generation = Generation::empty(Sequence::ZERO, std::sync::Arc::default());
        for detail in [None, Some("Failing row contains (1)."), Some("Key (a)"), Some("Key (a, b)=(1) is not present")] {
            let failure = Failure { detail: detail.map(Into::into), collection: Some("t".into()), ..Failure::local(Action::Halve, "no") };
            assert_eq!(suspect(&failure, &Collections::default(), &generation), None);
        }
    }
}
