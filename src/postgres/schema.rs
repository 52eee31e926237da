//! The schema `forebay`: three tables, made by the daemon or, from `forebay schema`, by a DBA.

use super::{
    Action, Failure,
    lease::{Lease, within},
    quote::identifier,
    session::{self, Server, Session},
};

const SCHEMA: &str = "create schema forebay;";

const LANE_POSITION: &str = "\
create table forebay.lane_position (
    journal_id uuid not null,
    lane text not null,
    owner uuid not null,
    through int8 not null,
    version int8 not null default 1,
    updated_at timestamptz not null default now(),
    primary key (journal_id, lane)
) with (fillfactor = 50);
comment on table forebay.lane_position is 'Forebay: up to which save (through) this database holds everything of a lane. Never change it by hand.';";

const FAILED_SAVE: &str = "\
create table forebay.failed_save (
    journal_id uuid not null,
    sequence int8 not null,
    lane text not null,
    collection text not null,
    key text[] not null,
    kind text not null check (kind in ('set', 'delete', 'append')),
    body json,
    added text[] not null default '{}',
    sqlstate text,
    constraint_name text,
    message text not null,
    detail text,
    accepted_at timestamptz not null,
    failed_at timestamptz not null default now(),
    closed_at timestamptz,
    closed_reason text check (closed_reason in ('retried', 'discarded', 'overtaken')),
    closed_by int8,
    closed_note text,
    primary key (journal_id, sequence),
    check ((closed_at is null) = (closed_reason is null))
);
create index failed_save_open on forebay.failed_save (journal_id, sequence) where closed_at is null;
create index failed_save_closed on forebay.failed_save (journal_id, sequence) where closed_at is not null;
comment on table forebay.failed_save is 'Forebay: saves that were accepted and that Postgres would not take, with the reason. Open while closed_at is null; closed_by is the save that retried or overtook it, closed_note why it was discarded.';";

/// Without it, a ticket whose row was removed would look persisted.
const FAILED_HORIZON: &str = "\
create table forebay.failed_horizon (
    journal_id uuid primary key,
    through int8 not null
);
comment on table forebay.failed_horizon is 'Forebay: up to which save (through) closed rows of failed_save may have been removed. Never change it by hand.';";

/// What a DBA runs once, in one transaction.
pub fn schema_sql() -> String {
    format!("{SCHEMA}\n\n{LANE_POSITION}\n\n{FAILED_SAVE}\n\n{FAILED_HORIZON}\n")
}

/// Any number will do; it keeps two daemons that start at once from making the schema twice.
const LOCK: &str = "select pg_advisory_xact_lock(7420)";

pub(super) async fn ensure(mut lease: Lease, session: &Session) -> Result<(), Failure> {
    let missing = missing(&lease, session).await?;
    if missing.is_empty() {
        return Ok(());
    }
    lease.enter();
    let limit = session.call_timeout();
    within(limit, "begin", lease.batch_execute(session.begin_writing())).await?;
    let made = make(&lease, session).await;
    let end = if made.is_ok() { "commit" } else { "rollback" };
    within(limit, "make the schema forebay", lease.batch_execute(end)).await?;
    lease.leave();
    match made {
        Err(failure) if failure.sqlstate.as_deref() == Some("42501") => Err(explain(failure, &session::server(&lease, session).await?)),
        made => made,
    }
}

/// Looked at again under the lock.
async fn make(lease: &Lease, session: &Session) -> Result<(), Failure> {
    within(session.call_timeout(), "lock the schema forebay", lease.batch_execute(LOCK)).await?;
    for statement in missing(lease, session).await? {
        within(session.call_timeout(), "make the schema forebay", lease.batch_execute(statement)).await?;
    }
    Ok(())
}

/// The statements whose work isn't there yet. Names are looked up in the catalog itself: it needs no privilege.
async fn missing(lease: &Lease, session: &Session) -> Result<Vec<&'static str>, Failure> {
    let query = "select exists (select from pg_namespace where nspname = 'forebay'), \
                 bool_or(c.relname = 'lane_position') is true, bool_or(c.relname = 'failed_save') is true, \
                 bool_or(c.relname = 'failed_horizon') is true \
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'forebay'";
    let row = within(session.call_timeout(), "look for the schema forebay", lease.query_typed_one(query, &[])).await?;
    let mut missing = Vec::new();
    for (n, statement) in [SCHEMA, LANE_POSITION, FAILED_SAVE, FAILED_HORIZON].into_iter().enumerate() {
        if !super::reading::get::<bool>(&row, n)? {
            missing.push(statement);
        }
    }
    Ok(missing)
}

fn explain(failure: Failure, server: &Server) -> Failure {
    let (role, database) = (identifier(&server.role), identifier(&server.database));
    let grants = grants(&role).join("; ");
    let remedy = format!(
        "either `grant create on database {database} to {role}`, or let a role that may run the output of `forebay schema` and then `{grants}`"
    );
    Failure { action: Action::Halt, remedy: remedy.into(), ..failure }
}

/// What a role needs of the schema, once it is there.
pub(super) fn grants(role: &str) -> [String; 4] {
    [
        format!("grant usage on schema forebay to {role}"),
        format!("grant select, insert, update on forebay.lane_position to {role}"),
        format!("grant select, insert, update, delete on forebay.failed_save to {role}"),
        format!("grant select, insert, update on forebay.failed_horizon to {role}"),
    ]
}
