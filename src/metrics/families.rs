//! Every metric by name: its type, unit, help and, for histograms, buckets.

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

/// A metric with all its labels.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) form: Form,
    pub(super) unit: Unit,
    pub(super) help: &'static str,
}

/// What Prometheus calls the type.
pub(super) enum Form {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

use Form::{Counter, Gauge, Histogram};

/// From a fast disk's sync to a caller that gives up.
const ACKNOWLEDGE_SECONDS_BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.007_5, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// From NVMe to a disk that is about to be declared dead (`journal.sync_timeout`).
const SYNC_SECONDS_BUCKETS: &[f64] =
    &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// From one row to `postgres.statement_timeout` and what follows it.
const TRANSACTION_SECONDS_BUCKETS: &[f64] = &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Around `drain.statement_target`.
const STATEMENT_SECONDS_BUCKETS: &[f64] =
    &[0.001, 0.002_5, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// From the shortest window to an outage of a night.
const PERSIST_SECONDS_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0];
/// Up to `journal.group_saves_max`.
const GROUP_SAVES_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0];

macro_rules! families {
    ($($name:ident = $text:literal: $form:expr, $unit:ident, $help:literal;)*) => {
        $(pub(super) const $name: &str = $text;)*
        pub(super) const FAMILIES: &[Family] = &[$(Family { name: $name, form: $form, unit: Unit::$unit, help: $help }),*];
    };
}

families! {
    SAVES_ACCEPTED = "forebay_saves_accepted_total": Counter, Count, "Saves acknowledged: durable in the journal.";
    SAVES_REFUSED = "forebay_saves_refused_total": Counter, Count, "Saves turned away at the door, by reason; without a collection if it is unknown.";
    SAVES_DEDUPLICATED = "forebay_saves_deduplicated_total": Counter, Count, "Saves sent again and recognised by their request id or stream offset.";
    SAVES_SUPERSEDED = "forebay_saves_superseded_total": Counter, Count, "Persisted saves that changed nothing, as the row had a version as high.";
    SAVES_FOLDED = "forebay_saves_folded_total": Counter, Count, "Saves that needed no row of their own: folded into a later state of their object.";
    SAVES_PERSISTED = "forebay_saves_persisted_total": Counter, Count, "Saves whose effect is committed in Postgres.";
    SAVES_FAILED = "forebay_saves_failed_total": Counter, Count, "Accepted saves that Postgres would not take; each is a row of forebay.failed_save.";
    ROWS_WRITTEN = "forebay_rows_written_total": Counter, Count, "Rows written to Postgres, by what was done to them.";
    TRANSACTIONS = "forebay_transactions_total": Counter, Count, "Writing transactions, by how they ended.";
    TRANSACTION_SECONDS = "forebay_transaction_seconds": Histogram(TRANSACTION_SECONDS_BUCKETS), Seconds, "From begin to the end of a writing transaction.";
    STATEMENT_SECONDS = "forebay_statement_seconds": Histogram(STATEMENT_SECONDS_BUCKETS), Seconds, "What Postgres took for each statement of committed transactions; to be held against drain.statement_target.";
    STATEMENT_ROWS = "forebay_statement_rows": Gauge, Count, "Rows of a lane's next full statement, so that it takes drain.statement_target.";
    DRAIN_RETRIES = "forebay_drain_retries_total": Counter, Count, "Generations tried again, by reason.";
    ACKNOWLEDGE_SECONDS = "forebay_acknowledge_seconds": Histogram(ACKNOWLEDGE_SECONDS_BUCKETS), Seconds, "From a call's arrival (in a stream: a message's) until its saves are durable, whatever else it waits for.";
    PERSIST_SECONDS = "forebay_persist_seconds": Histogram(PERSIST_SECONDS_BUCKETS), Seconds, "From the acceptance of a generation's oldest save to its commit in Postgres.";
    JOURNAL_SYNC_SECONDS = "forebay_journal_sync_seconds": Histogram(SYNC_SECONDS_BUCKETS), Seconds, "The sync of one journal group.";
    JOURNAL_GROUP_SAVES = "forebay_journal_group_saves": Histogram(GROUP_SAVES_BUCKETS), Count, "Saves that one sync covered.";
    CALLS_IN_FLIGHT = "forebay_calls_in_flight": Gauge, Count, "Calls being handled.";
    BACKLOG_OBJECTS = "forebay_backlog_objects": Gauge, Count, "Objects and appended rows accepted and not in Postgres yet.";
    BACKLOG_BYTES = "forebay_backlog_bytes": Gauge, Bytes, "Their bytes.";
    BACKLOG_OLDEST_AGE = "forebay_backlog_oldest_age_seconds": Gauge, Seconds, "Age of the oldest save that is not in Postgres yet; 0 if there is none.";
    FAILED_SAVES = "forebay_failed_saves": Gauge, Count, "Open rows of forebay.failed_save.";
    CALLBACKS_PENDING = "forebay_callbacks_pending": Gauge, Count, "Callbacks whose outcome is known and that wait for their endpoint.";
    CALLBACKS_OLDEST_AGE = "forebay_callbacks_oldest_age_seconds": Gauge, Seconds, "Age of the oldest save of them; 0 if there is none.";
    CALLBACK_ATTEMPTS = "forebay_callback_attempts_total": Counter, Count, "Attempts to tell an endpoint an outcome, by how they ended.";
    CALLBACKS_GIVEN_UP = "forebay_callbacks_given_up_total": Counter, Count, "Outcomes that an endpoint will not be told, by reason.";
    ENDPOINT_DISABLED = "forebay_endpoint_disabled": Gauge, Count, "Whether the endpoint answered 410 since the start.";
    JOURNAL_BYTES = "forebay_journal_bytes": Gauge, Bytes, "Journal bytes of what is not in Postgres yet.";
    JOURNAL_FREE_BYTES = "forebay_journal_free_bytes": Gauge, Bytes, "Free space of the journal's file system.";
    JOURNAL_RETAINED = "forebay_journal_retained_seconds": Gauge, Seconds, "How far back drained groups are kept.";
    LANE_STATE = "forebay_lane_state": Gauge, Count, "1 for the state that the lane is in, 0 for the others.";
    POSTGRES_UP = "forebay_postgres_up": Gauge, Count, "Whether Postgres answered when it was last asked.";
    POSTGRES_CONNECTIONS = "forebay_postgres_connections": Gauge, Count, "Open connections to Postgres.";
    LIMIT = "forebay_limit": Gauge, Count, "What a limit allows (of a reserve: what must be left), by the name of its setting.";
    LIMIT_USED = "forebay_limit_used": Gauge, Count, "What is used of a limit: of an amount, what is in use; of the size of one thing, the largest since the start; of a reserve, what is left; of a rate, what the last second had.";
    PAUSED = "forebay_paused": Gauge, Count, "Whether an operator holds the drain of a lane.";
    READY = "forebay_ready": Gauge, Count, "Whether saves are accepted: recovered and not stopping.";
    RECOVERY_SECONDS = "forebay_recovery_seconds": Gauge, Seconds, "How long the last start took from opening the journal to accepting saves.";
    BUILD_INFO = "forebay_build_info": Gauge, Count, "Always 1; its label is the version.";
}

/// A recorder that knows every histogram's buckets. Without buckets the exporter would make summaries of them, which can't
/// be added up over daemons.
pub(super) fn builder() -> Result<PrometheusBuilder, BuildError> {
    FAMILIES.iter().try_fold(PrometheusBuilder::new(), |builder, family| match family.form {
        Histogram(buckets) => builder.set_buckets_for_metric(Matcher::Full(family.name.to_owned()), buckets),
        Counter | Gauge => Ok(builder),
    })
}

/// Units and help for all of them, to the recorder in charge.
pub(super) fn describe() {
    for Family { name, form, unit, help } in FAMILIES {
        match form {
            Counter => metrics::describe_counter!(*name, *unit, *help),
            Gauge => metrics::describe_gauge!(*name, *unit, *help),
            Histogram(_) => metrics::describe_histogram!(*name, *unit, *help),
        }
    }
}
