//! What went wrong in Postgres, and what to do about it.

use std::{error, fmt, time::Duration};

use tokio_postgres::error::{DbError, Severity};

use super::sqlstate::{self, Action, Phase, Told};
use crate::save::Sequence;

/// An error of Postgres or of the way to it.
///
/// `Display` is safe for logs: what may hold the content of rows (DETAIL always, the message of data errors) stays out of it
/// and is for `forebay.failed_save` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What to do about it.
    pub action: Action,
    /// The SQLSTATE; `None` if Postgres didn't speak.
    pub sqlstate: Option<Box<str>>,
    /// Its message; may hold values.
    pub message: Box<str>,
    /// DETAIL; holds values.
    pub detail: Option<Box<str>>,
    /// The constraint that was violated.
    pub constraint: Option<Box<str>>,
    /// The column that Postgres names.
    pub column: Option<Box<str>>,
    /// The collection whose statement it was.
    pub collection: Option<Box<str>>,
    /// What a person can do; empty where waiting is all.
    pub remedy: Box<str>,
    /// The save that its words point at, if they do: a guess.
    pub suspect: Option<Sequence>,
}

impl Failure {
    /// Without a word from Postgres.
    pub(crate) fn local(action: Action, message: impl Into<Box<str>>) -> Self {
        Self {
            action,
            sqlstate: None,
            message: message.into(),
            detail: None,
            constraint: None,
            column: None,
            collection: None,
            remedy: Box::default(),
            suspect: None,
        }
    }

    /// As Postgres would have said it, had it been asked.
    pub(super) fn as_if(action: Action, sqlstate: &str, message: impl Into<Box<str>>) -> Self {
        let remedy = sqlstate::remedy(sqlstate).into();
        Self { sqlstate: Some(sqlstate.into()), remedy, ..Self::local(action, message) }
    }

    /// Our own limit passed.
    pub(super) fn timed_out(phase: Phase, limit: Duration, act: &str) -> Self {
        let message = format!("no answer within {limit:?} ({act})");
        let remedy = "look for what makes Postgres or the network slow".into();
        Self { remedy, ..Self::local(sqlstate::judge_silence(phase), message) }
    }

    pub(super) fn from_error(error: &tokio_postgres::Error, phase: Phase) -> Self {
        match error.as_db_error() {
            Some(told) => Self::told(told, phase),
            None => Self::untold(error, phase),
        }
    }

    /// The collection whose statement it was.
    pub(super) fn of(mut self, collection: &str) -> Self {
        self.collection = Some(collection.into());
        self
    }

    fn told(error: &DbError, phase: Phase) -> Self {
        let code = match (error.code().code(), error.routine()) {
            // What a standby says to `begin read write`, which is the first it hears from a connection that used to lead to the primary.
            ("0A000", Some("call_bool_check_hook")) => "25006",
            (code, _) => code,
        };
        let fatal = matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        let owned = |text: Option<&str>| text.map(Box::from);
        Self {
            action: sqlstate::judge(Told { code, routine: error.routine(), fatal }, phase),
            sqlstate: Some(code.into()),
            message: error.message().into(),
            detail: owned(error.detail()),
            constraint: owned(error.constraint()),
            column: owned(error.column()),
            collection: None,
            remedy: sqlstate::remedy(code).into(),
            suspect: None,
        }
    }

    /// tokio-postgres keeps its kinds to itself: its texts tell them apart.
    fn untold(error: &tokio_postgres::Error, phase: Phase) -> Self {
        let told = error.to_string();
        let action = match () {
            () if told.starts_with("error serializing") || told.starts_with("error encoding") => Action::Halve,
            () if phase == Phase::CommitSent => Action::InDoubt,
            () if ["authentication error", "invalid co", "error performing TLS"].iter().any(|kind| told.starts_with(kind)) => Action::Halt,
            () if ["unexpected message", "error parsing", "error deserializing", "query returned"]
                .iter()
                .any(|kind| told.starts_with(kind)) =>
            {
                Action::ReconnectThenHalt
            }
            () => sqlstate::judge_silence(phase),
        };
        let message = match error::Error::source(error) {
            Some(source) => format!("{told}: {source}"),
            None => told,
        };
        let remedy = if action == Action::Halt { sqlstate::remedy("28000") } else { sqlstate::remedy("08000") };
        Self { remedy: remedy.into(), ..Self::local(action, message) }
    }

    /// Whether it speaks of a statement that saves of its collection need, and of no server as a whole: saves before may pass.
    pub fn is_about_statement(&self) -> bool {
        let spoken = self.sqlstate.as_deref().is_some_and(|code| ["42", "0A", "3F", "P0"].iter().any(|class| code.starts_with(class)));
        self.action == Action::Halt && self.collection.is_some() && spoken
    }

    /// Whether it may be the session that doesn't fit the tables: functions of triggers keep plans, and one that was made for a column
    /// of another type is refused with this code for as long as its session lasts.
    pub(super) fn may_be_of_session(&self) -> bool {
        self.sqlstate.as_deref() == Some("42804")
    }

    /// Whether it says that saves don't fit the tables, rather than that Postgres is in trouble.
    pub(super) fn is_refusal(&self) -> bool {
        use Action::{Halt, Halve, RetryThenHalt, RetryThenHalve, RowsOwn, Unclear};
        matches!(self.action, Halt | Halve | RetryThenHalt | RetryThenHalve | RowsOwn | Unclear)
    }

    /// Whether the message may hold the content of rows: errors about data, and whatever functions of the user's raise.
    fn message_may_hold_values(&self) -> bool {
        self.sqlstate.as_deref().is_some_and(|code| ["22", "P0", "38", "39"].iter().any(|class| code.starts_with(class)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(collection) = &self.collection {
            write!(f, "collection {collection}: ")?;
        }
        match &self.sqlstate {
            Some(code) if self.message_may_hold_values() => write!(f, "error {code} (its text may hold values and is not logged)")?,
            Some(code) => write!(f, "{} ({code})", self.message)?,
            None => f.write_str(&self.message)?,
        }
        if let Some(constraint) = &self.constraint {
            write!(f, ", constraint {constraint:?}")?;
        }
        if let Some(column) = &self.column {
            write!(f, ", column {column:?}")?;
        }
        if !self.remedy.is_empty() {
            write!(f, ": {}", self.remedy)?;
        }
        Ok(())
    }
}

impl error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_never_shows_values_of_rows() {
        let mut failure = Failure::as_if(Action::RowsOwn, "22P02", "invalid input syntax for type integer: \"secret\"").of("player");
        failure.detail = Some("Failing row contains (secret).".into());
        assert_eq!(failure.to_string(), "collection player: error 22P02 (its text may hold values and is not logged)");
        let mut failure = Failure::as_if(Action::Halve, "23505", "duplicate key value violates unique constraint \"player_email\"");
        failure.detail = Some("Key (email)=(secret) already exists.".into());
        failure.constraint = Some("player_email".into());
        assert!(!failure.to_string().contains("secret"));
    }

    #[test]
    fn display_names_the_remedy() {
        let failure = Failure::as_if(Action::Halt, "42501", "permission denied for table player").of("player");
        let expected =
            "collection player: permission denied for table player (42501): grant what is missing: `forebay check --connect` lists it";
        assert_eq!(failure.to_string(), expected);
    }
}
