//! `forebay bench capacity`: what it is told, and what it reports, field by field.

use std::time::Duration;

use clap::Args;
use forebay::{bench::CapacityOptions, settings::parse_time};

use super::parse_rate;

/// Of the report, for those who read it.
pub(super) const FIELDS: &str = "\
Saves arrive by chance (a Poisson process), whether earlier ones are answered or not. The rate doubles until a step breaks, the gap
is cut four times, and the capacity is the highest rate that held twice. The JSON:
  p95_bound_us         the bound
  ingest[]             single calls, drain paused; one for each --connections, then again beside the slow clients
    connections        of the callers
    slow_clients       beside them; slow_answered: their calls that ended well or were refused; slow_ended: their connections
                       that ended before that
    capacity_per_second  saves; 0 if no rate held twice
    broken_by          of the next higher rate: p95, errors, outstanding (16,000 calls unanswered), or null at --rate-max
    p50_us, p95_us, p99_us  from when a call was due until it was answered, at capacity, as all that follows
    late_p95_us        the part of that which is this program's: from when a call was due until it was made
    utilisation        CPU time as a share of all cores: of the daemon, and of the callers, this program
    little             rate x time_seconds = expected calls in the daemon, the observed number (sampled), and observed / expected
  drain                distinct new objects, in batches
    capacity_per_second, broken_by  as above; backlog: it grew by more than a twentieth of what arrived; outstanding: 64 batches
    persist_p50_us, persist_p95_us, persist_p99_us  from a save's acknowledgement until its outcome was told to a watcher
    drift_per_second   objects by which the backlog grew, last third against middle third, by mean or by minimum if that is less
    lane_busy          share of the time in which the lane was writing
    utilisation        as above
    little             rate x time in the backlog = expected objects in it, those observed (sampled), and observed / expected";

#[derive(Args)]
pub(super) struct Arguments {
    /// The bound of the 95th percentile of a call.
    #[arg(long, default_value = "20ms", value_name = "TIME", value_parser = parse_time)]
    p95: Duration,
    /// Connections of the callers: a search for each.
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000", value_parser = clap::value_parser!(u32).range(1..=4_000))]
    connections: Vec<u32>,
    /// Slow clients, sending a byte every 100 ms, beside which each search is repeated; 0: it is not.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=4_000))]
    slow: u32,
    /// How long each rate is measured; the drain's three times as long.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=300))]
    step_seconds: u64,
    /// The highest rate to try, in saves per second.
    #[arg(long, hide = true, default_value_t = 10_000_000.0, value_parser = parse_rate)]
    rate_max: f64,
    /// Print the result as a line of JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl Arguments {
    pub(super) fn options(self) -> CapacityOptions {
        CapacityOptions {
            p95: self.p95,
            connections: self.connections.into_iter().map(|connections| connections as usize).collect(),
            slow: self.slow as usize,
            step: Duration::from_secs(self.step_seconds),
            rate_max: self.rate_max,
        }
    }
}
