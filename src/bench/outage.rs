//! How acknowledgements fare while Postgres is stopped (P10).
//!
//! Open loop at half of what the daemon can take: latency counts from when a call was due, so that whatever holds the daemon up
//! shows in all calls that it delays. With Postgres running and draining, then with Postgres stopped, in turns.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::task::block_in_place;

use super::{
    Load, Mode, SaveOptions,
    callers::{self, Seen},
    fill,
    rounds::{median, ratio},
    target,
};
use crate::{
    child::Daemon,
    sandbox::{Sandbox, StopMode},
};

const CALLERS: usize = 64;
/// Of a closed loop, to find the capacity.
const CAPACITY_TIME: Duration = Duration::from_secs(2);
/// For what an outage has piled up.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(600);

/// A run of `forebay bench outage`.
#[derive(Clone, Copy, Debug)]
pub struct OutageOptions {
    /// Outages.
    pub rounds: u32,
    /// How long calls are timed, before each outage and during it.
    pub time: Duration,
}

/// What `forebay bench outage` prints, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct OutageReport {
    callers: usize,
    /// Saves that the callers got acknowledged when each saved again at once, while Postgres was running and draining.
    capacity_per_second: u64,
    /// Saves that were due when calls were timed: half of that.
    rate_per_second: u64,
    /// The medians of the rounds.
    before: Latency,
    during: Latency,
    /// Of p99 during the outage to p99 before it, round by round: the median.
    ratio: f64,
    /// The highest of any round.
    ratio_worst: f64,
    rounds: Vec<Round>,
}

/// One outage.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    before: Latency,
    during: Latency,
    ratio: f64,
}

/// From when a call was due to its acknowledgement.
#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    p50_us: u64,
    p99_us: u64,
}

impl OutageReport {
    fn new(capacity: f64, rounds: Vec<Round>) -> Self {
        Self {
            callers: CALLERS,
            capacity_per_second: capacity.round() as u64,
            rate_per_second: (capacity / 2.0).round() as u64,
            before: Latency::median(rounds.iter().map(|round| round.before)),
            during: Latency::median(rounds.iter().map(|round| round.during)),
            ratio: median(rounds.iter().map(|round| round.ratio)),
            ratio_worst: rounds.iter().map(|round| round.ratio).fold(0.0, f64::max),
            rounds,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let Self { callers, capacity_per_second, rate_per_second, before, during, ratio, ratio_worst, rounds } = self;
        format!(
            "{callers} callers, {rate_per_second} saves/s of the {capacity_per_second} that they could do, {} rounds\n\
             \x20 Postgres running  p50 {:>7} us   p99 {:>7} us\n\
             \x20 Postgres stopped  p50 {:>7} us   p99 {:>7} us\n\
             \x20 ratio of p99      {ratio:.2}, worst {ratio_worst:.2}",
            rounds.len(),
            before.p50_us,
            before.p99_us,
            during.p50_us,
            during.p99_us,
        )
    }
}

impl Latency {
    fn of(seen: &Seen) -> Self {
        Self { p50_us: seen.latencies.value_at_quantile(0.5), p99_us: seen.latencies.value_at_quantile(0.99) }
    }

    fn median(all: impl Iterator<Item = Self> + Clone) -> Self {
        let of = |value: fn(Self) -> u64| median(all.clone().map(|latency| value(latency) as f64)).round() as u64;
        Self { p50_us: of(|latency| latency.p50_us), p99_us: of(|latency| latency.p99_us) }
    }
}

/// Stops Postgres and starts it again, round by round, under load.
///
/// # Errors
/// No private Postgres, a daemon that doesn't start, or a save that is refused.
pub async fn outage(options: OutageOptions) -> anyhow::Result<OutageReport> {
    ensure!(options.rounds > 0 && !options.time.is_zero(), "--rounds or --seconds is 0: nothing would be timed");
    let mut postgres = target::postgres("").await?;
    let daemon = Daemon::start_with(&postgres.url(), fill::room()).await?;
    let (seen, elapsed) = save(&daemon, CAPACITY_TIME, None).await?;
    let capacity = seen.acknowledged as f64 / elapsed.as_secs_f64();
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        drained(&daemon).await?;
        rounds.push(round(&mut postgres, &daemon, options.time, capacity / 2.0).await?);
    }
    drained(&daemon).await?;
    daemon.stop().await?;
    Ok(OutageReport::new(capacity, rounds))
}

async fn round(postgres: &mut Sandbox, daemon: &Daemon, time: Duration, rate: f64) -> anyhow::Result<Round> {
    let (before, _) = save(daemon, time, Some(rate)).await?;
    block_in_place(|| postgres.stop(StopMode::Fast)).context("stop Postgres")?;
    let (during, _) = save(daemon, time, Some(rate)).await?;
    block_in_place(|| postgres.start()).context("start Postgres")?;
    let (before, during) = (Latency::of(&before), Latency::of(&during));
    Ok(Round { before, during, ratio: ratio(during.p99_us as f64, before.p99_us as f64) })
}

async fn save(daemon: &Daemon, time: Duration, rate: Option<f64>) -> anyhow::Result<(Seen, Duration)> {
    let options = SaveOptions { mode: Mode::Unary, load: Load::Reference, callers: CALLERS, time, paused: false, target: None, rate };
    let (seen, elapsed) = callers::run(&daemon.address(), &options).await?;
    ensure!(seen.errors == 0, "{} calls failed, the first with {}", seen.errors, seen.first_error.unwrap_or_default());
    Ok((seen, elapsed))
}

async fn drained(daemon: &Daemon) -> anyhow::Result<()> {
    daemon.client().flush(&[], FLUSH_TIMEOUT).await.map(drop).context("wait until Postgres has it all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rounds_are_told_by_their_medians_and_the_worst() {
        let round = |before, during, ratio| {
            let latency = |p99_us| Latency { p50_us: 100, p99_us };
            Round { before: latency(before), during: latency(during), ratio }
        };
        let report = OutageReport::new(9_001.0, vec![round(500, 400, 0.8), round(400, 600, 1.5), round(1_000, 900, 0.9)]);
        assert_eq!((report.capacity_per_second, report.rate_per_second), (9_001, 4_501));
        assert_eq!((report.before.p99_us, report.during.p99_us, report.during.p50_us), (500, 600, 100));
        assert_eq!((report.ratio.to_string(), report.ratio_worst.to_string()), ("0.9".to_owned(), "1.5".to_owned()));
    }
}
