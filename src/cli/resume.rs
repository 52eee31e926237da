//! `forebay resume`: ends a pause, or a halt.

use clap::Args;
use forebay::exit::{Exit, Failure};

use super::daemon::DaemonArguments;

/// Goes on writing to Postgres; a halted lane probes at once.
#[derive(Args)]
pub(super) struct Arguments {
    /// Makes failed saves of what stands in front of a halted lane.
    #[arg(long)]
    fail: bool,
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let lanes = arguments.daemon.ask("resume", async |client| client.resume(arguments.fail).await)?;
    match lanes.as_slice() {
        [] => println!("nothing was paused or halted"),
        lanes => println!("resumed: {}", lanes.join(", ")),
    }
    Ok(Exit::Success)
}
