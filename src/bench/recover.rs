//! How fast saves come back after a kill, against how fast they were taken.
//!
//! The daemon is a process of its own, made anew for each round. Postgres is stopped while it fills and while it recovers: every
//! save has to come back from the journal, and nothing is drained beside it. What a start takes with nothing in the journal is
//! measured before, and told apart.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::task::block_in_place;

use super::{
    Load,
    fill::{self, fill},
    rounds::{median, ratio},
    target,
};
use crate::{
    child::Daemon,
    client::Client,
    sandbox::{Sandbox, StopMode},
};

/// A run of `forebay bench recover`.
#[derive(Clone, Copy, Debug)]
pub struct RecoverOptions {
    /// Saves to recover.
    pub saves: u64,
    /// Kills.
    pub rounds: u32,
}

/// What `forebay bench recover` prints, in this order. Medians of the rounds, unless it says otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct RecoverReport {
    saves: u64,
    /// What the journal held of them.
    journal_bytes: u64,
    /// As the streams were acknowledged.
    stream_per_second: u64,
    /// From the start of the process until it served.
    recovered_per_second: u64,
    /// By the daemon's own account: from opening the journal to accepting saves.
    recovered_per_second_own: u64,
    /// From the start of the process until it served, with nothing in the journal: part of what the recovery took.
    empty_start_ms: f64,
    /// Of `recovered_per_second` to `stream_per_second`, round by round.
    ratio: f64,
    /// The lowest of any round.
    ratio_worst: f64,
    rounds: Vec<Round>,
}

/// One kill.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    journal_bytes: u64,
    stream_ms: f64,
    empty_start_ms: f64,
    /// From the start of the process until it served.
    start_ms: f64,
    /// The daemon's own account of it.
    recovery_ms: f64,
    ratio: f64,
}

impl RecoverReport {
    fn new(saves: u64, rounds: Vec<Round>) -> Self {
        let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
        let per_second = |ms: f64| (saves as f64 / ms * 1_000.0).round() as u64;
        Self {
            saves,
            journal_bytes: of(|round| round.journal_bytes as f64).round() as u64,
            stream_per_second: per_second(of(|round| round.stream_ms)),
            recovered_per_second: per_second(of(|round| round.start_ms)),
            recovered_per_second_own: per_second(of(|round| round.recovery_ms)),
            empty_start_ms: of(|round| round.empty_start_ms),
            ratio: of(|round| round.ratio),
            ratio_worst: rounds.iter().map(|round| round.ratio).fold(f64::INFINITY, f64::min),
            rounds,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let Self { saves, journal_bytes, stream_per_second, recovered_per_second, recovered_per_second_own, .. } = self;
        format!(
            "{saves} saves, a journal of {:.1} MiB, {} rounds\n\
             \x20 stream     {stream_per_second:>9} saves/s\n\
             \x20 recovered  {recovered_per_second:>9} saves/s   from the start of the process until it served; {:.1} ms with nothing to recover\n\
             \x20            {recovered_per_second_own:>9} saves/s   by the daemon's own account\n\
             \x20 ratio      {:>9.2}           worst {:.2}",
            *journal_bytes as f64 / f64::from(1 << 20),
            self.rounds.len(),
            self.empty_start_ms,
            self.ratio,
            self.ratio_worst,
        )
    }
}

/// Kills a daemon that has so many saves in its journal, round by round.
///
/// # Errors
/// No private Postgres, a daemon that doesn't start, or saves that are refused or don't come back.
pub async fn recover(options: RecoverOptions) -> anyhow::Result<RecoverReport> {
    let RecoverOptions { saves, rounds: count } = options;
    ensure!(saves > 0 && count > 0, "--saves or --rounds is 0: there would be nothing to recover");
    let (mut postgres, mut rounds) = (target::postgres("").await?, Vec::new());
    for _ in 0..count {
        rounds.push(round(&mut postgres, saves).await?);
    }
    Ok(RecoverReport::new(saves, rounds))
}

async fn round(postgres: &mut Sandbox, saves: u64) -> anyhow::Result<Round> {
    // The first start of a journal needs the catalog.
    block_in_place(|| postgres.start()).context("start Postgres")?;
    let mut daemon = Daemon::start_with(&postgres.url(), fill::room()).await?;
    block_in_place(|| postgres.stop(StopMode::Fast)).context("stop Postgres")?;
    let empty_start = daemon.kill_and_start().await?;
    let stream = fill(&daemon.address(), saves, |n| Load::Reference.save(n)).await?;
    let (_, journal_bytes) = held(daemon.client()).await?;
    let start = daemon.kill_and_start().await?;
    let recovery = daemon.recovery().await?;
    let (recovered, _) = held(daemon.client()).await?;
    daemon.kill().await?;
    ensure!(recovered == saves, "of {saves} saves {recovered} came back");
    let ratio = ratio(stream.as_secs_f64(), start.as_secs_f64());
    Ok(Round {
        journal_bytes,
        stream_ms: millis(stream),
        empty_start_ms: millis(empty_start),
        start_ms: millis(start),
        recovery_ms: millis(recovery),
        ratio,
    })
}

/// Saves that are not in Postgres, and the journal's bytes of them.
async fn held(client: &Client) -> anyhow::Result<(u64, u64)> {
    let status = client.status().await.context("read the daemon's status")?;
    let saves = status.lanes.iter().map(|lane| lane.backlog_saves).sum();
    Ok((saves, status.journal.unwrap_or_default().bytes))
}

/// To a tenth.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rounds_are_told_by_their_medians_and_the_worst() {
        let round = |stream_ms, start_ms, ratio| {
            let (journal_bytes, empty_start_ms, recovery_ms) = (3 << 20, 50.0, start_ms - 40.0);
            Round { journal_bytes, stream_ms, empty_start_ms, start_ms, recovery_ms, ratio }
        };
        let rounds = vec![round(1_000.0, 540.0, 1.852), round(2_000.0, 1_000.0, 2.0), round(500.0, 440.0, 1.136)];
        let report = RecoverReport::new(10_000, rounds);
        assert_eq!((report.stream_per_second, report.recovered_per_second, report.recovered_per_second_own), (10_000, 18_519, 20_000));
        assert_eq!((report.ratio.to_string(), report.ratio_worst.to_string()), ("1.852".to_owned(), "1.136".to_owned()));
        assert!(report.text().contains("10000 saves, a journal of 3.0 MiB, 3 rounds"), "{}", report.text());
    }
}
