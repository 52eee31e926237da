//! `forebay lane`: what only a person decides for a lane.

use clap::{Args, Subcommand};
use forebay::exit::{Exit, Failure};

use super::daemon::DaemonArguments;

/// Decides what a lane can't decide by itself.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Gives up the saves that Postgres has lost and the journal no longer holds, for good; the lane goes on with the oldest save
    /// that the journal holds. Exits 1 if the lane isn't halted in front of such a gap.
    AcceptGap {
        /// The lane.
        lane: String,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let Action::AcceptGap { lane, daemon } = &arguments.action;
    if daemon.ask("accept the gap", async |client| client.accept_gap(lane).await)? {
        println!("lane {lane} goes on behind the gap: the daemon's log names the saves that are given up");
        Ok(Exit::Success)
    } else {
        println!("lane {lane} is not halted in front of a gap");
        Ok(Exit::No)
    }
}
