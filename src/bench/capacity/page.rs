//! What a daemon in a process of its own says of itself: its page of metrics, read again and again over a step.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::{sleep_until, timeout};

use super::utilisation::{OwnCpu, Utilisation};
use crate::child::{Daemon, value_of};

/// The daemon is driven to its limit meanwhile.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Often enough for a tenth of a second to show, seldom enough to cost nothing beside the load.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(25);

/// `/metrics`, read once, and the daemon's processor time then.
#[derive(Debug)]
struct Page {
    text: String,
    cpu: Duration,
    read_at: Instant,
}

impl Page {
    async fn read(daemon: &Daemon) -> anyhow::Result<Self> {
        let text = timeout(TIMEOUT, daemon.metrics()).await.context("the daemon doesn't show its metrics")??;
        Ok(Self { text, cpu: daemon.cpu_time()?, read_at: Instant::now() })
    }

    /// A series by its whole name, labels included.
    fn value(&self, series: &str) -> anyhow::Result<f64> {
        value_of(series, &self.text).and_then(|value| value.parse().ok()).with_context(|| format!("the daemon's metrics have no {series}"))
    }
}

/// What the page said over a step.
#[derive(Debug)]
pub(super) struct Watched<const LEVELS: usize> {
    first: Page,
    last: Page,
    /// Of each level that was asked for, taken evenly.
    pub(super) samples: [Vec<f64>; LEVELS],
    pub(super) utilisation: Utilisation,
}

impl<const LEVELS: usize> Watched<LEVELS> {
    /// Watches levels from one instant until another.
    pub(super) async fn watch(daemon: &Daemon, from: Instant, until: Instant, levels: [&str; LEVELS]) -> anyhow::Result<Self> {
        sleep_until(from.into()).await;
        let (own, first) = (OwnCpu::begin(), Page::read(daemon).await?);
        let mut samples = levels.map(|_| Vec::new());
        let mut due = from;
        while due < until {
            due += SAMPLE_INTERVAL;
            sleep_until(due.into()).await;
            let page = Page::read(daemon).await?;
            for (level, samples) in levels.iter().zip(&mut samples) {
                samples.push(page.value(level)?);
            }
        }
        let last = Page::read(daemon).await?;
        let daemon_cores = last.cpu.saturating_sub(first.cpu).as_secs_f64() / seconds(&first, &last);
        Ok(Self { first, last, samples, utilisation: Utilisation::new(daemon_cores, own.cores()) })
    }

    /// How much a counter grew meanwhile.
    pub(super) fn growth(&self, counter: &str) -> anyhow::Result<f64> {
        Ok(self.last.value(counter)? - self.first.value(counter)?)
    }

    /// How long that took.
    pub(super) fn seconds(&self) -> f64 {
        seconds(&self.first, &self.last)
    }
}

fn seconds(first: &Page, last: &Page) -> f64 {
    last.read_at.duration_since(first.read_at).as_secs_f64()
}
