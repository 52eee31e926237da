//! `forebay bench`: measures.

use std::time::Duration;

use clap::{Args, Subcommand};
use forebay::{
    bench::{
        self, DrainOptions, Load, MemoryOptions, Mode, OutageOptions, Poison, ReadersOptions, RecoverOptions, SaveOptions, WaitsOptions,
    },
    exit::{Exit, Failure, OrExit},
};
use serde::Serialize;

use super::run_to_end;
use compare::{CompareArgs, DirectArgs, RedisArgs, UnnestArgs};

mod compare;

mod capacity;

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
    /// Forebay beside what you would pick instead, on this machine, all in one run that takes turns: direct writes, Redis, the limit.
    Compare(CompareArgs),
    /// How fast an application writes into a private Postgres itself.
    Direct(DirectArgs),
    /// How fast a private Redis acknowledges what it has synced.
    Redis(RedisArgs),
    /// How fast a bare loop writes what `bench drain` drains.
    Unnest(UnnestArgs),
    /// How fast saves come back after a kill, against how fast they were taken.
    Recover(RecoverArgs),
    /// How acknowledgements fare while Postgres is stopped, at half of what the daemon can take.
    Outage(OutageArgs),
    /// What an object of the backlog takes of memory beyond its key and body.
    Memory(MemoryArgs),
    /// What those who read the same table directly notice of the drain: at full speed, held to a rate, into a slow Postgres.
    Readers(ReadersArgs),
    /// How many saves per second are acknowledged within a bound, and how many the drain keeps up with.
    #[command(after_long_help = capacity::FIELDS)]
    Capacity(capacity::Arguments),
}

#[derive(Args)]
struct SaveArgs {
    /// One save a call, a hundred a call, or a stream.
    #[arg(long, value_enum, default_value = "unary")]
    mode: Mode,
    /// 50,000 objects or 1,000; 300 bytes of JSON.
    #[arg(long, value_enum, default_value = "reference")]
    load: Load,
    /// As many objects instead.
    #[arg(long, conflicts_with = "load", value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    objects: Option<u64>,
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
struct RecoverArgs {
    /// Saves to recover.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    saves: u64,
    /// Kills, each of a daemon of its own.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct OutageArgs {
    /// Outages.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// How long calls are timed, before each outage and during it.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct MemoryArgs {
    /// Objects to weigh, 300 bytes of JSON each.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    objects: u64,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ReadersArgs {
    /// Rows of the table, all of which are saved before each drain begins.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    rows: u64,
    /// Rows a second of the drain that is held to a rate.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rows_per_second: u64,
    /// How long to read at the most, each time.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

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
        Command::Compare(arguments) => arguments.run(),
        Command::Direct(arguments) => arguments.run(),
        Command::Redis(arguments) => arguments.run(),
        Command::Unnest(arguments) => arguments.run(),
        Command::Recover(RecoverArgs { saves, rounds, json }) => {
            let report = run_to_end(bench::recover(RecoverOptions { saves, rounds }), "bench")?;
            print(json, &report, &report.text())
        }
        Command::Outage(OutageArgs { rounds, seconds, json }) => {
            let report = run_to_end(bench::outage(OutageOptions { rounds, time: Duration::from_secs(seconds) }), "bench")?;
            print(json, &report, &report.text())
        }
        Command::Memory(MemoryArgs { objects, json }) => {
            let report = run_to_end(bench::memory(MemoryOptions { objects }), "bench")?;
            print(json, &report, &report.text())
        }
        Command::Readers(ReadersArgs { rows, rows_per_second, seconds, json }) => {
            let options = ReadersOptions { rows, rows_per_second, time: Duration::from_secs(seconds) };
            let report = run_to_end(bench::readers(options), "bench")?;
            print(json, &report, &report.text())
        }
        Command::Capacity(arguments) => {
            let json = arguments.json;
            let report = run_to_end(bench::capacity(arguments.options()), "bench")?;
            print(json, &report, &report.text())
        }
    }
}

impl SaveArgs {
    fn options(self) -> SaveOptions {
        SaveOptions {
            mode: self.mode,
            load: self.objects.map_or(self.load, Load::Objects),
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
