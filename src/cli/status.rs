//! `forebay status`: how a running daemon stands, for a person at a terminal.

use std::{
    fmt::{self, Write},
    time::{Duration, SystemTime},
};

use clap::Args;
use forebay::{
    exit::{Exit, Failure},
    proto::{EndpointStatus, FailedSave, LaneState, LaneStatus, LimitKind, LimitStatus, Status},
};

use super::daemon::DaemonArguments;

/// Prints how the daemon stands.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let status = arguments.daemon.ask("get status", async |client| client.status().await)?;
    print!("{}", Page { status: &status, now: SystemTime::now() });
    Ok(Exit::Success)
}

struct Page<'a> {
    status: &'a Status,
    now: SystemTime,
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status;
        let up = status.start_time.map_or_else(String::new, |start| format!(", up {}", self.since(start.seconds)));
        writeln!(f, "forebay {}, run {}{up}", status.version, status.run)?;
        writeln!(f, "  postgres  {}", if status.postgres_up { "up" } else { "not reachable: saves are safe in the journal" })?;
        self.journal(f)?;
        status.lanes.iter().try_for_each(|lane| self.lane(f, lane))?;
        self.collections(f)?;
        self.limits(f)?;
        status.endpoints.iter().try_for_each(|endpoint| self.endpoint(f, endpoint))?;
        self.failed_saves(f)
    }
}

impl Page<'_> {
    fn journal(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(journal) = &self.status.journal else { return Ok(()) };
        let retained = journal.retained.map_or(0, |retained| u64::try_from(retained.seconds).unwrap_or_default());
        writeln!(f, "  journal   {}", self.status.journal_id)?;
        writeln!(
            f,
            "            {} not drained, {} free, {} segments, drained saves of the last {} kept",
            Size(journal.bytes),
            Size(journal.free_bytes),
            journal.segments,
            Age(Duration::from_secs(retained)),
        )
    }

    fn lane(&self, f: &mut fmt::Formatter<'_>, lane: &LaneStatus) -> fmt::Result {
        writeln!(f, "lane {}: {}", lane.name, state(lane.state()))?;
        for (what, text) in [("reason", &lane.reason), ("remedy", &lane.remedy)].into_iter().filter(|(_, text)| !text.is_empty()) {
            writeln!(f, "  {what}    {text}")?;
        }
        if let Some(end) = lane.pause_end_time {
            writeln!(f, "  pause ends by itself in {}", self.until(end.seconds))?;
        }
        let oldest = lane.oldest_accept_time.map_or_else(String::new, |oldest| format!(", the oldest {} old", self.since(oldest.seconds)));
        let (objects, saves, bytes) = (lane.backlog_objects, lane.backlog_saves, Size(lane.backlog_bytes));
        writeln!(f, "  backlog   {objects} objects of {saves} saves, {bytes}{oldest}")?;
        writeln!(f, "  written   {} rows in {} transactions of this run", lane.rows_written, lane.transactions)?;
        writeln!(f, "  now       {} rows a statement", lane.statement_rows)
    }

    fn collections(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.status.collections.iter().map(|collection| collection.name.len()).max().unwrap_or_default();
        for collection in &self.status.collections {
            let (name, objects, bytes) = (&collection.name, collection.backlog_objects, Size(collection.backlog_bytes));
            writeln!(f, "  {name:width$}  {objects} objects, {bytes}")?;
        }
        Ok(())
    }

    /// Limits of which nothing is used say nothing; free space is told with the journal.
    fn limits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.limits_of(f, LimitKind::Amount, "limits in use")?;
        self.limits_of(f, LimitKind::Rate, "in the last second")?;
        self.limits_of(f, LimitKind::Size, "largest since the start")
    }

    fn limits_of(&self, f: &mut fmt::Formatter<'_>, kind: LimitKind, title: &str) -> fmt::Result {
        let is_used = |limit: &&LimitStatus| limit.used > 0 && (limit.max > 0 || kind != LimitKind::Rate);
        let used: Vec<_> = self.status.limits.iter().filter(|limit| limit.kind() == kind).filter(is_used).collect();
        if used.is_empty() {
            return Ok(());
        }
        let width = used.iter().map(|limit| limit.name.len()).max().unwrap_or_default();
        writeln!(f, "{title}")?;
        for limit in used {
            let percent = limit.used.saturating_mul(100).checked_div(limit.max).unwrap_or(100);
            let amount = |value| if limit.name.contains("bytes") { Size(value).to_string() } else { value.to_string() };
            writeln!(f, "  {:width$}  {} of {} ({percent} %)", limit.name, amount(limit.used), amount(limit.max))?;
        }
        Ok(())
    }

    fn endpoint(&self, f: &mut fmt::Formatter<'_>, endpoint: &EndpointStatus) -> fmt::Result {
        let disabled = if endpoint.disabled { ", disabled: it answered 410; a restart tries it again" } else { "" };
        let oldest =
            endpoint.oldest_accept_time.map_or_else(String::new, |oldest| format!(", the oldest {} old", self.since(oldest.seconds)));
        writeln!(f, "endpoint {}: {} callbacks pending{oldest}{disabled}", endpoint.name, endpoint.pending)?;
        let EndpointStatus { delivered, failed_attempts, given_up, .. } = endpoint;
        writeln!(f, "  this run  {delivered} delivered, {failed_attempts} failed attempts, {given_up} given up")?;
        if endpoint.last_error.is_empty() { Ok(()) } else { writeln!(f, "  last      {}", endpoint.last_error) }
    }

    fn failed_saves(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.status.failed_saves == 0 {
            return Ok(());
        }
        writeln!(f, "failed saves: {} in forebay.failed_save; the newest", self.status.failed_saves)?;
        self.status.newest_failed_saves.iter().try_for_each(|save| failed_save(f, save))
    }

    /// To the second: what is shown is minutes old when it matters.
    fn since(&self, unix_seconds: i64) -> Age {
        Age(Duration::from_secs(self.now_seconds().saturating_sub(seconds(unix_seconds))))
    }

    fn until(&self, unix_seconds: i64) -> Age {
        Age(Duration::from_secs(seconds(unix_seconds).saturating_sub(self.now_seconds())))
    }

    fn now_seconds(&self) -> u64 {
        self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

fn failed_save(f: &mut fmt::Formatter<'_>, save: &FailedSave) -> fmt::Result {
    let failure = save.failure.clone().unwrap_or_default();
    let mut reason = failure.sqlstate.clone();
    if !failure.constraint.is_empty() {
        write!(reason, " ({})", failure.constraint)?;
    }
    writeln!(f, "  {} {}: {reason} {}", save.collection, save.key.join(", "), failure.message)
}

fn state(state: LaneState) -> &'static str {
    match state {
        LaneState::Unspecified => "unknown to this program: is the daemon newer?",
        LaneState::Connecting => "connecting to Postgres",
        LaneState::Idle => "idle, everything is in Postgres",
        LaneState::Gathering => "gathering saves",
        LaneState::Applying => "writing",
        LaneState::Retrying => "waiting before it tries again",
        LaneState::Paused => "paused",
        LaneState::Halted => "halted in front of a save",
        LaneState::Fenced => "fenced: another daemon writes it",
        LaneState::Stopped => "stopped",
    }
}

fn seconds(unix_seconds: i64) -> u64 {
    u64::try_from(unix_seconds).unwrap_or_default()
}

/// Bytes with one digit after the point: `1.5 MiB`.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match UNITS.into_iter().find(|(_, unit)| self.0 >= *unit) {
            Some((name, unit)) => write!(f, "{}.{} {name}", self.0 / unit, self.0 % unit * 10 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// The two largest units: `2 h 5 min`.
pub(super) struct Age(pub(super) Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0, seconds) => write!(f, "{seconds} s"),
            (0, 0, minutes, seconds) => write!(f, "{minutes} min {seconds} s"),
            (0, hours, minutes, _) => write!(f, "{hours} h {minutes} min"),
            (days, hours, _, _) => write!(f, "{days} d {hours} h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay::proto::{CollectionStatus, Failure, JournalStatus};

    use super::*;

    fn limit(name: &str, kind: LimitKind, max: u64, used: u64) -> LimitStatus {
        LimitStatus { name: name.to_owned(), max, used, kind: kind.into() }
    }

    #[test]
    fn a_halted_lane_says_why_and_what_helps() {
        let status = Status {
            version: "0.1.0".to_owned(),
            run: 3,
            journal_id: "a-journal".to_owned(),
            journal: Some(JournalStatus { bytes: 1_536, free_bytes: 5 << 30, segments: 2, retained: None }),
            lanes: vec![LaneStatus {
                name: "default".to_owned(),
                state: LaneState::Halted.into(),
                reason: "players: permission denied".to_owned(),
                remedy: "grant insert, update on players".to_owned(),
                backlog_objects: 2,
                backlog_saves: 9,
                ..LaneStatus::default()
            }],
            collections: vec![CollectionStatus { name: "players".to_owned(), backlog_objects: 2, backlog_bytes: 700 }],
            limits: vec![
                limit("backlog.bytes_max", LimitKind::Amount, 1 << 30, 1 << 29),
                limit("grpc.save_streams_max", LimitKind::Amount, 9, 0),
                limit("journal.group_saves_max", LimitKind::Size, 4_096, 1_024),
                limit("drain.rows_per_second_max", LimitKind::Rate, 5_000, 4_000),
                limit("journal.free_bytes_min", LimitKind::Reserve, 1 << 30, 5 << 30),
            ],
            endpoints: vec![EndpointStatus {
                name: "shop".to_owned(),
                disabled: true,
                pending: 3,
                delivered: 5,
                failed_attempts: 2,
                last_error: "it answered 410 Gone".to_owned(),
                ..EndpointStatus::default()
            }],
            failed_saves: 1,
            newest_failed_saves: vec![FailedSave {
                collection: "scores".to_owned(),
                key: vec!["7".to_owned(), "b".to_owned()],
                failure: Some(Failure {
                    sqlstate: "23503".to_owned(),
                    constraint: "scores_player_fkey".to_owned(),
                    message: "no such player".to_owned(),
                }),
                ..FailedSave::default()
            }],
            ..Status::default()
        };
        let page = Page { status: &status, now: SystemTime::now() }.to_string();
        for part in [
            "forebay 0.1.0, run 3\n",
            "postgres  not reachable",
            "1.5 KiB not drained, 5.0 GiB free",
            "lane default: halted",
            "reason    players: permission denied",
            "remedy    grant insert, update on players",
            "2 objects of 9 saves",
            "players  2 objects, 700 B",
            "limits in use\n  backlog.bytes_max  512.0 MiB of 1.0 GiB (50 %)\n",
            "in the last second\n  drain.rows_per_second_max  4000 of 5000 (80 %)\n",
            "largest since the start\n  journal.group_saves_max  1024 of 4096 (25 %)\n",
            "endpoint shop: 3 callbacks pending, disabled",
            "5 delivered, 2 failed attempts, 0 given up",
            "last      it answered 410 Gone",
            "scores 7, b: 23503 (scores_player_fkey) no such player",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("grpc.save_streams_max") && !page.contains("journal.free_bytes_min"));
    }

    #[test]
    fn ages_are_told_in_their_two_largest_units() {
        let age = |seconds| Age(Duration::from_secs(seconds)).to_string();
        assert_eq!(age(7), "7 s");
        assert_eq!(age(125), "2 min 5 s");
        assert_eq!(age(7_500), "2 h 5 min");
        assert_eq!(age(90_000), "1 d 1 h");
    }
}
