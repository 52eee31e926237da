//! The judge of every campaign: what is in Postgres, held against what the clients sent and were told. It knows nothing of the
//! daemon but the table of failed saves.
//!
//! One client saves an object, one call after the other, with rising versions. So the last version that was acknowledged, or one
//! that was sent after it and whose outcome nobody knows, is what the table has to hold.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use crate::support::Database;

use super::{
    NOTES, TABLES,
    client::{checksum, line},
    client_log::{Call, Change, History, Sent},
};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// Acknowledged, and not there.
    Lost,
    /// Older than what was acknowledged, or written over something newer.
    Stale,
    /// Never sent.
    Phantom,
    /// Deleted, acknowledged so, and there.
    Resurrected,
    /// Applied twice.
    Duplicated,
    /// Half of what was sent: other bytes under a version, or a part of an atomic batch.
    Torn,
}

/// One thing that is wrong.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) verdict: Verdict,
    /// The object or line.
    pub(super) of: String,
    why: String,
}

/// A row of a table with keys.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) version: u64,
    pub(super) filler: String,
    pub(super) checksum: u32,
}

/// What is in Postgres.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    /// By `table/id`.
    pub(super) rows: BTreeMap<String, Row>,
    pub(super) lines: Vec<String>,
    /// Lines that became failed saves.
    pub(super) failed: Vec<String>,
    /// Objects and versions in the order in which they were written.
    pub(super) applied: Vec<(String, u64)>,
}

impl Stored {
    /// Reads it all.
    pub(super) async fn read(database: &Database) -> Self {
        Self::read_after(database, 0).await
    }

    /// The same, but of failed saves only those above a sequence.
    pub(super) async fn read_after(database: &Database, sequence: u64) -> Self {
        let failed =
            format!("select coalesce(body->>'line', collection || ' ' || key::text) from forebay.failed_save where sequence > {sequence}");
        let mut rows = BTreeMap::new();
        for table in TABLES {
            for mut row in texts(database, &format!("select id, version, checksum, filler from {table}")).await {
                let filler = row.pop().expect("four columns");
                let row_read = Row { version: number(&row[1]), checksum: number(&row[2]), filler };
                rows.insert(format!("{table}/{}", row[0]), row_read);
            }
        }
        let first = |rows: Vec<Vec<String>>| rows.into_iter().map(|mut row| row.swap_remove(0)).collect();
        Self {
            rows,
            lines: first(texts(database, &format!("select line from {NOTES}")).await),
            failed: first(texts(database, &failed).await),
            applied: texts(database, "select object, version from applied order by number")
                .await
                .into_iter()
                .map(|row| (row[0].clone(), number(&row[1])))
                .collect(),
        }
    }
}

async fn texts(database: &Database, sql: &str) -> Vec<Vec<String>> {
    let rows = database.rows(sql).await;
    rows.into_iter().map(|row| row.into_iter().map(|value| value.expect("not null")).collect()).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("a number")
}

/// Everything that is wrong, worst first.
pub(super) fn judge(history: &History, stored: &Stored) -> Vec<Violation> {
    let objects = objects(history);
    let mut violations = judge_objects(&objects, stored);
    violations.extend(judge_writes(&stored.applied));
    violations.extend(judge_lines(history, stored));
    let lines: HashSet<_> = stored.lines.iter().collect();
    let atomic = history.calls.iter().filter(|call| call.atomic);
    violations.extend(atomic.filter_map(|call| judge_batch(call, &lines, &objects, &stored.rows)));
    violations.sort_by_key(|violation| violation.verdict);
    violations
}

/// What was sent to an object, and the last version of it that was acknowledged (0: none was).
#[derive(Default)]
struct Versions<'a> {
    sent: BTreeMap<u64, &'a Sent>,
    acknowledged: u64,
}

impl Versions<'_> {
    /// The first delete among these versions.
    fn delete_in(&self, versions: impl std::ops::RangeBounds<u64>) -> Option<u64> {
        self.sent.range(versions).find(|(_, sent)| sent.change == Change::Delete).map(|(version, _)| *version)
    }
}

fn objects(history: &History) -> HashMap<&str, Versions<'_>> {
    let mut objects = HashMap::<&str, Versions<'_>>::new();
    for call in &history.calls {
        for sent in call.saves.iter().filter(|sent| matches!(sent.change, Change::Set | Change::Delete)) {
            let versions = objects.entry(&sent.object).or_default();
            versions.sent.insert(sent.version, sent);
            if call.acknowledged {
                versions.acknowledged = versions.acknowledged.max(sent.version);
            }
        }
    }
    objects
}

fn judge_objects(objects: &HashMap<&str, Versions<'_>>, stored: &Stored) -> Vec<Violation> {
    let unknown = stored.rows.keys().filter(|object| !objects.contains_key(object.as_str()));
    let unknown = unknown.map(|object| violation(Verdict::Phantom, object, "nobody sent it".to_owned()));
    let known = objects.iter().filter_map(|(object, versions)| judge_object(object, versions, stored.rows.get(*object)));
    unknown.chain(known).collect()
}

fn judge_object(object: &str, versions: &Versions<'_>, row: Option<&Row>) -> Option<Violation> {
    let acknowledged = versions.acknowledged;
    let Some(Row { version, filler, checksum: kept }) = row else {
        let allowed = acknowledged == 0 || versions.delete_in(acknowledged..).is_some();
        return (!allowed).then(|| violation(Verdict::Lost, object, format!("version {acknowledged} was acknowledged")));
    };
    let Some(sent) = versions.sent.get(version).filter(|sent| sent.change == Change::Set) else {
        return Some(violation(Verdict::Phantom, object, format!("version {version} was never sent")));
    };
    let found = checksum(object, *version, filler);
    if (found, *kept) != (sent.checksum, sent.checksum) {
        let why = format!("version {version} was sent with checksum {}, has {kept} and bytes of {found}", sent.checksum);
        return Some(violation(Verdict::Torn, object, why));
    }
    if *version >= acknowledged {
        return None;
    }
    Some(match versions.delete_in(version + 1..=acknowledged) {
        Some(delete) => violation(Verdict::Resurrected, object, format!("has version {version}; {delete} deleted it")),
        None => violation(Verdict::Stale, object, format!("has version {version}; {acknowledged} was acknowledged")),
    })
}

/// Versions of an object only rise, whatever becomes of them later.
fn judge_writes(applied: &[(String, u64)]) -> Vec<Violation> {
    let (mut newest, mut violations) = (HashMap::<&str, u64>::new(), Vec::new());
    for (object, version) in applied {
        let newest = newest.entry(object).or_default();
        if version == newest {
            violations.push(violation(Verdict::Duplicated, object, format!("version {version} was written twice")));
        } else if version < newest {
            violations.push(violation(Verdict::Stale, object, format!("version {version} was written over {newest}")));
        }
        *newest = (*newest).max(*version);
    }
    violations
}

/// Every line is where it belongs, once: poisoned ones among the failed saves, all others in their table.
fn judge_lines(history: &History, stored: &Stored) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (change, found) in [(Change::Line, &stored.lines), (Change::Poison, &stored.failed)] {
        let mut sent = HashMap::new();
        for call in &history.calls {
            sent.extend(call.saves.iter().filter(|sent| sent.change == change).map(|sent| (line(sent), call.acknowledged)));
        }
        let mut seen = HashSet::new();
        for line in found {
            if !sent.contains_key(line) {
                violations.push(violation(Verdict::Phantom, line, "nobody sent it, or not to end there".to_owned()));
            }
            if !seen.insert(line) {
                violations.push(violation(Verdict::Duplicated, line, "it is there twice".to_owned()));
            }
        }
        let lost = sent.iter().filter(|(line, acknowledged)| **acknowledged && !seen.contains(line));
        violations.extend(lost.map(|(line, _)| violation(Verdict::Lost, line, "it was acknowledged".to_owned())));
    }
    violations
}

/// What an atomic batch sent is there together or not at all: its lines, and the rows that nobody has saved since.
fn judge_batch(
    call: &Call,
    lines: &HashSet<&String>,
    objects: &HashMap<&str, Versions<'_>>,
    rows: &BTreeMap<String, Row>,
) -> Option<Violation> {
    let is_last = |sent: &Sent| objects[&*sent.object].sent.keys().next_back() == Some(&sent.version);
    let parts = call.saves.iter().filter_map(|sent| match sent.change {
        Change::Line => Some(lines.contains(&line(sent))),
        Change::Set if is_last(sent) => Some(rows.get(&sent.object).is_some_and(|row| row.version == sent.version)),
        _ => None,
    });
    let parts: Vec<_> = parts.collect();
    let there = parts.iter().filter(|there| **there).count();
    let why = || format!("{there} of {} parts of an atomic batch are there", parts.len());
    (there != 0 && there != parts.len()).then(|| violation(Verdict::Torn, &call.saves[0].object, why()))
}

fn violation(verdict: Verdict, of: &str, why: String) -> Violation {
    Violation { verdict, of: of.to_owned(), why }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.verdict, self.of, self.why)
    }
}

/// A checker that finds nothing wrong must have looked: for each verdict, a sound end that is spoiled by hand.
#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "things/0-1";
    const B: &str = "stuff/0-2";

    fn sent(object: &str, version: u64, change: Change) -> Sent {
        let checksum = checksum(object, version, &filler(version));
        Sent { client: 0, object: object.to_owned(), version, change, checksum }
    }

    fn filler(version: u64) -> String {
        format!("filler of {version}")
    }

    fn call(acknowledged: bool, saves: Vec<Sent>) -> Call {
        Call { saves, atomic: false, acknowledged }
    }

    fn row(object: &str, version: u64) -> Row {
        Row { version, filler: filler(version), checksum: checksum(object, version, &filler(version)) }
    }

    /// Two objects, of which the second is deleted and the first has a last save of unknown outcome; an atomic batch of two lines,
    /// and a poisoned one.
    fn history() -> History {
        use Change::{Delete, Line, Poison, Set};
        History {
            calls: vec![
                call(true, vec![sent(A, 1, Set), sent(B, 1, Set)]),
                call(true, vec![sent(A, 2, Set), sent(B, 2, Delete)]),
                call(false, vec![sent(A, 3, Set)]),
                Call { atomic: true, ..call(true, vec![sent("notes/0", 1, Line), sent("notes/0", 2, Line)]) },
                call(true, vec![sent("notes/0", 3, Poison)]),
            ],
        }
    }

    fn lines(numbers: &[u64], change: Change) -> Vec<String> {
        numbers.iter().map(|&number| line(&sent("notes/0", number, change))).collect()
    }

    fn stored() -> Stored {
        Stored {
            rows: BTreeMap::from([(A.to_owned(), row(A, 2))]),
            lines: lines(&[1, 2], Change::Line),
            failed: lines(&[3], Change::Poison),
            applied: vec![(A.to_owned(), 1), (B.to_owned(), 1), (A.to_owned(), 2)],
        }
    }

    fn verdicts(history: &History, spoil: impl FnOnce(&mut Stored)) -> Vec<(Verdict, String)> {
        let mut stored = stored();
        spoil(&mut stored);
        judge(history, &stored).into_iter().map(|violation| (violation.verdict, violation.of)).collect()
    }

    fn one(verdict: Verdict, of: &str) -> Vec<(Verdict, String)> {
        vec![(verdict, of.to_owned())]
    }

    #[test]
    fn what_may_be_after_a_crash_is_no_violation() {
        assert_eq!(verdicts(&history(), |_| {}), []);
        assert_eq!(verdicts(&history(), |stored| drop(stored.rows.insert(A.to_owned(), row(A, 3)))), [], "nobody was told of 3");
        let mut unknown = history();
        unknown.calls.iter_mut().for_each(|call| call.acknowledged = false);
        assert_eq!(verdicts(&unknown, |stored| *stored = Stored::default()), [], "nothing was acknowledged");
        let mut deleted = history();
        deleted.calls[2].saves[0].change = Change::Delete;
        assert_eq!(verdicts(&deleted, |stored| drop(stored.rows.remove(A))), [], "a delete of unknown outcome");
    }

    #[test]
    fn what_was_acknowledged_and_is_not_there_is_lost() {
        assert_eq!(verdicts(&history(), |stored| drop(stored.rows.remove(A))), one(Verdict::Lost, A));
        let lost = verdicts(&history(), |stored| stored.lines.clear());
        assert_eq!(lost.iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>(), [Verdict::Lost, Verdict::Lost]);
        let poison = &lines(&[3], Change::Poison)[0];
        assert_eq!(verdicts(&history(), |stored| stored.failed.clear()), one(Verdict::Lost, poison));
    }

    #[test]
    fn an_older_version_than_the_acknowledged_one_is_stale() {
        assert_eq!(verdicts(&history(), |stored| drop(stored.rows.insert(A.to_owned(), row(A, 1)))), one(Verdict::Stale, A));
        assert_eq!(verdicts(&history(), |stored| stored.applied.push((A.to_owned(), 1))), one(Verdict::Stale, A), "if only for a moment");
    }

    #[test]
    fn what_nobody_sent_is_a_phantom() {
        assert_eq!(verdicts(&history(), |stored| drop(stored.rows.insert(A.to_owned(), row(A, 4)))), one(Verdict::Phantom, A));
        let other = "goods/7";
        assert_eq!(verdicts(&history(), |stored| drop(stored.rows.insert(other.to_owned(), row(other, 1)))), one(Verdict::Phantom, other));
        assert_eq!(verdicts(&history(), |stored| drop(stored.rows.insert(B.to_owned(), row(B, 2)))), one(Verdict::Phantom, B), "a delete");
        assert_eq!(verdicts(&history(), |stored| stored.lines.push("other".to_owned())), one(Verdict::Phantom, "other"));
        let sound = &lines(&[1], Change::Line)[0];
        assert_eq!(verdicts(&history(), |stored| stored.failed.push(sound.clone())), one(Verdict::Phantom, sound), "it hasn't failed");
    }

    #[test]
    fn what_was_deleted_and_is_there_is_resurrected() {
        assert_eq!(verdicts(&history(), |stored| drop(stored.rows.insert(B.to_owned(), row(B, 1)))), one(Verdict::Resurrected, B));
    }

    #[test]
    fn what_is_applied_twice_is_duplicated() {
        assert_eq!(verdicts(&history(), |stored| stored.applied.push((A.to_owned(), 2))), one(Verdict::Duplicated, A));
        let (line, poison) = (&lines(&[1], Change::Line)[0], &lines(&[3], Change::Poison)[0]);
        assert_eq!(verdicts(&history(), |stored| stored.lines.push(line.clone())), one(Verdict::Duplicated, line));
        assert_eq!(verdicts(&history(), |stored| stored.failed.push(poison.clone())), one(Verdict::Duplicated, poison));
    }

    #[test]
    fn other_bytes_under_a_version_and_half_a_batch_are_torn() {
        let spoiled = |row: Row| move |stored: &mut Stored| drop(stored.rows.insert(A.to_owned(), row));
        assert_eq!(verdicts(&history(), spoiled(Row { filler: filler(1), ..row(A, 2) })), one(Verdict::Torn, A));
        assert_eq!(verdicts(&history(), spoiled(Row { checksum: 1, ..row(A, 2) })), one(Verdict::Torn, A));
        assert_eq!(verdicts(&history(), spoiled(Row { version: 2, ..row(A, 1) })), one(Verdict::Torn, A));
        let mut unknown = history();
        unknown.calls[3].acknowledged = false;
        assert_eq!(verdicts(&unknown, |stored| drop(stored.lines.pop())), one(Verdict::Torn, "notes/0"));
        let (c, d) = ("goods/0-3", "goods/0-4");
        unknown
            .calls
            .push(Call { atomic: true, ..call(false, vec![sent(A, 4, Change::Set), sent(c, 1, Change::Set), sent(d, 1, Change::Set)]) });
        let half = |stored: &mut Stored| drop(stored.rows.insert(c.to_owned(), row(c, 1)));
        assert_eq!(verdicts(&unknown, half), one(Verdict::Torn, A));
        unknown.calls.push(call(true, vec![sent(A, 5, Change::Set)]));
        let saved_since =
            |stored: &mut Stored| stored.rows.extend([A, c, d].map(|of| (of.to_owned(), row(of, if of == A { 5 } else { 1 }))));
        assert_eq!(verdicts(&unknown, saved_since), [], "of the first nobody can say");
    }
}
