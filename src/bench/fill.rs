//! Fills a backlog with a given number of saves, by streams as `bench save --mode stream` has them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::JoinSet;

use super::callers::{self, CONNECTIONS};
use crate::proto::{self, save_service_client::SaveServiceClient};

const STREAMS: usize = 64;

/// Settings of a daemon that has room for any backlog.
pub(super) fn room() -> Vec<(&'static str, String)> {
    [("backlog.objects_max", 1_000_000_000_u64), ("backlog.bytes_max", 1 << 40)].map(|(key, max)| (key, max.to_string())).into()
}

/// Has the first `count` of these saves acknowledged; how long that took.
pub(super) async fn fill(address: &str, count: u64, save: impl Fn(u64) -> proto::Save + Copy + Send + 'static) -> anyhow::Result<Duration> {
    let channels = callers::connect(address, CONNECTIONS).await?;
    let start = Instant::now();
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        let client = SaveServiceClient::new(channels[number % CONNECTIONS].clone());
        streams.spawn(callers::stream(client, (number as u64..count).step_by(STREAMS).map(save)));
    }
    let mut acknowledged = 0;
    while let Some(seen) = streams.join_next().await {
        let seen = seen.context("a stream panicked")?;
        ensure!(seen.errors == 0, "{} saves were refused, the first with {}", seen.errors, seen.first_error.unwrap_or_default());
        acknowledged += seen.acknowledged;
    }
    let elapsed = start.elapsed();
    ensure!(acknowledged == count, "of {count} saves only {acknowledged} were acknowledged");
    Ok(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::load, client::fake::Fake};

    #[tokio::test]
    async fn every_save_is_made_once() {
        let fake = Fake::start().await;
        fill(&fake.address.to_string(), 1_000, |n| load::save(n, n)).await.expect("accepted");
        let mut keys = fake.state().accepted.clone();
        keys.sort_unstable();
        let mut expected: Vec<_> = (0..1_000).map(|n| n.to_string()).collect();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
}
