//! `forebay pause`: saves are accepted, nothing is written.

use std::time::Duration;

use clap::Args;
use forebay::exit::{Exit, Failure};

use super::daemon::DaemonArguments;

/// Stops writing to Postgres; saves are still accepted, until a limit is met.
#[derive(Args)]
pub(super) struct Arguments {
    /// Why; shown in the status.
    #[arg(long)]
    reason: String,
    /// When it ends by itself, in minutes: at most an hour.
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=60))]
    minutes: u64,
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let duration = Duration::from_secs(60 * arguments.minutes);
    arguments.daemon.ask("pause", async |client| client.pause(&arguments.reason, duration).await)?;
    println!("paused for {} min: nothing is written to Postgres until then, or `forebay resume`", arguments.minutes);
    Ok(Exit::Success)
}
