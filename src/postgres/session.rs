//! What holds in every transaction of ours, and on which servers.

use std::{fmt::Write, time::Duration};

use tokio_postgres::Client;

use super::{Action, Failure, lease::within, quote::identifier};
use crate::settings::{PostgresSettings, SynchronousCommit};

/// The settings of our sessions, as text ready to be sent. Everything is `set local`: it works through a pooler that gives
/// every transaction another connection.
#[derive(Debug)]
pub(super) struct Session {
    begin_writing: String,
    begin_reading: String,
    begin_rows: String,
    call_timeout: Duration,
    allow_fsync_off: bool,
    schemas: Vec<String>,
}

impl Session {
    pub(super) fn new(settings: &PostgresSettings) -> Self {
        Self {
            begin_writing: begin_writing(settings),
            begin_reading: begin_reading(settings),
            begin_rows: begin_rows(settings),
            call_timeout: settings.statement_timeout + settings.answer_grace,
            allow_fsync_off: settings.allow_fsync_off,
            schemas: settings.schemas.clone(),
        }
    }

    /// One simple query that opens a writing transaction with everything set.
    pub(super) fn begin_writing(&self) -> &str {
        &self.begin_writing
    }

    /// The same for a snapshot that only reads, with an empty search path: types print qualified.
    pub(super) fn begin_reading(&self) -> &str {
        &self.begin_reading
    }

    /// The same for rows, whose values print as keys and clients have them.
    pub(super) fn begin_rows(&self) -> &str {
        &self.begin_rows
    }

    /// Our own limit for every call.
    pub(super) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    pub(super) fn schemas(&self) -> &[String] {
        &self.schemas
    }
}

fn begin_writing(settings: &PostgresSettings) -> String {
    let mut sql = String::from("begin isolation level read committed read write");
    let synchronous_commit = match settings.synchronous_commit {
        SynchronousCommit::Local => "local",
        SynchronousCommit::On => "on",
        SynchronousCommit::RemoteWrite => "remote_write",
        SynchronousCommit::RemoteApply => "remote_apply",
    };
    for (name, value) in [
        ("client_encoding", "utf8"),
        ("standard_conforming_strings", "on"),
        ("timezone", "utc"),
        ("datestyle", "iso"),
        ("intervalstyle", "postgres"),
        ("synchronous_commit", synchronous_commit),
        // The keys come through their index: one plan for tables of every size and statistics of every age, and rows are locked
        // in the order of the keys. Compiling such a plan would cost more than running it.
        ("enable_seqscan", "off"),
        ("jit", "off"),
    ] {
        let _ = write!(sql, "; set local {name} = {value}");
    }
    timeouts(&mut sql, settings);
    // Our own names are all qualified. The search path is for functions of triggers that say `insert into audit ...`.
    let schemas: Vec<_> = settings.schemas.iter().map(|schema| identifier(schema)).collect();
    let _ = write!(sql, "; set local search_path = {}", schemas.join(", "));
    sql + "; set constraints all deferred"
}

fn begin_reading(settings: &PostgresSettings) -> String {
    let mut sql =
        String::from("begin isolation level repeatable read read only; set local client_encoding = utf8; set local search_path = ''");
    // Compiling a plan over the catalog would cost more than running it.
    sql.push_str("; set local timezone = utc; set local datestyle = iso; set local jit = off");
    timeouts(&mut sql, settings);
    sql
}

fn begin_rows(settings: &PostgresSettings) -> String {
    let mut sql = begin_reading(settings);
    for (name, value) in [("intervalstyle", "postgres"), ("bytea_output", "hex"), ("extra_float_digits", "1"), ("enable_seqscan", "off")] {
        let _ = write!(sql, "; set local {name} = {value}");
    }
    sql
}

fn timeouts(sql: &mut String, settings: &PostgresSettings) {
    for (name, limit) in [
        ("statement_timeout", settings.statement_timeout),
        ("lock_timeout", settings.lock_timeout),
        ("idle_in_transaction_session_timeout", settings.idle_in_transaction_timeout),
    ] {
        let _ = write!(sql, "; set local {name} = '{}ms'", limit.as_millis());
    }
}

/// What kind of server is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `server_version`
    pub version: String,
    /// `server_version_num`
    pub version_number: u32,
    /// `fsync`: whether what it has committed survives a power cut.
    pub fsync: bool,
    /// A standby, or set read only.
    pub read_only: bool,
    /// Whom we are there.
    pub role: String,
    /// The database.
    pub database: String,
}

impl Server {
    /// The oldest version that is tested.
    const VERSION_MIN: u32 = 130_000;

    pub(super) fn check_writable(&self, session: &Session) -> Result<(), Failure> {
        let refuse = |action, why: String, remedy: &str| Err(Failure { remedy: remedy.into(), ..Failure::local(action, why) });
        if self.version_number < Self::VERSION_MIN {
            let why = format!("Postgres {} is too old", self.version);
            return refuse(Action::Halt, why, "use version 13 or newer");
        }
        if !self.fsync && !session.allow_fsync_off {
            let why = "Postgres runs with fsync = off: a power cut there would lose what Forebay has forgotten".to_owned();
            return refuse(Action::Halt, why, "turn fsync on, or set `postgres.allow_fsync_off` if the data may be lost");
        }
        if self.read_only {
            let remedy = super::sqlstate::remedy("25006");
            return refuse(Action::Reconnect, "Postgres is read only (a standby?)".to_owned(), remedy);
        }
        Ok(())
    }
}

pub(super) async fn server(client: &Client, session: &Session) -> Result<Server, Failure> {
    let query = "select current_setting('server_version'), current_setting('server_version_num')::int8, current_setting('fsync')::bool, \
                 current_setting('transaction_read_only')::bool, current_user::text, current_database()::text";
    let row = within(session.call_timeout, "ask Postgres for its version", client.query_typed_one(query, &[])).await?;
    let get = |error| Failure::from_error(&error, super::sqlstate::Phase::BeforeCommit);
    Ok(Server {
        version: row.try_get(0).map_err(get)?,
        version_number: u32::try_from(row.try_get::<_, i64>(1).map_err(get)?).unwrap_or(0),
        fsync: row.try_get(2).map_err(get)?,
        read_only: row.try_get(3).map_err(get)?,
        role: row.try_get(4).map_err(get)?,
        database: row.try_get(5).map_err(get)?,
    })
}
