//! Reads the catalog: what tables there are and what they would take.
//!
//! With an empty search path, so that types print qualified. Only built-in result types, so that the driver asks nothing back.

use std::collections::HashMap;

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    Action, Failure, fingerprint,
    reading::{Reading, get},
};
use crate::collections::{Catalog, CatalogColumn, CatalogTable, Fingerprint, ForeignKey, Identity, Reaction, TableKind, UniqueIndex};

mod forms;

use self::forms::{BaseType, Types};

/// Triggers on a partition fire for rows that come through the partitioned table, and rows are as safe there as their partition
/// is. tgtype 1: for each row, 2: before, 4: insert, 16: update.
const TABLES: &str = "\
with listed as (
    select c.oid, n.nspname, c.relname, c.relkind, c.relispartition
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any($1) and c.relkind in ('r', 'p', 'v', 'm', 'f')
), parts as (
    select oid as root, oid from listed union select l.oid, p.relid from listed l, pg_partition_tree(l.oid) p where l.relkind = 'p'
), wholes as (
    select parts.root, bool_or(c.relkind = 'f') as any_foreign, bool_or(c.relpersistence = 'u') as any_unlogged,
        bool_or(exists (select from pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled <> 'D'
            and g.tgtype & 3 = 3 and g.tgtype & 20 <> 0)) as triggers_skip
    from parts join pg_class c using (oid) group by parts.root
)
select l.oid::int8, l.nspname::text, l.relname::text, case when w.any_foreign then 'f' else l.relkind::text end, l.relispartition,
    w.any_unlogged, w.triggers_skip,
    exists (select from pg_rewrite r where r.ev_class = l.oid and r.ev_type <> '1' and r.ev_enabled <> 'D')
from listed l join wholes w on w.root = l.oid
order by array_position($1, l.nspname::text), l.relname";

/// A domain is followed down to its base type; the innermost declares the length. A value is cast to the type without its modifier,
/// which only the assignment applies, except where the modifier says how its text is read: "5" is five years in an `interval
/// year`; and the members of arrays and composites are assigned one by one.
const COLUMNS: &str = "\
with recursive col as (
    select a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity, a.attgenerated, a.attcollation
    from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any($1) and c.relkind in ('r', 'p', 'v', 'm', 'f') and a.attnum > 0 and not a.attisdropped
), chain as (
    select attrelid, attnum, atttypid as typid, atttypmod as typmod, 0 as depth, false as not_null from col
    union all
    select h.attrelid, h.attnum, t.typbasetype, t.typtypmod, h.depth + 1, h.not_null or t.typnotnull
    from chain h join pg_type t on t.oid = h.typid where t.typtype = 'd'
), base as (
    select distinct on (attrelid, attnum) attrelid, attnum, typid, typmod, not_null from chain order by attrelid, attnum, depth desc
)
select col.attrelid::int8, col.attname::text,
    format_type(t.oid, case when t.oid = 'interval'::regtype or t.typcategory = 'A' then base.typmod else -1 end),
    t.oid::int8, t.typtype::text, base.typmod::int8,
    col.attnotnull or base.not_null, col.attidentity::text, col.attgenerated <> '', coalesce(l.collisdeterministic, true),
    array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder)
from col join base using (attrelid, attnum) join pg_type t on t.oid = base.typid left join pg_collation l on l.oid = col.attcollation
order by col.attrelid, col.attnum";

/// The key columns only, not those of `include`. An index may compare by a collation of its own, under which other texts are equal.
const UNIQUE: &str = "\
select i.indrelid::int8,
    array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality as k(attnum, n)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum where k.n <= i.indnkeyatts order by k.n),
    i.indisprimary, coalesce(o.condeferrable, false)
from pg_index i join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
left join pg_constraint o on o.conindid = i.indexrelid and o.conrelid = i.indrelid and o.contype in ('p', 'u')
where n.nspname = any($1) and i.indisunique and i.indisvalid and i.indexprs is null and i.indpred is null
    and (i.indisprimary or not exists (select from unnest(i.indcollation::oid[]) as k(oid)
        join pg_collation l on l.oid = k.oid where not l.collisdeterministic))
order by i.indrelid, not i.indisprimary, i.indexrelid";

/// Everywhere: what a delete does to others may pass through tables of schemas that aren't ours. Those of a partition that are
/// no copies of its parent's count as the parent's.
const FOREIGN_KEYS: &str = "\
select o.conname::text, nf.nspname::text, f.relname::text,
    array(select a.attname::text from unnest(o.conkey) with ordinality as k(attnum, n)
        join pg_attribute a on a.attrelid = o.conrelid and a.attnum = k.attnum order by k.n),
    nt.nspname::text, t.relname::text,
    array(select a.attname::text from unnest(o.confkey) with ordinality as k(attnum, n)
        join pg_attribute a on a.attrelid = o.confrelid and a.attnum = k.attnum order by k.n),
    o.confdeltype::text, o.confupdtype::text, o.condeferrable
from pg_constraint o
join pg_class f on f.oid = coalesce(pg_partition_root(o.conrelid), o.conrelid) join pg_namespace nf on nf.oid = f.relnamespace
join pg_class t on t.oid = coalesce(pg_partition_root(o.confrelid), o.confrelid) join pg_namespace nt on nt.oid = t.relnamespace
where o.contype = 'f' and o.conparentid = 0
order by nf.nspname, f.relname, o.conname";

pub(super) async fn read(reading: &Reading, schemas: &[String]) -> Result<Catalog, Failure> {
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&schemas, Type::TEXT_ARRAY)];
    let mut tables = Vec::new();
    let mut places = HashMap::new();
    for row in reading.rows(TABLES, &params).await? {
        places.insert(get::<i64>(&row, 0)?, tables.len());
        tables.push(table(&row)?);
    }
    let types = Types::read(reading, &params).await?;
    for row in reading.rows(COLUMNS, &params).await? {
        if let Some(&place) = places.get(&get::<i64>(&row, 0)?) {
            tables[place].columns.push(column(&row, &types)?);
        }
    }
    for row in reading.rows(UNIQUE, &params).await? {
        if let Some(&place) = places.get(&get::<i64>(&row, 0)?) {
            tables[place].unique.push(UniqueIndex { columns: get(&row, 1)?, primary: get(&row, 2)?, deferrable: get(&row, 3)? });
        }
    }
    let oids: Vec<_> = places.keys().map(i64::to_string).collect();
    for row in reading.rows(&fingerprint::read(), &[(&oids, Type::TEXT_ARRAY)]).await? {
        tables[places[&get::<i64>(&row, 0)?]].fingerprint.digest = get(&row, 1)?;
    }
    let foreign_keys = reading.rows(FOREIGN_KEYS, &[]).await?.iter().map(foreign_key).collect::<Result<_, _>>()?;
    Ok(Catalog { tables, foreign_keys })
}

fn table(row: &Row) -> Result<CatalogTable, Failure> {
    let kind = match (get(row, 3)?, get(row, 4)?) {
        ("r" | "p", true) => TableKind::Partition,
        ("r", false) => TableKind::Ordinary,
        ("p", false) => TableKind::Partitioned,
        ("v", _) => TableKind::View,
        ("m", _) => TableKind::MaterializedView,
        ("f", _) => TableKind::Foreign,
        (other, _) => return Err(unknown("relkind", other)),
    };
    Ok(CatalogTable {
        schema: get(row, 1)?,
        name: get(row, 2)?,
        kind,
        unlogged: get(row, 5)?,
        columns: Vec::new(),
        unique: Vec::new(),
        triggers_skip: get(row, 6)?,
        rules: get(row, 7)?,
        fingerprint: Fingerprint { oid: oid(row)?, digest: String::new() },
    })
}

fn oid(row: &Row) -> Result<u32, Failure> {
    Ok(u32::try_from(get::<i64>(row, 0)?).expect("an oid"))
}

fn column(row: &Row, types: &Types) -> Result<CatalogColumn, Failure> {
    let base = BaseType { oid: get::<i64>(row, 3)?, kind: get(row, 4)?, modifier: get::<i64>(row, 5)?, deterministic: get(row, 9)? };
    Ok(CatalogColumn {
        name: get(row, 1)?,
        cast: get(row, 2)?,
        form: types.form_of_column(base.oid, base.modifier),
        key_form: base.key_form(get(row, 10)?),
        number: base.number(),
        not_null: get(row, 6)?,
        identity: match get(row, 7)? {
            "" => Identity::No,
            "d" => Identity::ByDefault,
            "a" => Identity::Always,
            other => return Err(unknown("attidentity", other)),
        },
        generated: get(row, 8)?,
    })
}

fn foreign_key(row: &Row) -> Result<ForeignKey, Failure> {
    Ok(ForeignKey {
        name: get(row, 0)?,
        from: (get(row, 1)?, get(row, 2)?),
        from_columns: get(row, 3)?,
        to: (get(row, 4)?, get(row, 5)?),
        to_columns: get(row, 6)?,
        on_delete: reaction(get(row, 7)?)?,
        on_update: reaction(get(row, 8)?)?,
        deferrable: get(row, 9)?,
    })
}

fn reaction(code: &str) -> Result<Reaction, Failure> {
    match code {
        "a" => Ok(Reaction::NoAction),
        "r" => Ok(Reaction::Restrict),
        "c" => Ok(Reaction::Cascade),
        "n" => Ok(Reaction::SetNull),
        "d" => Ok(Reaction::SetDefault),
        other => Err(unknown("foreign-key action", other)),
    }
}

fn unknown(what: &str, code: &str) -> Failure {
    Failure::local(Action::Halt, format!("the catalog holds a {what} {code:?} that this version of Forebay doesn't know"))
}
