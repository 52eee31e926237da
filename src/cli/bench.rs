//! `forebay bench`: measures.

use std::time::Duration;

use clap::{Args, Subcommand};
use forebay::{
    bench::{self, CapacityOptions, DrainOptions, Load, Mode, Poison, SaveOptions, WaitsOptions},
    exit::{Exit, Failure, OrExit},
    settings::parse_time,
};
use serde::Serialize;

use super::run_to_end;

/// Measures how fast saves are acknowledged, and drained.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// How fast saves are acknowledged, by a daemon of its own with a private Postgres, or by the target.
    Save(SaveArgs),
    /// How fast a full backlog gets into a private Postgres.
    Drain(DrainArgs),
    /// What callers that wait for outcomes cost: memory of each, and how much slower others are answered.
    Waits(WaitsArgs),
    /// How many saves per second are acknowledged within a bound, and how many the drain keeps up with.
    #[command(after_long_help = CAPACITY_FIELDS)]
    Capacity(CapacityArgs),
}

#[derive(Args)]
struct SaveArgs {
    /// One save a call, a hundred a call, or a stream.
    #[arg(long, value_enum, default_value = "unary")]
    mode: Mode,
    /// 50,000 objects or 1,000; 300 bytes of JSON.
    #[arg(long, value_enum, default_value = "reference")]
    load: Load,
    /// Callers at once, or streams.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    callers: u32,
    /// How long.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Hold the drain: measures the front half alone.
    #[arg(long)]
    paused: bool,
    /// The daemon to measure, like 127.0.0.1:7420; it needs the table of the load.
    #[arg(long, value_name = "ADDRESS")]
    target: Option<String>,
    /// Saves per second that are due whether earlier ones are answered or not; latency counts from when they were due.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct DrainArgs {
    /// Objects to save before the drain begins.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rows: u64,
    /// Make one save in a thousand one that Postgres won't take, for a fault in its row or between rows.
    #[arg(long, value_enum)]
    poison: Option<Poison>,
    /// Have each save's outcome told to an endpoint where nobody listens.
    #[arg(long)]
    callbacks: bool,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct WaitsArgs {
    /// AwaitTicket calls that are outstanding at once.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    callers: u32,
    /// How long other calls are timed, without and with them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct CapacityArgs {
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
    json: bool,
}

const CAPACITY_FIELDS: &str = "\
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

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    match arguments.command {
        Command::Save(arguments) => {
            let json = arguments.json;
            let report = run_to_end(bench::save(arguments.options()), "bench")?;
            print(json, &report, &report.text())
        }
        Command::Drain(arguments) => {
            let DrainArgs { rows, poison, callbacks, .. } = arguments;
            let report = run_to_end(bench::drain(DrainOptions { rows, poison, callbacks }), "bench")?;
            print(arguments.json, &report, &report.text())
        }
        Command::Waits(WaitsArgs { callers, seconds, json }) => {
            let report = run_to_end(bench::waits(WaitsOptions { callers, time: Duration::from_secs(seconds) }), "bench")?;
            print(json, &report, &report.text())
        }
        Command::Capacity(arguments) => {
            let json = arguments.json;
            let report = run_to_end(bench::capacity(arguments.options()), "bench")?;
            print(json, &report, &report.text())
        }
    }
}

impl CapacityArgs {
    fn options(self) -> CapacityOptions {
        CapacityOptions {
            p95: self.p95,
            connections: self.connections.into_iter().map(|connections| connections as usize).collect(),
            slow: self.slow as usize,
            step: Duration::from_secs(self.step_seconds),
            rate_max: self.rate_max,
        }
    }
}

impl SaveArgs {
    fn options(self) -> SaveOptions {
        SaveOptions {
            mode: self.mode,
            load: self.load,
            callers: self.callers as usize,
            time: Duration::from_secs(self.seconds),
            paused: self.paused,
            target: self.target,
            rate: self.rate,
        }
    }
}

fn print(json: bool, report: &impl Serialize, text: &str) -> Result<Exit, Failure> {
    if json {
        println!("{}", serde_json::to_string(report).or_exit(Exit::Internal, "write the report")?);
    } else {
        println!("{text}");
    }
    Ok(Exit::Success)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.1..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number of saves per second, from 0.1 to 10000000".to_owned()),
    }
}
