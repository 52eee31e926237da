//! What an operator can set: typed, with defaults, checked as a whole before anything starts.
//!
//! Precedence, low to high: built-in default, file, environment (`FOREBAY__SECTION__KEY`), flags
//! (`--set section.key=value`). `DATABASE_URL` ranks below all for `postgres.url`. Unknown keys are refused.
//!
//! One table, `keys`, holds every key with its unit and range: all three sources, the listing of `forebay check` and the
//! test of `config/forebay.toml` read it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::collections::{CollectionRules, CollectionSettings, Lanes};

mod check;
mod default;
mod endpoints;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod keys;
mod kinds;
mod lanes;
mod load;
mod nearest;
mod problem;
mod secret;
mod sources;

pub use endpoints::{EndpointUrl, signing_key};
pub use kinds::parse_time;
pub use load::{Listed, Loaded};
pub use problem::{Origin, Problem, SettingsError};
pub use secret::Secret;

/// Everything an operator can set. Field names are the keys of `config/forebay.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[grpc]`
    pub grpc: GrpcSettings,
    /// `[http]`
    pub http: HttpSettings,
    /// `[journal]`
    pub journal: JournalSettings,
    /// `[backlog]`
    pub backlog: BacklogSettings,
    /// `[drain]`
    pub drain: DrainSettings,
    /// `[postgres]`
    pub postgres: PostgresSettings,
    /// `[failed]`
    pub failed: FailedSettings,
    /// `[request_ids]`
    pub request_ids: RequestIdSettings,
    /// `[callbacks]`
    pub callbacks: CallbackSettings,
    /// `[stop]`
    pub stop: StopSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[lanes.NAME]`; there is always one named `default`.
    pub lanes: BTreeMap<String, LaneSettings>,
    /// `[collections.NAME]`
    pub collections: BTreeMap<String, CollectionSettings>,
    /// `[endpoints.NAME]`
    pub endpoints: BTreeMap<String, EndpointSettings>,
}

/// The front door.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcSettings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Open connections.
    pub connections_max: u64,
    /// Calls that one connection may have open at once.
    pub streams_per_connection_max: u32,
    /// Saving calls in flight over all connections.
    pub calls_in_flight_max: u64,
    /// Waiting calls (PERSISTED, AwaitTicket, WatchOutcomes, Load, Flush).
    pub awaiting_calls_max: u64,
    /// Open save streams.
    pub save_streams_max: u64,
    /// Saves of one stream that are not acknowledged yet.
    pub stream_unacknowledged_max: u64,
    /// A request message.
    pub message_bytes_max: u64,
    /// Messages that are not whole yet, all together.
    pub receiving_bytes_max: u64,
    /// Silence in the middle of a message, or before the one that a call takes.
    pub message_timeout: Duration,
    /// The JSON body of one save.
    pub body_bytes_max: u64,
    /// All parts of one key together.
    pub key_bytes_max: u64,
    /// Saves in one batch or stream message.
    pub batch_saves_max: u64,
    /// All headers of a request.
    pub header_bytes_max: u32,
    /// From accept to the end of the HTTP/2 preface and settings.
    pub handshake_timeout: Duration,
    /// From accept to the first byte.
    pub first_byte_timeout: Duration,
    /// HTTP/2 ping when a connection is silent.
    pub keepalive_interval: Duration,
    /// Time to answer that ping.
    pub keepalive_timeout: Duration,
}

/// Metrics and probes.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSettings {
    /// Address to listen on.
    pub listen: SocketAddr,
}

/// The journal.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalSettings {
    /// Where it lives: `$STATE_DIRECTORY`, else `./forebay-data`.
    pub directory: PathBuf,
    /// Journal bytes of what is not drained.
    pub bytes_max: u64,
    /// Free space of the file system below which saves are refused.
    pub free_bytes_min: u64,
    /// Size at which a segment is followed by the next.
    pub segment_bytes: u64,
    /// Bytes of one group.
    pub group_bytes_max: u64,
    /// Saves of one group.
    pub group_saves_max: u64,
    /// Encoded saves waiting for the journal's thread.
    pub inbox_bytes_max: u64,
    /// How long drained groups stay.
    pub retention: Duration,
    /// How many bytes of drained groups stay.
    pub retention_bytes_max: u64,
    /// A sync that takes longer is logged.
    pub sync_warn: Duration,
    /// A sync that takes longer is a failed disk (fail stop).
    pub sync_timeout: Duration,
}

/// The backlog.
#[derive(Clone, Debug, PartialEq)]
pub struct BacklogSettings {
    /// Bytes of what is not in Postgres yet.
    pub bytes_max: u64,
    /// Objects that are not in Postgres yet.
    pub objects_max: u64,
}

/// The drain.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainSettings {
    /// Rows per statement at the start; then as many as take `statement_target`.
    pub statement_rows: u64,
    /// How long a statement is to take.
    pub statement_target: Duration,
    /// Objects of one generation.
    pub generation_objects_max: u64,
    /// Rows a second that all lanes together write at the most; 0 is none.
    pub rows_per_second_max: u64,
    /// First wait after an error that passes.
    pub retry_wait_min: Duration,
    /// Longest wait after an error that passes; full jitter.
    pub retry_wait_max: Duration,
    /// How long a lane stands in front of a save whose statement Postgres doesn't take, before that becomes a failed save.
    pub halt_wait: Duration,
    /// How long a save that violates a foreign key is tried again: its parent may come through another daemon. 0 is exact.
    pub relational_retry: Duration,
    /// What to do when Postgres turns out to have gone back in time.
    pub on_rewind: OnRewind,
}

/// When the position in Postgres is behind ours: a restored backup, a stale standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRewind {
    /// Write again from the journal what was lost, as if the saves arrived now.
    #[default]
    Reapply,
    /// Halt until a person says `forebay resume`.
    Halt,
}

/// Postgres.
#[derive(Clone, Debug, PartialEq)]
pub struct PostgresSettings {
    /// Connection string or URL; read it with [`PostgresSettings::url`].
    pub url: Option<Secret>,
    /// Schemas whose tables are collections; the first needs no prefix.
    pub schemas: Vec<String>,
    /// Connections beside the writers.
    pub readers: u16,
    /// How long the very first start, which has no catalog yet, waits for Postgres.
    pub first_wait: Duration,
    /// The whole handshake.
    pub connect_timeout: Duration,
    /// `statement_timeout` of our sessions.
    pub statement_timeout: Duration,
    /// How much longer than that we wait for an answer.
    pub answer_grace: Duration,
    /// `lock_timeout`
    pub lock_timeout: Duration,
    /// `idle_in_transaction_session_timeout`
    pub idle_in_transaction_timeout: Duration,
    /// `synchronous_commit` of our transactions.
    pub synchronous_commit: SynchronousCommit,
    /// Work although the server runs with `fsync = off`.
    pub allow_fsync_off: bool,
    /// TCP keepalive: silence before the first probe.
    pub keepalive_idle: Duration,
    /// TCP keepalive: between probes.
    pub keepalive_interval: Duration,
    /// TCP keepalive: probes before the connection is dead.
    pub keepalive_count: u32,
    /// Unacknowledged data for so long: the connection is dead.
    pub tcp_user_timeout: Duration,
}

/// `synchronous_commit`: nothing below `local`, which would break P1's other half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynchronousCommit {
    /// Flushed on the server.
    Local,
    /// The server's `on`.
    #[default]
    On,
    /// Written by synchronous standbys.
    RemoteWrite,
    /// Applied by synchronous standbys.
    RemoteApply,
}

/// Failed saves.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedSettings {
    /// Open rows of `forebay.failed_save`; at the limit the lane halts.
    pub saves_max: u64,
    /// Closed rows that are kept, the newest by sequence; below them tickets can't be told.
    pub closed_kept: u64,
}

/// Recognising retried saves.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestIdSettings {
    /// Request ids and stream ids remembered.
    pub count_max: u64,
    /// How long a request id is remembered, as long as the journal retains its saves.
    pub retention: Duration,
}

/// Telling outcomes by webhooks.
#[derive(Clone, Debug, PartialEq)]
pub struct CallbackSettings {
    /// One attempt, from the resolution of the name to the end of the answer.
    pub timeout: Duration,
    /// How old an outcome may become before it is told no more.
    pub give_up: Duration,
    /// Saves with a callback that has not been delivered.
    pub pending_max: u64,
}

/// Who is told outcomes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSettings {
    /// Where it is; always there once the settings are checked.
    pub url: Option<EndpointUrl>,
    /// What signs, each of them; [`signing_key`] reads it.
    pub secret: Vec<Secret>,
    /// A file with one of them a line, in the place of `secret`.
    pub secret_file: Option<PathBuf>,
    /// It may be on this host.
    pub allow_loopback: bool,
    /// It may be in a private network.
    pub allow_private: bool,
    /// Certificates of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Stopping.
#[derive(Clone, Debug, PartialEq)]
pub struct StopSettings {
    /// How long to go on draining.
    pub drain_timeout: Duration,
    /// The whole stop.
    pub timeout: Duration,
}

/// Logs.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter of tracing.
    pub level: String,
    /// Text or JSON; without it text on a terminal, else JSON.
    pub format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// A lane.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneSettings {
    /// The collections that it writes; `None` for `default`, which writes everything that no other lane names.
    pub collections: Option<Vec<String>>,
    /// How long saves gather before they are written; 0 writes at once.
    pub window: Duration,
}

impl Settings {
    /// Settings from the defaults, the environment, a file and `--set` arguments, checked as a whole.
    ///
    /// `env` is the process environment: `DATABASE_URL`, `STATE_DIRECTORY` and what begins with `FOREBAY__` are used.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem of every source, not only the first.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>, sets: &[String]) -> Result<Self, SettingsError> {
        Loaded::load(file, env, sets).map(|loaded| loaded.settings)
    }

    /// Lanes at the most: each holds a connection to Postgres (P9) and a place in every group of the journal.
    pub const LANES_MAX: usize = 32;
    /// A lane's name, in bytes.
    pub const LANE_NAME_BYTES_MAX: usize = 40;

    /// Which lane writes which collection.
    pub fn layout(&self) -> Lanes {
        let lanes = self.lanes.iter().filter_map(|(name, lane)| Some((name.clone(), lane.collections.clone()?)));
        Lanes::new(lanes.collect())
    }

    /// Which tables are collections, with these lanes.
    pub fn collection_rules(&self, lanes: Lanes) -> CollectionRules {
        CollectionRules { schemas: self.postgres.schemas.clone(), named: self.collections.clone(), lanes }
    }
}

/// For limits that are changed while the daemon runs.
impl Settings {
    /// Whether a key that holds a count may hold this one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_number(name: &str, number: u64) -> Result<(), String> {
        let number = i64::try_from(number).map_err(|_| format!("{number} is too large"))?;
        keys::check(name, &kinds::Raw::Integer(number))
    }

    /// Whether a key that holds a duration may hold so many milliseconds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_milliseconds(name: &str, milliseconds: u64) -> Result<(), String> {
        keys::check(name, &kinds::Raw::Text(format!("{milliseconds} ms")))
    }
}

impl PostgresSettings {
    /// The connection string, if there is one. A secret: for connecting, not for printing.
    pub fn url(&self) -> Option<&str> {
        self.url.as_ref().map(Secret::expose)
    }
}

#[cfg(test)]
mod tests;
