//! Failed saves for a person at a terminal.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use forebay::proto::{FailedSave, FailedSaveState};

use super::line::{kind, state, time};
use crate::cli::status::Age;

/// One a line: what it takes to choose.
pub(super) struct Table<'a> {
    pub(super) saves: &'a [FailedSave],
    pub(super) now: SystemTime,
}

/// One, whole.
pub(super) struct Whole<'a>(pub(super) &'a FailedSave);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.saves.is_empty() {
            return writeln!(f, "no failed saves");
        }
        let rows: Vec<_> = self.saves.iter().map(|save| self.row(save)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths = [width(0), width(1), width(2), width(3)];
        for row in &rows {
            for (text, width) in row.iter().zip(widths) {
                write!(f, "{text:width$}  ")?;
            }
            writeln!(f, "{}", row[4])?;
        }
        Ok(())
    }
}

impl Table<'_> {
    fn row(&self, save: &FailedSave) -> [String; 5] {
        let failed_at = save.fail_time.and_then(|at| SystemTime::try_from(at).ok());
        let age = failed_at.map_or(Duration::ZERO, |at| self.now.duration_since(at).unwrap_or_default());
        let what = format!("{} {}", save.collection, save.key.join(", "));
        [save.ticket.clone(), state(save.state()).to_owned(), format!("{} ago", Age(age)), what.trim_end().to_owned(), reason(save)]
    }
}

impl fmt::Display for Whole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let save = self.0;
        writeln!(f, "{}: {}", save.ticket, state(save.state()))?;
        let mut line = |name: &str, text: &str| if text.is_empty() { Ok(()) } else { writeln!(f, "  {name:10}{text}") };
        line("save", &format!("{} {} {}", kind(save.kind()), save.collection, save.key.join(", ")))?;
        line("reason", &reason(save))?;
        line("detail", &save.detail)?;
        line("accepted", &time(save.accept_time.as_ref()).unwrap_or_default())?;
        line("failed", &time(save.fail_time.as_ref()).unwrap_or_default())?;
        line("closed", &time(save.close_time.as_ref()).unwrap_or_default())?;
        line(if save.state() == FailedSaveState::Retried { "retry" } else { "by" }, &save.close_ticket)?;
        line("because", &save.discard_reason)?;
        line("add", &save.add.join(", "))?;
        line("body", &String::from_utf8_lossy(&save.json))
    }
}

fn reason(save: &FailedSave) -> String {
    let failure = save.failure.clone().unwrap_or_default();
    let constraint = if failure.constraint.is_empty() { String::new() } else { format!("({}) ", failure.constraint) };
    format!("{} {constraint}{}", failure.sqlstate, failure.message).trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use forebay::proto::{Failure, SaveKind};

    use super::*;

    fn save() -> FailedSave {
        FailedSave {
            ticket: "0000000000000003-0189d0a2".to_owned(),
            sequence: 3,
            collection: "scores".to_owned(),
            key: vec!["7".to_owned(), "b".to_owned()],
            failure: Some(Failure {
                sqlstate: "23503".to_owned(),
                constraint: "scores_player_fkey".to_owned(),
                message: "no such player".to_owned(),
            }),
            fail_time: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            kind: SaveKind::Set.into(),
            state: FailedSaveState::Open.into(),
            json: br#"{"points":1}"#.to_vec(),
            detail: "Key (player)=(7) is not present".to_owned(),
            ..FailedSave::default()
        }
    }

    #[test]
    fn a_list_tells_what_it_takes_to_choose_and_no_data() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(185);
        let text = Table { saves: &[save()], now }.to_string();
        assert_eq!(text, "0000000000000003-0189d0a2  open  2 min 5 s ago  scores 7, b  23503 (scores_player_fkey) no such player\n");
        assert_eq!(Table { saves: &[], now }.to_string(), "no failed saves\n");
    }

    #[test]
    fn a_failed_save_is_shown_whole() {
        let closed = FailedSave { state: FailedSaveState::Discarded.into(), discard_reason: "a test".to_owned(), ..save() };
        let text = Whole(&closed).to_string();
        for part in ["0189d0a2: discarded", "set scores 7, b", "23503 (scores_player_fkey)", "is not present", "a test", r#"{"points":1}"#]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
