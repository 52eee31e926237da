//! What the daemon's metrics say of statements: a histogram, before and after.

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::child::Daemon;

const BUCKET: &str = "forebay_statement_seconds_bucket{lane=\"default\",le=\"";

/// How many statements took no longer than so many seconds, rising.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Times(Vec<(f64, f64)>);

impl Times {
    /// As they are now.
    pub(super) async fn scrape(daemon: &Daemon) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(daemon.http()).await.context("connect to the daemon's metrics")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: forebay\r\nconnection: close\r\n\r\n").await.context("ask for the metrics")?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.context("read the metrics")?;
        Self::parse(&page).context("the metrics tell nothing of statements")
    }

    fn parse(page: &str) -> Option<Self> {
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(BUCKET)?.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.trim().parse().ok()?))
        };
        let times: Vec<_> = page.lines().filter_map(bucket).collect();
        (!times.is_empty()).then_some(Self(times))
    }

    /// Those that came after `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self(self.0.iter().zip(&before.0).map(|(now, before)| (now.0, now.1 - before.1)).collect())
    }

    /// Seconds, evened out within a bucket; of the last one, where it begins. None if there were no statements.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        let wanted = quantile * self.0.last().filter(|(_, all)| *all > 0.0)?.1;
        let (mut from, mut below) = (0.0, 0.0);
        for &(to, count) in &self.0 {
            if count >= wanted && to.is_finite() {
                return Some(from + (to - from) * (wanted - below) / (count - below).max(f64::MIN_POSITIVE));
            }
            if to.is_finite() {
                (from, below) = (to, count);
            }
        }
        Some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(counts: [u32; 4]) -> Times {
        let [a, b, c, all] = counts;
        let page = format!("x 1\n{BUCKET}0.01\"}} {a}\n{BUCKET}0.05\"}} {b}\n{BUCKET}0.1\"}} {c}\n{BUCKET}+Inf\"}} {all}\n");
        Times::parse(&page).expect("a histogram")
    }

    #[test]
    fn quantiles_lie_within_their_buckets() {
        let times = times([10, 30, 40, 41]).since(&times([10, 10, 20, 20]));
        assert_eq!(times.0.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [0.0, 20.0, 20.0, 21.0]);
        let median = times.quantile(0.5).expect("some");
        assert!((median - 0.031).abs() < 1e-9, "{median}");
        assert_eq!(times.quantile(1.0), Some(0.1), "beyond the last bound nothing is known");
        assert_eq!(times.since(&times).quantile(0.5), None);
        assert_eq!(Times::parse("forebay_up 1"), None);
    }
}
