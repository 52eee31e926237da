//! Whether a table is still as it was read: a digest of its rows of the system catalog.
//!
//! Compared in the transaction, after the statements that lock the tables: what changes a table's columns, constraints or
//! triggers waits for those locks, so nothing comes between the comparison and COMMIT. And after a refusal, which comes before that
//! comparison: casts of columns that have another type by now say nothing about the saves.

use std::collections::BTreeSet;

use super::array::TextArray;
use crate::{
    backlog::Generation,
    collections::{Collections, Fingerprint},
    save::CollectionId,
};

/// Table and digest (`d`) of the tables whose oids are `$1`. A row of the catalog that is changed gets another `xmin`; foreign
/// keys of others on a table show as its internal triggers.
const DIGESTS: &str = "(select f.rel, md5(string_agg(f.item, ' ' order by f.item)) as digest from ( \
         select oid as rel, 'c' || xmin::text as item from pg_class where oid = any($1::oid[]) \
         union all select attrelid, 'a' || attnum || ':' || xmin::text from pg_attribute where attrelid = any($1::oid[]) and attnum > 0 \
         union all select conrelid, 'k' || oid || ':' || xmin::text from pg_constraint where conrelid = any($1::oid[]) \
         union all select tgrelid, 't' || oid || ':' || xmin::text from pg_trigger where tgrelid = any($1::oid[]) \
         union all select indrelid, 'i' || indexrelid || ':' || xmin::text from pg_index where indrelid = any($1::oid[]) \
     ) as f group by f.rel) as d";

/// Answers with oid (int8) and digest of the tables whose oids are `$1`.
pub(super) fn read() -> String {
    format!("select d.rel::int8, d.digest from {DIGESTS}")
}

/// Answers (0, how many of the tables `$1` have the digests `$2`).
pub(super) fn compare() -> String {
    format!("select 0::int8, count(*) from unnest($1, $2) as e(rel, digest) join {DIGESTS} on d.rel = e.rel::oid and d.digest = e.digest")
}

/// Whether all tables that a generation writes or reaches were there when the catalog was read.
pub(super) fn has_all(collections: &Collections, generation: &Generation) -> bool {
    concerned(generation).iter().all(|id| !collections.get(*id).gone)
}

/// What [`compare`] takes for the tables that a generation writes or reaches, and how many they are.
pub(super) fn expected(collections: &Collections, generation: &Generation) -> ([TextArray; 2], usize) {
    let ids = concerned(generation);
    let (mut oids, mut digests) = (TextArray::default(), TextArray::default());
    for id in &ids {
        let Fingerprint { oid, digest } = &collections.get(*id).fingerprint;
        oids.push(Some(&oid.to_string()));
        digests.push(Some(digest));
    }
    ([oids, digests], ids.len())
}

fn concerned(generation: &Generation) -> BTreeSet<CollectionId> {
    generation.parts.iter().flat_map(|part| part.collections.keys().chain(&part.acted)).copied().collect()
}
