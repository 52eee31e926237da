//! `forebay limit`: a limit, changed while the daemon runs.

use clap::Args;
use forebay::exit::{Exit, Failure};

use super::daemon::DaemonArguments;

/// Changes a limit of the running daemon, until its next start: `failed.saves_max`, `grpc.calls_in_flight_max`,
/// `drain.rows_per_second_max` (0 is none) or `drain.statement_target` (in milliseconds).
#[derive(Args)]
pub(super) struct Arguments {
    /// The setting.
    name: String,
    /// What it is to allow.
    max: u64,
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let Arguments { name, max, daemon } = arguments;
    let limits = daemon.ask("set limit", async |client| client.set_limits(&[(name, *max)]).await)?;
    let used = limits.iter().find(|limit| limit.name == *name).map_or(0, |limit| limit.used);
    println!("{name} is {max} until the next start, {used} in use: change the settings too if it is to stay");
    Ok(Exit::Success)
}
