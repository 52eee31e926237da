//! Which failed saves, as flags.

use std::time::SystemTime;

use clap::{Args, ValueEnum};
use forebay::{
    exit::{Exit, Failure},
    proto::{FailedSaveFilter, FailedSaveState},
};
use jiff::{SignedDuration, Timestamp};

/// All that are given hold together.
#[derive(Args)]
pub(super) struct FilterArguments {
    /// These.
    #[arg(value_name = "TICKET")]
    tickets: Vec<String>,
    /// Of this collection.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// With this SQLSTATE, as in 23503.
    #[arg(long, value_name = "CODE")]
    sqlstate: Option<String>,
    /// Refused by this constraint.
    #[arg(long, value_name = "NAME")]
    constraint: Option<String>,
    /// Failed at this time or later: 2026-01-31T12:00:00Z, or how long ago: 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// Failed before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<SystemTime>,
}

/// How a failed save stands.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StateArgument {
    Open,
    Retried,
    Discarded,
    Overtaken,
}

impl FilterArguments {
    /// What reaches every failed save has to be meant so.
    pub(super) fn check_meant(&self, all: bool) -> Result<(), Failure> {
        if all || self.to_proto() != FailedSaveFilter::default() {
            return Ok(());
        }
        let error = anyhow::anyhow!("name tickets, a collection or a reason, or say --all for every open failed save");
        Err(Failure { exit: Exit::Usage, error })
    }

    pub(super) fn to_proto(&self) -> FailedSaveFilter {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        FailedSaveFilter {
            tickets: self.tickets.clone(),
            collection: text(&self.collection),
            sqlstate: text(&self.sqlstate),
            constraint: text(&self.constraint),
            fail_time_from: self.since.map(SystemTime::into),
            fail_time_until: self.until.map(SystemTime::into),
        }
    }
}

impl StateArgument {
    pub(super) const ALL: [Self; 4] = [Self::Open, Self::Retried, Self::Discarded, Self::Overtaken];
}

impl From<StateArgument> for FailedSaveState {
    fn from(state: StateArgument) -> Self {
        match state {
            StateArgument::Open => Self::Open,
            StateArgument::Retried => Self::Retried,
            StateArgument::Discarded => Self::Discarded,
            StateArgument::Overtaken => Self::Overtaken,
        }
    }
}

fn time(text: &str) -> Result<SystemTime, String> {
    moment(text, Timestamp::now()).map(SystemTime::from)
}

/// A moment, or how long ago it was.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let ago = text.parse::<SignedDuration>().map_err(|_| "expected a time like 2026-01-31T12:00:00Z, or a duration like 2h".to_owned())?;
    now.checked_sub(ago.abs()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_how_long_ago() {
        let at = |second| Timestamp::from_second(second).expect("a second of 1970");
        assert_eq!(moment("1970-01-01T00:01:00Z", at(9_000)), Ok(at(60)));
        assert_eq!(moment("2h", at(9_000)), Ok(at(1_800)));
        assert!(moment("yesterday", at(9_000)).expect_err("no time").contains("2h"));
        assert!(moment("999999999h", at(9_000)).is_err());
    }
}
