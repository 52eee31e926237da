//! How the program ends: exit codes that a supervisor or a script can act on, after sysexits.h, and failures that carry one.

use std::{fmt, process::ExitCode};

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// The answer is no: a probe fails, a check found something, a demo lost a save.
    No = 1,
    /// The command line is wrong.
    Usage = 64,
    /// The journal is damaged: see `forebay journal salvage`.
    DamagedJournal = 65,
    /// Something outside is missing: Postgres at the very first start, or the daemon that was to be asked.
    Unavailable = 69,
    /// A bug of ours, or an error that no other code fits.
    Internal = 70,
    /// The journal's directory can't be made or used.
    JournalDirectory = 73,
    /// The journal can't be read or written.
    JournalIo = 74,
    /// Not now: another daemon holds the journal, or a drain did not end empty. Trying again may help.
    TryAgain = 75,
    /// The settings are wrong.
    Settings = 78,
}

/// What stopped the program, and the exit code that says so. `Display` is the whole chain, outermost act first.
#[derive(Debug)]
pub struct Failure {
    /// For the supervisor.
    pub exit: Exit,
    /// For people.
    pub error: anyhow::Error,
}

/// Gives the errors of a step their exit code and the name of the act that failed.
pub trait OrExit<T> {
    /// The value, or a [`Failure`] that reads `act: error`.
    ///
    /// # Errors
    /// The error, with its exit code.
    fn or_exit(self, exit: Exit, act: &'static str) -> Result<T, Failure>;
}

impl Failure {
    /// Puts the act that failed before the chain.
    #[must_use]
    pub fn during(self, act: &'static str) -> Self {
        Self { error: self.error.context(act), ..self }
    }
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit, act: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure { exit, error: error.into().context(act) })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The alternate form of anyhow is the chain, joined by colons.
        write!(f, "{:#}", self.error)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_failure_reads_as_one_chain() {
        let denied: Result<(), _> = Err(io::Error::other("permission denied"));
        let failure = denied.or_exit(Exit::JournalDirectory, "open journal").expect_err("denied");
        assert_eq!(failure.to_string(), "open journal: permission denied");
        assert_eq!(failure.exit as u8, 73);
    }
}
