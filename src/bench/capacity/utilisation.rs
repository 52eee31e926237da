//! How busy the machine's cores were, and with whom.

use std::{
    fmt,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// CPU time taken over a step, as shares of all cores. What is left of 1 was for Postgres and everybody else, or idle.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Utilisation {
    /// Of the machine.
    pub(super) cores: usize,
    /// By the daemon.
    pub(super) daemon: f64,
    /// By this program: the callers, fast and slow.
    pub(super) callers: f64,
}

impl Utilisation {
    /// From how many cores each kept busy.
    pub(super) fn new(daemon_cores: f64, callers_cores: f64) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cores, daemon: daemon_cores / cores as f64, callers: callers_cores / cores as f64 }
    }
}

impl fmt::Display for Utilisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5.0} % {:>6.0} %", self.daemon * 100.0, self.callers * 100.0)
    }
}

/// The CPU time of this process.
#[derive(Debug)]
pub(super) struct OwnCpu {
    taken: Duration,
    since: Instant,
}

impl OwnCpu {
    pub(super) fn begin() -> Self {
        Self { taken: taken(), since: Instant::now() }
    }

    /// How many cores were kept busy since.
    pub(super) fn cores(&self) -> f64 {
        (taken() - self.taken).as_secs_f64() / self.since.elapsed().as_secs_f64()
    }
}

fn taken() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().expect("CPU time is not negative")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        let before = taken();
        let sum = (0..3_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        assert!(taken() > before, "{sum}");
    }

    #[test]
    fn shares_are_of_all_cores() {
        let Utilisation { cores, daemon, callers } = Utilisation::new(1.0, 0.5);
        assert!((daemon * cores as f64 - 1.0).abs() < 1e-9 && (callers * cores as f64 - 0.5).abs() < 1e-9);
    }
}
