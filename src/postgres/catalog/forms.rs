//! From the types of columns to the forms of their values, as values and as keys. A type is followed into what it is made of.

use std::collections::HashMap;

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::super::{
    Failure,
    reading::{Reading, get},
};
use crate::{
    collections::{KeyForm, ValueForm},
    save::NumberForm,
};

/// Every type that a column has, and what it is made of: a domain's base, an array's elements, a range's bounds, a multirange's
/// range. (Multiranges came with version 14: reading their column through JSON works on all.)
const TYPES: &str = "\
with recursive made_of(oid) as (
    select a.atttypid from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any($1) and c.relkind in ('r', 'p', 'v', 'm', 'f') and a.attnum > 0 and not a.attisdropped
    union
    select p.oid from made_of m join pg_type t on t.oid = m.oid, lateral (
        select t.typbasetype where t.typtype = 'd'
        union all select t.typelem where t.typcategory = 'A'
        union all select g.rngsubtype from pg_range g where g.rngtypid = t.oid
        union all select g.rngtypid from pg_range g where t.typtype = 'm' and to_jsonb(g)->>'rngmultitypid' = t.oid::text
        union all select a.atttypid from pg_attribute a
            where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ) as p(oid)
)
select t.oid::int8, t.typtype::text, t.typcategory::text,
    coalesce((case t.typtype when 'd' then t.typbasetype
        when 'r' then (select g.rngsubtype from pg_range g where g.rngtypid = t.oid)
        when 'm' then (select g.rngtypid from pg_range g where to_jsonb(g)->>'rngmultitypid' = t.oid::text)
        else case when t.typcategory = 'A' then t.typelem end end)::int8, 0),
    array(select a.attname::text from pg_attribute a where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0
        and not a.attisdropped order by a.attnum),
    array(select a.atttypid::int8 from pg_attribute a where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0
        and not a.attisdropped order by a.attnum)
from pg_type t where t.oid in (select m.oid from made_of m)";

/// The types of all columns, by oid.
pub(super) struct Types(HashMap<i64, Made>);

/// What a type is made of.
struct Made {
    kind: String,
    category: String,
    /// The base of a domain, the elements of an array, the bounds of a range, the range of a multirange.
    of: i64,
    /// The attributes of a composite.
    attributes: Vec<(String, i64)>,
}

impl Types {
    pub(super) async fn read(reading: &Reading, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Self, Failure> {
        let rows = reading.rows(TYPES, params).await?;
        rows.iter().map(|row| Ok((get(row, 0)?, made(row)?))).collect::<Result<_, _>>().map(Self)
    }

    /// The form of a column's values.
    pub(super) fn form_of_column(&self, oid: i64, modifier: i64) -> ValueForm {
        if modifier >= 0 && oid == i64::from(Type::INTERVAL.oid()) { ValueForm::Interval } else { self.form(oid) }
    }

    /// The form of a type's values. Ends: no type is made of itself.
    fn form(&self, oid: i64) -> ValueForm {
        match u32::try_from(oid).ok().and_then(Type::from_oid) {
            Some(Type::JSON | Type::JSONB) => return ValueForm::Json,
            Some(Type::DATE | Type::TIME | Type::TIMETZ | Type::TIMESTAMP | Type::TIMESTAMPTZ) => return ValueForm::Time,
            // Arrays by category only: their text is numbers with blanks between.
            Some(Type::INT2_VECTOR | Type::OID_VECTOR) => return ValueForm::Scalar,
            Some(known) if is_internal(&known) => return ValueForm::Internal,
            _ => {}
        }
        let Some(made) = self.0.get(&oid) else { return ValueForm::Scalar };
        match (made.kind.as_str(), made.category.as_str()) {
            ("d", _) => self.form(made.of),
            ("c", _) => ValueForm::Composite(made.attributes.iter().map(|(name, oid)| (name.clone(), self.form(*oid))).collect()),
            // Their text holds that of the bounds.
            ("r" | "m", _) => match self.form(made.of) {
                ValueForm::Time => ValueForm::Time,
                _ => ValueForm::Scalar,
            },
            (_, "A") if made.of != 0 => ValueForm::Array(Box::new(self.form(made.of))),
            _ => ValueForm::Scalar,
        }
    }
}

fn made(row: &Row) -> Result<Made, Failure> {
    let (names, oids): (Vec<String>, Vec<i64>) = (get(row, 4)?, get(row, 5)?);
    Ok(Made { kind: get(row, 1)?, category: get(row, 2)?, of: get(row, 3)?, attributes: names.into_iter().zip(oids).collect() })
}

/// Their input functions say "cannot accept a value".
fn is_internal(known: &Type) -> bool {
    [
        Type::PG_NODE_TREE,
        Type::PG_NDISTINCT,
        Type::PG_DEPENDENCIES,
        Type::PG_MCV_LIST,
        Type::PG_BRIN_BLOOM_SUMMARY,
        Type::PG_BRIN_MINMAX_MULTI_SUMMARY,
        Type::GTS_VECTOR,
    ]
    .contains(known)
}

/// A column's type below all domains.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseType<'a> {
    pub(super) oid: i64,
    pub(super) kind: &'a str,
    pub(super) modifier: i64,
    pub(super) deterministic: bool,
}

impl BaseType<'_> {
    /// The canonical form of its values as keys, if they have one.
    pub(super) fn key_form(self, labels: Vec<String>) -> Option<KeyForm> {
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

    /// As what is added to it; `None` if nothing is.
    pub(super) fn number(self) -> Option<NumberForm> {
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
