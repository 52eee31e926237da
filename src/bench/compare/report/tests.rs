use serde_json::json;

use super::*;

fn measured(printed: serde_json::Value) -> Measured {
    serde_json::from_value(printed).expect("what a subject prints")
}

fn runs(of: &[(&'static str, &[f64])]) -> Runs {
    let mut runs = Runs::default();
    for (name, rates) in of {
        rates.iter().for_each(|rate| runs.add(name, measured(json!({"saves_per_second": rate}))));
    }
    runs
}

fn report(runs: &Runs) -> CompareReport {
    CompareReport::new(runs, Machine { cores: 2, memory_bytes: 1 << 30, postgres: "postgres 15".to_owned() }, vec!["gone".to_owned()])
}

#[test]
fn a_median_is_the_middle() {
    assert_eq!(median([].into_iter()), None);
    assert_eq!(median([3.0].into_iter()), Some(3.0));
    assert_eq!(median([9.0, 1.0, 4.0].into_iter()), Some(4.0));
    assert_eq!(median([9.0, 1.0, 4.0, 6.0].into_iter()), Some(5.0));
}

#[test]
fn a_ratio_compares_what_the_same_round_measured() {
    // The machine got four times as slow from round to round: the ratio of the medians (3) is none that any round saw.
    let report = report(&runs(&[("drain", &[80.0, 15.0, 5.0]), ("unnest", &[100.0, 20.0, 5.0])]));
    assert_eq!(report.ratios, BTreeMap::from([("drain/unnest".to_owned(), 0.8)]));
    assert_eq!(report.worst, BTreeMap::from([("drain/unnest".to_owned(), 0.75)]));
    assert_eq!((report.rows[0].name, report.rows[0].per_second, &report.rows[0].runs), ("drain", 15.0, &vec![80.0, 15.0, 5.0]));
}

#[test]
fn a_missing_subject_leaves_its_row_and_ratios_out() {
    let report = report(&runs(&[("stream-64-paused", &[40.0]), ("redis-64", &[5.0])]));
    assert_eq!(report.rows.iter().map(|row| row.name).collect::<Vec<_>>(), ["stream-64-paused", "redis-64"]);
    assert_eq!(report.ratios, BTreeMap::from([("stream-64-paused/redis-64".to_owned(), 8.0)]));
    let text = report.text();
    assert!(text.contains("gone\n") && text.contains("at least 4 (8)") && !text.contains("ceiling"), "{text}");
}

#[test]
fn of_costs_the_highest_is_the_worst() {
    let mut runs = Runs::default();
    for (few, many, disk) in [(1.0, 1.1, 1.0), (2.0, 5.0, 1.5), (1.0, 1.2, 1.25)] {
        runs.add("unary-64-paused", measured(json!({"saves_per_second": 1, "cpu_seconds_per_100k": few})));
        runs.add("unary-4000-paused", measured(json!({"saves_per_second": 1, "cpu_seconds_per_100k": many})));
        runs.add("stream-64-paused", measured(json!({"saves_per_second": 1, "disk_bytes_per_byte": disk})));
    }
    let report = report(&runs);
    let (cpu, disk) = ("cpu unary-4000-paused/unary-64-paused", "disk stream-64-paused");
    assert_eq!((report.ratios[cpu], report.worst[cpu]), (1.2, 2.5));
    assert_eq!((report.ratios[disk], report.worst[disk]), (1.25, 1.5));
    assert!(report.text().contains("at most 3 (1.5)"), "{}", report.text());
}

#[test]
fn a_row_holds_the_median_of_every_figure() {
    let mut runs = Runs::default();
    for n in [1, 3, 2] {
        runs.add(
            "unary-64",
            measured(json!({
                "mode": "unary", "saves_per_second": 100 * n, "p50_us": 10 * n, "p99_us": 20 * n, "errors": 0, "cpu_seconds_per_100k": n,
                "server_cpu_seconds_per_100k": 2 * n, "disk_bytes_per_byte": 3 * n, "peak_memory_bytes": 4 * n,
            })),
        );
    }
    let printed = serde_json::to_value(report(&runs)).expect("JSON");
    let expected = json!({
        "name": "unary-64", "per_second": 200.0, "p50_us": 20.0, "p99_us": 40.0, "cpu_seconds_per_100k": 2.0,
        "server_cpu_seconds_per_100k": 4.0, "disk_bytes_per_byte": 6.0, "peak_memory_bytes": 8,
        "runs": [100.0, 300.0, 200.0],
    });
    assert_eq!(printed["rows"], json!([expected]));
    assert_eq!(printed["machine"], json!({"cores": 2, "memory_bytes": 1 << 30, "postgres": "postgres 15"}));
    assert!(printed.get("absent").is_none());
}
