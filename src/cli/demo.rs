//! `forebay demo`: the product in one minute.

use clap::Args;
use forebay::{
    demo,
    exit::{Exit, Failure, OrExit},
};

use super::run_to_end;

/// Shows the product in one minute: 200,000 saves, Postgres stopped for a while, the daemon killed, nothing lost.
///
/// Needs the Postgres server programs; everything it starts is private and ends with it.
#[derive(Args)]
pub(super) struct Arguments {
    /// Print the report as a line of JSON, last.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let report = run_to_end(demo::run(), "demo")?;
    println!("{}", report.text());
    if arguments.json {
        println!("{}", serde_json::to_string(&report).or_exit(Exit::Internal, "write the report")?);
    }
    Ok(if report.is_clean() { Exit::Success } else { Exit::No })
}
