//! How many files the process may have open: each connection is one. Short of them, the journal could not open a segment, which
//! ends the daemon; so they are asked for before anything listens.

use anyhow::{Context, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Beside those of gRPC connections: the HTTP port's connections, journal, Postgres, callbacks.
const OTHER_FILES: u64 = 256;

/// Raises the limit of open files, of this process and those that it starts, to what so many gRPC connections need.
///
/// # Errors
/// The system allows fewer; how many connections they are enough for is said.
pub fn allow_connections(connections: u64) -> anyhow::Result<()> {
    let needed = connections + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let most = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        most >= needed,
        "{connections} connections need {needed} open files, and this process may have {most} (ulimit -Hn): raise that, or have at most \
         {} connections",
        most.saturating_sub(OTHER_FILES)
    );
    limit.current = Some(needed);
    setrlimit(Resource::Nofile, limit).context("raise the limit of open files")
}
