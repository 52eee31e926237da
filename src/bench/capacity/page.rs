//! What a daemon in a process of its own says of itself: its page of metrics, read again and again over a step.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep_until, timeout},
};

use super::utilisation::{OwnCpu, Utilisation};

/// The daemon is driven to its limit meanwhile.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Far above any page of one collection and one lane.
const PAGE_BYTES_MAX: u64 = 1 << 20;
/// Often enough for a tenth of a second to show, seldom enough to cost nothing beside the load.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(25);
const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// `/metrics`, read once.
#[derive(Debug)]
struct Page {
    text: String,
    read_at: Instant,
}

impl Page {
    async fn read(address: &str) -> anyhow::Result<Self> {
        let text = timeout(TIMEOUT, get(address)).await.context("the daemon doesn't show its metrics")?;
        let text = text.context("read the daemon's metrics")?;
        ensure!(text.starts_with("HTTP/1.1 200"), "the daemon shows no metrics: {}", text.lines().next().unwrap_or_default());
        Ok(Self { text, read_at: Instant::now() })
    }

    /// A series by its whole name, labels included.
    fn value(&self, series: &str) -> anyhow::Result<f64> {
        let found = self.text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.and_then(|value| value.parse().ok()).with_context(|| format!("the daemon's metrics have no {series}"))
    }
}

async fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
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
    pub(super) async fn watch(address: &str, from: Instant, until: Instant, levels: [&str; LEVELS]) -> anyhow::Result<Self> {
        sleep_until(from.into()).await;
        let (own, first) = (OwnCpu::begin(), Page::read(address).await?);
        let mut samples = levels.map(|_| Vec::new());
        let mut due = from;
        while due < until {
            due += SAMPLE_INTERVAL;
            sleep_until(due.into()).await;
            let page = Page::read(address).await?;
            for (level, samples) in levels.iter().zip(&mut samples) {
                samples.push(page.value(level)?);
            }
        }
        let last = Page::read(address).await?;
        let daemon_cores = (last.value(CPU_SECONDS)? - first.value(CPU_SECONDS)?) / seconds(&first, &last);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_whole_name() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE calls gauge\ncalls{rpc=\"Save\"} 7\ncalls{rpc=\"SaveBatch\"} 2.5\ncalls_total 9\n";
        let page = Page { text: text.to_owned(), read_at: Instant::now() };
        assert_eq!(page.value("calls{rpc=\"SaveBatch\"}").expect("it is there"), 2.5);
        assert_eq!(page.value("calls_total").expect("it is there"), 9.0);
        assert!(page.value("calls").is_err());
    }
}
