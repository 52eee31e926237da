//! A campaign: runs from consecutive seeds, as many as asked for. A run that panics has failed; the others go on.
//!
//! Its variables, which `tests/faults` sets: `FOREBAY_SEED` (the first seed), `FOREBAY_FAULTS_RUNS` or `FOREBAY_FAULTS_MINUTES`, and
//! `FOREBAY_FAULTS_RECORD` with `FOREBAY_FAULTS_COMMIT`: the file that gets a line about it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use crate::support::{number, seed};

/// What runs have counted, by what it is.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// How long it goes on.
#[derive(Clone, Copy, Debug)]
enum End {
    Runs(u64),
    At(Instant),
}

/// Runs `one` from consecutive seeds; panics if one of them has failed. `name` is what `tests/faults` knows the campaign by, `short`
/// how many runs there are if nothing else is asked for, `most` after how many there is nothing new.
pub(super) async fn run<R: Future<Output = Counts> + Send + 'static>(name: &str, short: u64, most: u64, one: impl Fn(u64) -> R) {
    run_named(name, short, most, |seed| format!("--seed {seed} --runs 1"), one).await;
}

/// The same, of runs that have a name of their own: `again` are the options of `tests/faults` that repeat one.
pub(super) async fn run_named<R: Future<Output = Counts> + Send + 'static>(
    name: &str,
    short: u64,
    most: u64,
    again: impl Fn(u64) -> String,
    one: impl Fn(u64) -> R,
) {
    let (first, end) = (seed(name), end(short));
    let (mut total, mut failed, mut runs) = (Counts::new(), Vec::new(), 0);
    while end.is_ahead(runs) && runs < most {
        let seed = first.wrapping_add(runs);
        runs += 1;
        println!("{name}: run {runs}, {} failed: {}", failed.len(), again(seed));
        // In a task of its own: its panic, which says what is wrong, ends it alone.
        match tokio::spawn(one(seed)).await {
            Ok(counts) => counts.into_iter().for_each(|(what, count)| *total.entry(what).or_default() += count),
            Err(_) => {
                println!("{name}: failed; again: tests/faults {name} {}", again(seed));
                failed.push(again(seed));
            }
        }
    }
    let counted = total.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ");
    let failures = format!("{} {}", failed.len(), failed.join("; "));
    println!("{name}: {runs} runs from seed {first}: {counted}; failed: {failures}");
    record(&[name, &format!("{first}, {runs} runs"), &counted, failures.trim()]);
    assert!(failed.is_empty(), "{} of {runs} runs failed: {failed:#?}", failed.len());
}

/// How long is asked for, if it is time that counts.
pub(super) fn time() -> Option<Duration> {
    number("FOREBAY_FAULTS_MINUTES").map(|minutes| Duration::from_secs(60 * minutes))
}

fn end(short: u64) -> End {
    match time() {
        Some(time) => End::At(Instant::now() + time),
        None => End::Runs(number("FOREBAY_FAULTS_RUNS").unwrap_or(short)),
    }
}

impl End {
    fn is_ahead(self, runs: u64) -> bool {
        match self {
            Self::Runs(all) => runs < all,
            Self::At(end) => Instant::now() < end,
        }
    }
}

/// A row of the track record: date and commit before these cells.
fn record(cells: &[&str]) {
    let Some(path) = std::env::var_os("FOREBAY_FAULTS_RECORD") else { return };
    let commit = std::env::var_os("FOREBAY_FAULTS_COMMIT").unwrap_or_default();
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
    let row = format!("| {date} | {} | {} |\n", commit.to_string_lossy(), cells.join(" | "));
    let file = File::options().append(true).open(&path);
    file.and_then(|mut file| file.write_all(row.as_bytes())).unwrap_or_else(|error| panic!("record {row:?} in {path:?}: {error}"));
}
