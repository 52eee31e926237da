//! `forebay bench compare`, and the subjects of it that aren't Forebay.

use std::{path::PathBuf, time::Duration};

use clap::{Args, builder::PossibleValuesParser};
use forebay::{
    bench::{self, CompareOptions, DirectOptions, Load, RedisOptions, UnnestOptions},
    exit::{Exit, Failure},
    settings::Settings,
};

use super::{print, run_to_end};

#[derive(Args)]
pub(super) struct CompareArgs {
    /// How often each subject is measured, in turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// How long, each time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Measure these alone.
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = PossibleValuesParser::new(bench::subjects()))]
    only: Vec<String>,
    /// The program of benches/ceiling, if it isn't in its checkout's target directory.
    #[arg(long, value_name = "PROGRAM")]
    ceiling: Option<PathBuf>,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct DirectArgs {
    /// Connections, each waiting for its answer before it writes again. (The server takes 100 in all.)
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=90))]
    connections: u32,
    /// 50,000 objects or 1,000.
    #[arg(long, value_enum, default_value = "reference")]
    load: Load,
    /// Rows of a statement.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    statement_rows: u64,
    /// How long.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct RedisArgs {
    /// Connections, each waiting for its answers before it saves again.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    connections: u32,
    /// 50,000 objects or 1,000.
    #[arg(long, value_enum, default_value = "reference")]
    load: Load,
    /// SETs that are sent before their answers are awaited.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pipeline: u64,
    /// How long.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct UnnestArgs {
    /// Rows in all.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rows: u64,
    /// Rows of a statement; without it as many as `drain.statement_rows` says by default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    statement_rows: Option<u32>,
    /// Print the result as a line of JSON.
    #[arg(long)]
    json: bool,
}

impl CompareArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let Self { rounds, seconds, only, ceiling, json } = self;
        let report = run_to_end(bench::compare(CompareOptions { rounds, time: Duration::from_secs(seconds), only, ceiling }), "bench")?;
        print(json, &report, report.text().trim_end())
    }
}

impl DirectArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let Self { connections, load, statement_rows, seconds, json } = self;
        let options = DirectOptions { connections: connections as usize, load, statement_rows, time: Duration::from_secs(seconds) };
        let report = run_to_end(bench::direct(options), "bench")?;
        print(json, &report, &report.text())
    }
}

impl RedisArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let Self { connections, load, pipeline, seconds, json } = self;
        let options = RedisOptions { connections: connections as usize, load, pipeline, time: Duration::from_secs(seconds) };
        let report = run_to_end(bench::redis(options), "bench")?;
        print(json, &report, &report.text())
    }
}

impl UnnestArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let Self { rows, statement_rows, json } = self;
        let statement_rows = statement_rows.map_or(Settings::default().drain.statement_rows, u64::from) as usize;
        let report = run_to_end(bench::unnest(UnnestOptions { rows, statement_rows }), "bench")?;
        print(json, &report, &report.text())
    }
}
