//! What is measured when somebody looks: levels and states, read from the parts at the time of a scrape, so that none can
//! go stale.

use std::time::Duration;

use metrics::{counter, gauge};

use super::{
    families,
    labels::{AttemptResult, GiveUpReason, LaneState, LimitKind},
};

/// How the daemon stands at one moment; `daemon` puts it together.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Saves are accepted.
    pub ready: bool,
    /// An operator holds a lane's drain.
    pub paused: bool,
    /// Postgres answered when it was last asked.
    pub postgres_up: bool,
    /// Open connections to Postgres.
    pub postgres_connections: u64,
    /// Every limit.
    pub limits: Vec<LimitObservation>,
    /// By the collections' numbers.
    pub collections: Vec<CollectionObservation>,
    /// By the lanes' numbers.
    pub lanes: Vec<LaneObservation>,
    /// The journal.
    pub journal: JournalObservation,
    /// The endpoints.
    pub endpoints: Vec<EndpointObservation>,
}

/// A limit.
#[derive(Clone, Copy, Debug)]
pub struct LimitObservation {
    /// What it holds down.
    pub kind: LimitKind,
    /// The setting.
    pub name: &'static str,
    /// What it allows.
    pub max: u64,
    /// What is used of it.
    pub used: u64,
}

/// What a collection has waiting.
#[derive(Clone, Copy, Debug, Default)]
pub struct CollectionObservation {
    /// Objects and appended rows that are not in Postgres yet.
    pub backlog_objects: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// Open failed saves.
    pub failed_saves: u64,
}

/// A lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneObservation {
    /// What it does.
    pub state: LaneState,
    /// Age of its oldest save that is not in Postgres yet.
    pub oldest_age: Option<Duration>,
    /// Rows of its next statement.
    pub statement_rows: u64,
}

/// An endpoint.
#[derive(Clone, Debug, Default)]
pub struct EndpointObservation {
    /// Its name.
    pub name: String,
    /// It answered 410.
    pub disabled: bool,
    /// Callbacks that wait for it.
    pub pending: u64,
    /// Age of the oldest save of them.
    pub oldest_age: Duration,
    /// Attempts of this run, by result.
    pub attempts: [u64; AttemptResult::ALL.len()],
    /// Callbacks given up in this run, by reason.
    pub given_up: [u64; GiveUpReason::ALL.len()],
}

/// The journal.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalObservation {
    /// Bytes of what is not in Postgres yet.
    pub bytes: u64,
    /// Free space of its file system.
    pub free_bytes: u64,
    /// How far back drained groups are kept.
    pub retained: Duration,
}

impl Observation {
    /// Sets the gauges of the recorder in charge. What is not observed of a known collection or lane is 0.
    pub(super) fn record<'a>(&self, collections: impl Iterator<Item = &'a str>, lanes: impl Iterator<Item = &'a str>) {
        gauge!(families::READY).set(flag(self.ready));
        gauge!(families::PAUSED).set(flag(self.paused));
        gauge!(families::POSTGRES_UP).set(flag(self.postgres_up));
        gauge!(families::POSTGRES_CONNECTIONS).set(number(self.postgres_connections));
        gauge!(families::JOURNAL_BYTES).set(number(self.journal.bytes));
        gauge!(families::JOURNAL_FREE_BYTES).set(number(self.journal.free_bytes));
        gauge!(families::JOURNAL_RETAINED).set(self.journal.retained.as_secs_f64());
        for limit in &self.limits {
            let kind = limit.kind.label();
            gauge!(families::LIMIT, "name" => limit.name, "kind" => kind).set(number(limit.max));
            gauge!(families::LIMIT_USED, "name" => limit.name, "kind" => kind).set(number(limit.used));
        }
        for (index, name) in collections.enumerate() {
            self.collections.get(index).copied().unwrap_or_default().record(name);
        }
        for (name, lane) in lanes.zip(&self.lanes) {
            lane.record(name);
        }
        self.endpoints.iter().for_each(EndpointObservation::record);
    }
}

impl CollectionObservation {
    fn record(&self, name: &str) {
        let set = |family, value| gauge!(family, "collection" => name.to_owned()).set(number(value));
        set(families::BACKLOG_OBJECTS, self.backlog_objects);
        set(families::BACKLOG_BYTES, self.backlog_bytes);
        set(families::FAILED_SAVES, self.failed_saves);
    }
}

impl LaneObservation {
    fn record(&self, name: &str) {
        let age = self.oldest_age.unwrap_or_default().as_secs_f64();
        gauge!(families::BACKLOG_OLDEST_AGE, "lane" => name.to_owned()).set(age);
        gauge!(families::STATEMENT_ROWS, "lane" => name.to_owned()).set(number(self.statement_rows));
        for state in LaneState::ALL {
            gauge!(families::LANE_STATE, "lane" => name.to_owned(), "state" => state.label()).set(flag(state == self.state));
        }
    }
}

impl EndpointObservation {
    fn record(&self) {
        let name = || self.name.clone();
        gauge!(families::CALLBACKS_PENDING, "endpoint" => name()).set(number(self.pending));
        gauge!(families::CALLBACKS_OLDEST_AGE, "endpoint" => name()).set(self.oldest_age.as_secs_f64());
        gauge!(families::ENDPOINT_DISABLED, "endpoint" => name()).set(flag(self.disabled));
        for (result, count) in AttemptResult::ALL.into_iter().zip(self.attempts) {
            counter!(families::CALLBACK_ATTEMPTS, "endpoint" => name(), "result" => result.label()).absolute(count);
        }
        for (reason, count) in GiveUpReason::ALL.into_iter().zip(self.given_up) {
            counter!(families::CALLBACKS_GIVEN_UP, "endpoint" => name(), "reason" => reason.label()).absolute(count);
        }
    }
}

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

/// Prometheus has only floats: exact up to 2^53.
pub(super) fn number(value: u64) -> f64 {
    value as f64
}
