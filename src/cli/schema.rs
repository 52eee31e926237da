//! `forebay schema`: what the daemon keeps in Postgres, for a DBA who makes it by hand.

use clap::Args;
use forebay::{
    exit::{Exit, Failure},
    postgres,
};

/// Prints the statements that make the schema `forebay`; the daemon runs them itself where it may.
#[derive(Args)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments) -> Result<Exit, Failure> {
    print!("{}", postgres::schema_sql());
    Ok(Exit::Success)
}
