//! Every key: its name, unit and range. The one place that knows them all.

use std::time::Duration;

use super::{
    LaneSettings, LogFormat, OnRewind, Settings, SynchronousCommit,
    endpoints::{SigningSecrets, Url},
    kinds::{
        Address, Bytes, Choice, Count, DAY, Flag, GIB, HOUR, Hidden, KIB, Kind, LogFilter, MIB, MILLISECOND, MINUTE, Maybe, Names,
        PathText, Raw, SECOND, TIB, Text, Time,
    },
};
use crate::collections::Mode;

/// One key of a section.
pub(super) struct Key {
    /// `section.key`
    pub(super) name: &'static str,
    pub(super) set: fn(&mut Settings, &Raw) -> Result<(), String>,
    /// As the settings file would hold it; `None` without a value.
    pub(super) show: fn(&Settings) -> Option<String>,
}

/// One key of a section that an operator names: `[collections.NAME]`.
pub(super) struct NamedKey {
    pub(super) section: &'static str,
    pub(super) field: &'static str,
    pub(super) set: fn(&mut Settings, &str, &Raw) -> Result<(), String>,
    pub(super) show: fn(&Settings, &str) -> Option<String>,
}

macro_rules! keys {
    ($($section:ident.$field:ident: $kind:expr;)*) => {
        &[$(Key {
            name: concat!(stringify!($section), ".", stringify!($field)),
            set: |settings, raw| { settings.$section.$field = $kind.parse(raw)?; Ok(()) },
            show: |settings| $kind.show(&settings.$section.$field),
        }),*]
    };
}

macro_rules! named_keys {
    ($($section:ident.NAME.$field:ident: $kind:expr;)*) => {
        &[$(NamedKey {
            section: stringify!($section),
            field: stringify!($field),
            set: |settings, name, raw| {
                let value = $kind.parse(raw)?;
                settings.$section.entry(name.to_owned()).or_default().$field = value;
                Ok(())
            },
            show: |settings, name| settings.$section.get(name).and_then(|named| $kind.show(&named.$field)),
        }),*]
    };
}

/// In the order of `config/forebay.toml`.
pub(super) const KEYS: &[Key] = keys! {
    grpc.listen: Address;
    grpc.connections_max: Count(1..=1_000_000);
    grpc.streams_per_connection_max: Count(1..=1_000_000);
    grpc.calls_in_flight_max: Count(1..=10_000_000);
    grpc.awaiting_calls_max: Count(1..=10_000_000);
    grpc.save_streams_max: Count(1..=1_000_000);
    grpc.stream_unacknowledged_max: Count(1..=1_000_000);
    grpc.message_bytes_max: Bytes(KIB..=256 * MIB);
    grpc.receiving_bytes_max: Bytes(KIB..=64 * GIB);
    grpc.message_timeout: Time(MILLISECOND..=10 * MINUTE);
    grpc.body_bytes_max: Bytes(1..=64 * MIB);
    grpc.key_bytes_max: Bytes(16..=64 * KIB);
    grpc.batch_saves_max: Count(1..=1_000_000);
    grpc.header_bytes_max: Bytes(KIB..=MIB);
    grpc.handshake_timeout: Time(MILLISECOND..=10 * MINUTE);
    grpc.first_byte_timeout: Time(MILLISECOND..=10 * MINUTE);
    grpc.keepalive_interval: Time(SECOND..=HOUR);
    grpc.keepalive_timeout: Time(MILLISECOND..=10 * MINUTE);
    http.listen: Address;
    journal.directory: PathText;
    journal.bytes_max: Bytes(MIB..=1_024 * TIB);
    journal.free_bytes_min: Bytes(0..=1_024 * TIB);
    journal.segment_bytes: Bytes(MIB..=4 * GIB);
    journal.group_bytes_max: Bytes(4 * KIB..=256 * MIB);
    journal.group_saves_max: Count(1..=1_000_000);
    journal.inbox_bytes_max: Bytes(64 * KIB..=16 * GIB);
    journal.retention: Time(Duration::ZERO..=30 * DAY);
    journal.retention_bytes_max: Bytes(0..=1_024 * TIB);
    journal.sync_warn: Time(MILLISECOND..=HOUR);
    journal.sync_timeout: Time(SECOND..=HOUR);
    backlog.bytes_max: Bytes(64 * KIB..=1_024 * GIB);
    backlog.objects_max: Count(1..=1_000_000_000);
    drain.statement_rows: Count(100..=10_000);
    drain.statement_target: Time(MILLISECOND..=10 * SECOND);
    drain.generation_objects_max: Count(1..=100_000_000);
    drain.rows_per_second_max: Count(0..=100_000_000);
    drain.retry_wait_min: Time(MILLISECOND..=10 * MINUTE);
    drain.retry_wait_max: Time(MILLISECOND..=HOUR);
    drain.halt_wait: Time(Duration::ZERO..=30 * DAY);
    drain.relational_retry: Time(Duration::ZERO..=HOUR);
    drain.on_rewind: Choice(&ON_REWIND);
    postgres.url: Maybe(Hidden);
    postgres.schemas: Names;
    postgres.readers: Count(1..=1_000);
    postgres.first_wait: Time(100 * MILLISECOND..=DAY);
    postgres.connect_timeout: Time(100 * MILLISECOND..=10 * MINUTE);
    postgres.statement_timeout: Time(100 * MILLISECOND..=HOUR);
    postgres.answer_grace: Time(100 * MILLISECOND..=HOUR);
    postgres.lock_timeout: Time(100 * MILLISECOND..=HOUR);
    postgres.idle_in_transaction_timeout: Time(SECOND..=DAY);
    postgres.synchronous_commit: Choice(&SYNCHRONOUS_COMMIT);
    postgres.allow_fsync_off: Flag;
    postgres.keepalive_idle: Time(SECOND..=HOUR);
    postgres.keepalive_interval: Time(SECOND..=HOUR);
    postgres.keepalive_count: Count(1..=100);
    postgres.tcp_user_timeout: Time(SECOND..=HOUR);
    failed.saves_max: Count(1..=100_000_000);
    failed.closed_kept: Count(0..=1_000_000_000);
    request_ids.count_max: Count(1..=100_000_000);
    request_ids.retention: Time(SECOND..=30 * DAY);
    callbacks.timeout: Time(10 * MILLISECOND..=10 * MINUTE);
    callbacks.give_up: Time(SECOND..=30 * DAY);
    callbacks.pending_max: Count(1..=10_000_000);
    stop.drain_timeout: Time(Duration::ZERO..=DAY);
    stop.timeout: Time(SECOND..=DAY);
    log.level: LogFilter;
    log.format: Maybe(Choice(&LOG_FORMATS));
};

pub(super) const NAMED_KEYS: &[NamedKey] = named_keys! {
    lanes.NAME.collections: Maybe(Names);
    lanes.NAME.window: Time(Duration::ZERO..=HOUR);
    collections.NAME.table: Maybe(Text);
    collections.NAME.key: Maybe(Names);
    collections.NAME.mode: Choice(&MODES);
    collections.NAME.version_column: Maybe(Text);
    collections.NAME.on_failed: Maybe(Text);
    endpoints.NAME.url: Maybe(Url);
    endpoints.NAME.secret: SigningSecrets;
    endpoints.NAME.secret_file: Maybe(PathText);
    endpoints.NAME.allow_loopback: Flag;
    endpoints.NAME.allow_private: Flag;
    endpoints.NAME.ca_file: Maybe(PathText);
};

const SYNCHRONOUS_COMMIT: [(&str, SynchronousCommit); 4] = [
    ("local", SynchronousCommit::Local),
    ("on", SynchronousCommit::On),
    ("remote_write", SynchronousCommit::RemoteWrite),
    ("remote_apply", SynchronousCommit::RemoteApply),
];
const ON_REWIND: [(&str, OnRewind); 2] = [("reapply", OnRewind::Reapply), ("halt", OnRewind::Halt)];
const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
const MODES: [(&str, Mode); 2] = [("upsert", Mode::Upsert), ("append", Mode::Append)];

/// Whether a key may hold this value.
pub(super) fn check(name: &str, value: &Raw) -> Result<(), String> {
    let key = KEYS.iter().find(|key| key.name == name).ok_or_else(|| format!("there is no setting {name}"))?;
    (key.set)(&mut Settings::default(), value)
}

/// The section of `section.key`.
pub(super) fn section_of(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Whether there is such a section.
pub(super) fn is_section(name: &str) -> bool {
    is_named_section(name) || KEYS.iter().any(|key| section_of(key.name) == name)
}

/// Whether an operator names the tables of this section: `lanes`, `collections`, `endpoints`.
pub(super) fn is_named_section(name: &str) -> bool {
    NAMED_KEYS.iter().any(|key| key.section == name)
}

/// An empty table names its lane, collection or endpoint, and changes nothing else.
pub(super) fn name_only(settings: &mut Settings, section: &str, name: &str) {
    match section {
        "lanes" => drop(settings.lanes.entry(name.to_owned()).or_default()),
        "endpoints" => drop(settings.endpoints.entry(name.to_owned()).or_default()),
        _ => drop(settings.collections.entry(name.to_owned()).or_default()),
    }
}

impl Default for LaneSettings {
    fn default() -> Self {
        Self { collections: None, window: 100 * MILLISECOND }
    }
}
