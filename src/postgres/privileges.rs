//! What the role lacks, told before the first save meets it.

use tokio_postgres::types::Type;

use super::{
    Failure,
    reading::{Reading, get},
    schema,
};
use crate::collections::{Collections, Mode};

/// Per table: what it takes to write it. Sequences are those of serial columns; identity needs no privilege.
const TABLES: &str = "select format('grant %s on %I.%I to %I', wanted.privilege, n.nspname, c.relname, current_user) \
     from unnest($1, $2, $3) as wanted(schema, name, privilege) \
     join pg_namespace n on n.nspname = wanted.schema join pg_class c on c.relnamespace = n.oid and c.relname = wanted.name \
     where not case when wanted.privilege = 'delete' then has_table_privilege(c.oid, 'delete') \
                    else has_any_column_privilege(c.oid, wanted.privilege) end";

const SEQUENCES: &str = "select distinct format('grant usage on sequence %s to %I', s.oid::regclass, current_user) \
     from unnest($1, $2) as wanted(schema, name) \
     join pg_namespace n on n.nspname = wanted.schema join pg_class c on c.relnamespace = n.oid and c.relname = wanted.name \
     join pg_depend d on d.refobjid = c.oid and d.refclassid = 'pg_class'::regclass and d.classid = 'pg_class'::regclass and d.deptype = 'a' \
     join pg_class s on s.oid = d.objid where case when s.relkind = 'S' then not has_sequence_privilege(s.oid, 'usage') end order by 1";

const SCHEMAS: &str = "select distinct format('grant usage on schema %I to %I', nspname, current_user) from pg_namespace \
     where nspname = any($1) and not has_schema_privilege(oid, 'usage') order by 1";

pub(super) async fn missing(reading: &Reading, collections: &Collections) -> Result<Vec<String>, Failure> {
    let (mut schemas, mut names, mut privileges) = (Vec::new(), Vec::new(), Vec::new());
    for collection in collections.iter() {
        let wanted: &[_] = match collection.mode {
            Mode::Upsert => &["select", "insert", "update", "delete"],
            Mode::Append => &["insert"],
        };
        for privilege in wanted {
            schemas.push(collection.schema.clone());
            names.push(collection.table.clone());
            privileges.push(*privilege);
        }
    }
    let mut missing = texts(reading, SCHEMAS, &[&schemas]).await?;
    missing.extend(tables(reading, &schemas, &names, &privileges).await?);
    missing.extend(texts(reading, SEQUENCES, &[&schemas, &names]).await?);
    missing.extend(own_tables(reading).await?);
    Ok(missing)
}

async fn tables(reading: &Reading, schemas: &[String], names: &[String], privileges: &[&str]) -> Result<Vec<String>, Failure> {
    let params = [(&schemas as _, Type::TEXT_ARRAY), (&names as _, Type::TEXT_ARRAY), (&privileges as _, Type::TEXT_ARRAY)];
    reading.rows(TABLES, &params).await?.iter().map(|row| get(row, 0)).collect()
}

async fn texts(reading: &Reading, query: &str, lists: &[&Vec<String>]) -> Result<Vec<String>, Failure> {
    let params: Vec<_> = lists.iter().map(|list| (list as _, Type::TEXT_ARRAY)).collect();
    reading.rows(query, &params).await?.iter().map(|row| get(row, 0)).collect()
}

/// Our own three tables, once they are there.
async fn own_tables(reading: &Reading) -> Result<Vec<String>, Failure> {
    let query = "select quote_ident(current_user), \
        has_schema_privilege(n.oid, 'usage'), \
        coalesce(bool_and(has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert') and has_table_privilege(c.oid, 'update')) \
            filter (where c.relname = 'lane_position'), true), \
        coalesce(bool_and(has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert') and has_table_privilege(c.oid, 'update') \
            and has_table_privilege(c.oid, 'delete')) filter (where c.relname = 'failed_save'), true), \
        coalesce(bool_and(has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert') and has_table_privilege(c.oid, 'update')) \
            filter (where c.relname = 'failed_horizon'), true) \
        from pg_namespace n left join pg_class c on c.relnamespace = n.oid \
            and c.relname in ('lane_position', 'failed_save', 'failed_horizon') \
        where n.nspname = 'forebay' group by n.oid";
    let rows = reading.rows(query, &[]).await?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let role: &str = get(row, 0)?;
    let mut missing = Vec::new();
    for (n, grant) in (1..).zip(schema::grants(role)) {
        if !get::<bool>(row, n)? {
            missing.push(grant);
        }
    }
    Ok(missing)
}
