//! Runs of tests that draw what they do, from consecutive seeds: as many as `cargo test` has time for, or as `tests/faults` says.
//!
//! Their variables are those of tests/campaigns: `FOREBAY_SEED` (the first seed; else one is drawn), `FOREBAY_FAULTS_RUNS` or
//! `FOREBAY_FAULTS_MINUTES`.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// What was run. `Display` is how `tests/faults` reads it.
pub(crate) struct Runs {
    campaign: &'static str,
    first: u64,
    count: u64,
}

/// How long it goes on.
#[derive(Clone, Copy)]
enum End {
    After(u64),
    At(Instant),
}

/// Runs `one` from each seed, `short` times if nothing else is asked for. When one panics, it is said how to repeat it.
pub(crate) fn run(campaign: &'static str, short: u64, mut one: impl FnMut(u64)) -> Runs {
    let first = number("FOREBAY_SEED").unwrap_or_else(|| fastrand::u64(..));
    let end = match number("FOREBAY_FAULTS_MINUTES") {
        Some(minutes) => End::At(Instant::now() + Duration::from_secs(60 * minutes)),
        None => End::After(number("FOREBAY_FAULTS_RUNS").unwrap_or(short)),
    };
    let mut runs = Runs { campaign, first, count: 0 };
    while end.is_ahead(runs.count) {
        let seed = first.wrapping_add(runs.count);
        runs.count += 1;
        let under_way = UnderWay { runs: &runs, seed };
        one(seed);
        drop(under_way);
    }
    runs
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var_os(variable)?;
    Some(text.to_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{variable} is a number")))
}

impl End {
    fn is_ahead(self, count: u64) -> bool {
        match self {
            Self::After(all) => count < all,
            Self::At(end) => Instant::now() < end,
        }
    }
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} runs from seed {}", self.campaign, self.count, self.first)
    }
}

struct UnderWay<'a> {
    runs: &'a Runs,
    seed: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { runs, seed } = self;
            println!("{runs}: the last one panicked; failed: 1 --seed {seed} --runs 1");
            println!("again: tests/faults {} --seed {seed} --runs 1", runs.campaign);
        }
    }
}
