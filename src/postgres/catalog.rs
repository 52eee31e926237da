//! Reads the catalog: what tables there are and what they would take.
//!
//! With an empty search path, so that types print qualified. Only built-in result types, so that the driver asks nothing back.

use std::collections::HashMap;

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    Action, Failure,
    reading::{Reading, get},
};
use crate::{
    collections::{Catalog, CatalogColumn, CatalogTable, ForeignKey, Identity, KeyForm, Reaction, TableKind, UniqueIndex, ValueForm},
    save::NumberForm,
};

/// A trigger on a partition fires for rows that come through the partitioned table. tgtype 4: insert.
const TABLES: &str = "\
select c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relispartition, c.relpersistence = 'u',
    exists (select from pg_trigger g where not g.tgisinternal and g.tgtype & 4 <> 0 and g.tgenabled <> 'D'
        and (g.tgrelid = c.oid or g.tgrelid in (select p.relid from pg_partition_tree(c.oid) p)))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = any($1) and c.relkind in ('r', 'p', 'v', 'm', 'f')
order by array_position($1, n.nspname::text), c.relname";

/// A domain is followed down to its base type; the innermost declares the length.
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
select col.attrelid::int8, col.attname::text, format_type(t.oid, -1), t.oid::int8, t.typtype::text, t.typcategory::text, base.typmod::int8,
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

/// Either end in our schemas; those of partitions are copies of their parent's.
const FOREIGN_KEYS: &str = "\
select o.conname::text, nf.nspname::text, f.relname::text,
    array(select a.attname::text from unnest(o.conkey) with ordinality as k(attnum, n)
        join pg_attribute a on a.attrelid = o.conrelid and a.attnum = k.attnum order by k.n),
    nt.nspname::text, t.relname::text,
    array(select a.attname::text from unnest(o.confkey) with ordinality as k(attnum, n)
        join pg_attribute a on a.attrelid = o.confrelid and a.attnum = k.attnum order by k.n),
    o.confdeltype::text, o.confupdtype::text, o.condeferrable
from pg_constraint o
join pg_class f on f.oid = o.conrelid join pg_namespace nf on nf.oid = f.relnamespace
join pg_class t on t.oid = o.confrelid join pg_namespace nt on nt.oid = t.relnamespace
where o.contype = 'f' and o.conparentid = 0 and (nf.nspname = any($1) or nt.nspname = any($1))
order by nf.nspname, f.relname, o.conname";

pub(super) async fn read(reading: &Reading, schemas: &[String]) -> Result<Catalog, Failure> {
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&schemas, Type::TEXT_ARRAY)];
    let mut tables = Vec::new();
    let mut places = HashMap::new();
    for row in reading.rows(TABLES, &params).await? {
        places.insert(get::<i64>(&row, 0)?, tables.len());
        tables.push(table(&row)?);
    }
    for row in reading.rows(COLUMNS, &params).await? {
        if let Some(&place) = places.get(&get::<i64>(&row, 0)?) {
            tables[place].columns.push(column(&row)?);
        }
    }
    for row in reading.rows(UNIQUE, &params).await? {
        if let Some(&place) = places.get(&get::<i64>(&row, 0)?) {
            tables[place].unique.push(UniqueIndex { columns: get(&row, 1)?, primary: get(&row, 2)?, deferrable: get(&row, 3)? });
        }
    }
    let foreign_keys = reading.rows(FOREIGN_KEYS, &params).await?.iter().map(foreign_key).collect::<Result<_, _>>()?;
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
        insert_triggers: get(row, 6)?,
    })
}

fn column(row: &Row) -> Result<CatalogColumn, Failure> {
    let base = BaseType {
        oid: get::<i64>(row, 3)?,
        kind: get(row, 4)?,
        category: get(row, 5)?,
        modifier: get::<i64>(row, 6)?,
        deterministic: get(row, 10)?,
    };
    Ok(CatalogColumn {
        name: get(row, 1)?,
        cast: get(row, 2)?,
        form: base.form(),
        key_form: base.key_form(get(row, 11)?),
        number: base.number(),
        not_null: get(row, 7)?,
        identity: match get(row, 8)? {
            "" => Identity::No,
            "d" => Identity::ByDefault,
            "a" => Identity::Always,
            other => return Err(unknown("attidentity", other)),
        },
        generated: get(row, 9)?,
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

/// A column's type below all domains.
#[derive(Clone, Copy, Debug)]
struct BaseType<'a> {
    oid: i64,
    kind: &'a str,
    category: &'a str,
    modifier: i64,
    deterministic: bool,
}

impl BaseType<'_> {
    fn form(self) -> ValueForm {
        let built_in = u32::try_from(self.oid).ok().and_then(Type::from_oid);
        match built_in {
            Some(Type::JSON | Type::JSONB) => ValueForm::Json,
            Some(Type::DATE | Type::TIME | Type::TIMETZ | Type::TIMESTAMP | Type::TIMESTAMPTZ) => ValueForm::Time,
            _ if self.category == "A" || self.kind == "c" => ValueForm::Structured,
            _ => ValueForm::Scalar,
        }
    }

    fn key_form(self, labels: Vec<String>) -> Option<KeyForm> {
        if self.kind == "e" {
            return Some(KeyForm::Enum { labels });
        }
        match u32::try_from(self.oid).ok().and_then(Type::from_oid)? {
            Type::INT2 => Some(KeyForm::Int2),
            Type::INT4 => Some(KeyForm::Int4),
            Type::INT8 => Some(KeyForm::Int8),
            Type::UUID => Some(KeyForm::Uuid),
            Type::BOOL => Some(KeyForm::Bool),
            Type::BYTEA => Some(KeyForm::Bytea),
            Type::DATE => Some(KeyForm::Date),
            // A declared precision would round the key.
            Type::TIMESTAMP if self.keeps_microseconds() => Some(KeyForm::Timestamp),
            Type::TIMESTAMPTZ if self.keeps_microseconds() => Some(KeyForm::TimestampTz),
            Type::TEXT if self.deterministic => Some(KeyForm::Text { chars_max: None }),
            Type::VARCHAR if self.deterministic => Some(KeyForm::Text { chars_max: self.declared() }),
            Type::NUMERIC => match self.number()? {
                NumberForm::Numeric { precision, scale } => {
                    let (precision, scale) = (u32::from(precision), u32::try_from(scale).ok()?);
                    (scale <= precision).then_some(KeyForm::Numeric { precision, scale })
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn keeps_microseconds(self) -> bool {
        matches!(self.modifier, -1 | 6)
    }

    /// Modifiers of varchar and numeric are stored with the four bytes of a length header added.
    fn declared(self) -> Option<u32> {
        u32::try_from(self.modifier - 4).ok()
    }

    fn number(self) -> Option<NumberForm> {
        match u32::try_from(self.oid).ok().and_then(Type::from_oid)? {
            Type::INT2 => Some(NumberForm::Integer { bits: 16 }),
            Type::INT4 => Some(NumberForm::Integer { bits: 32 }),
            Type::INT8 => Some(NumberForm::Integer { bits: 64 }),
            Type::NUMERIC => Some(self.declared().map_or(NumberForm::Unbounded, numeric)),
            _ => None,
        }
    }
}

/// Precision in the upper half, the scale below it: eleven bits, signed since version 15.
fn numeric(declared: u32) -> NumberForm {
    let scale = (declared & 0x7ff) as i16;
    NumberForm::Numeric { precision: (declared >> 16) as u16, scale: if scale < 0x400 { scale } else { scale - 0x800 } }
}
