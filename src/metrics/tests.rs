//! The page as Prometheus reads it.

use std::thread;

use super::{
    families::{FAMILIES, Form},
    *,
};

fn observation() -> Observation {
    Observation {
        ready: true,
        limits: vec![LimitObservation { kind: LimitKind::Amount, name: "backlog.bytes_max", max: 1_024, used: 7 }],
        collections: vec![CollectionObservation { backlog_objects: 3, backlog_bytes: 99, failed_saves: 1 }],
        lanes: vec![LaneObservation { state: LaneState::Gathering, oldest_age: Some(Duration::from_millis(1_500)), statement_rows: 420 }],
        endpoints: vec![EndpointObservation {
            name: "shop".to_owned(),
            pending: 2,
            attempts: [1, 2, 3, 4],
            ..EndpointObservation::default()
        }],
        ..Observation::default()
    }
}

fn metrics() -> Metrics {
    let metrics = Metrics::new(&["default"]);
    metrics.know_collections(["players"]);
    metrics
}

#[test]
fn every_metric_is_on_the_page_before_anything_happened() {
    let page = metrics().render(&observation());
    for family in FAMILIES {
        let form = match family.form {
            Form::Counter => "counter",
            Form::Gauge => "gauge",
            Form::Histogram(_) => "histogram",
        };
        assert!(page.contains(&format!("# HELP {} {}\n", family.name, family.help)), "no help of {}", family.name);
        assert!(page.contains(&format!("# TYPE {} {form}\n", family.name)), "no type of {}", family.name);
        assert!(page.lines().any(|line| line.starts_with(family.name)), "no sample of {}", family.name);
    }
    assert!(page.contains("process_resident_memory_bytes"));
}

#[test]
fn nothing_is_on_the_page_that_has_no_help() {
    let page = metrics().render(&observation());
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for name in types.filter_map(|rest| rest.split(' ').next()) {
        assert!(page.contains(&format!("# HELP {name} ")), "{name}");
        assert!(name.starts_with("process_") || FAMILIES.iter().any(|family| family.name == name), "{name}");
    }
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    for family in FAMILIES {
        assert!(family.name.starts_with("forebay_"), "{}", family.name);
        assert_eq!(matches!(family.form, Form::Counter), family.name.ends_with("_total"), "{}", family.name);
        assert_eq!(family.unit == ::metrics::Unit::Seconds, family.name.ends_with("_seconds"), "{}", family.name);
        assert_eq!(family.unit == ::metrics::Unit::Bytes, family.name.ends_with("_bytes"), "{}", family.name);
        assert!(family.help.ends_with('.'), "{}", family.name);
        if let Form::Histogram(buckets) = family.form {
            assert!(buckets.is_sorted(), "{}", family.name);
        }
    }
}

#[test]
fn what_happened_is_counted_where_it_happened() {
    let metrics = metrics();
    metrics.know_collections(["players", "guilds"]);
    metrics.saves_accepted(0, 5);
    metrics.saves_accepted(1, 2);
    metrics.saves_accepted(7, 1);
    metrics.saves_refused(Some(1), Refused::LimitReached, 4);
    metrics.saves_refused(None, Refused::InvalidSave, 1);
    metrics.rows_written(1, RowOp::Delete, 6);
    metrics.transaction_ended(0, TransactionResult::InDoubt, Duration::from_millis(3));
    metrics.drain_retried(RetryReason::Conflict);
    metrics.acknowledged(Rpc::Save, Duration::from_micros(600));
    metrics.group_synced(17, Duration::from_micros(300));
    metrics.statement_ended(0, Duration::from_millis(45));
    metrics.recovered(Duration::from_millis(250));
    metrics.call_started(Rpc::Flush);

    let page = metrics.render(&observation());
    for line in [
        "forebay_saves_accepted_total{collection=\"players\"} 5",
        "forebay_saves_accepted_total{collection=\"guilds\"} 2",
        "forebay_saves_refused_total{collection=\"guilds\",reason=\"limit_reached\"} 4",
        "forebay_saves_refused_total{collection=\"\",reason=\"invalid_save\"} 1",
        "forebay_rows_written_total{collection=\"guilds\",op=\"delete\"} 6",
        "forebay_transactions_total{lane=\"default\",result=\"in_doubt\"} 1",
        "forebay_drain_retries_total{reason=\"conflict\"} 1",
        "forebay_acknowledge_seconds_bucket{rpc=\"Save\",le=\"0.0005\"} 0",
        "forebay_acknowledge_seconds_bucket{rpc=\"Save\",le=\"0.001\"} 1",
        "forebay_journal_group_saves_bucket{le=\"32\"} 1",
        "forebay_recovery_seconds 0.25",
        "forebay_calls_in_flight{rpc=\"Flush\"} 1",
        "forebay_backlog_objects{collection=\"players\"} 3",
        "forebay_backlog_objects{collection=\"guilds\"} 0",
        "forebay_backlog_oldest_age_seconds{lane=\"default\"} 1.5",
        "forebay_lane_state{lane=\"default\",state=\"gathering\"} 1",
        "forebay_lane_state{lane=\"default\",state=\"halted\"} 0",
        "forebay_statement_rows{lane=\"default\"} 420",
        "forebay_statement_seconds_bucket{lane=\"default\",le=\"0.05\"} 1",
        "forebay_limit{name=\"backlog.bytes_max\",kind=\"amount\"} 1024",
        "forebay_limit_used{name=\"backlog.bytes_max\",kind=\"amount\"} 7",
        "forebay_ready 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }

    metrics.call_ended(Rpc::Flush);
    assert!(metrics.render(&observation()).contains("forebay_calls_in_flight{rpc=\"Flush\"} 0\n"));
}

#[test]
fn two_daemons_in_a_process_count_apart() {
    let (one, other) = (metrics(), metrics());
    one.saves_accepted(0, 1);
    assert!(other.render(&observation()).contains("forebay_saves_accepted_total{collection=\"players\"} 0\n"));
}

#[test]
fn counting_from_many_threads_loses_nothing() {
    let metrics = metrics();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    metrics.saves_accepted(0, 1);
                    metrics.acknowledged(Rpc::Save, Duration::from_millis(1));
                }
            });
        }
        metrics.run_upkeep();
    });
    let page = metrics.render(&observation());
    assert!(page.contains("forebay_saves_accepted_total{collection=\"players\"} 40000\n"), "{page}");
    assert!(page.contains("forebay_acknowledge_seconds_count{rpc=\"Save\"} 40000\n"), "{page}");
}
