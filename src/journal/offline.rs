//! Tools for a journal that no daemon uses: verify, export, salvage. They look at what is on disk and never change it.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::{
    JournalId, OpenError,
    audit::{self, Plan, Report},
    directory::Directory,
    group::Group,
    ledger::Ledger,
    record::Entry,
    recovery::{self, JOURNAL_ID, JOURNAL_RUN, LIVE_CACHE_BYTES},
    segment::{SegmentWriter, Start, Summary},
    store::Store,
    walk::{Span, Walk},
    watermark::{self, Mark, Watermark},
    witness::Witness,
};
use crate::save::{Body, Change, LaneId, Sequence};

/// Reads all of a journal and says what is wrong with it, if anything is. Each segment is also copied to the system's
/// temporary directory and opened there, to see that the store finds what is on disk; and so is the ledger.
///
/// # Errors
/// When it can't be read: locked, no journal, a failing disk. Damage is no error: see [`Report::is_sound`].
pub fn verify(directory: &Path) -> Result<Report, OpenError> {
    let directory = Directory::existing(directory)?;
    let io = |source| OpenError::Io { act: "read the journal", source };
    let found = recovery::look(&directory).map_err(io)?;
    let mark = watermark::read(&directory.watermark()).map_err(io)?;
    let plan = match audit::judge(&found, mark) {
        Ok(plan) => plan,
        Err(report) => return Ok(*report),
    };
    let mut report = plan.report();
    for summary in &plan.live {
        report.findings.extend(damage(verify_segment(&directory, summary))?);
    }
    report.findings.extend(damage(verify_ledger(&directory, mark))?);
    let decoded = each_group(&directory, &plan, |group| {
        let error = group.entries().find_map(Result::err);
        error.map_or(Ok(()), |error| Err(OpenError::damaged(error.to_string())))
    });
    report.findings.extend(damage(decoded)?);
    Ok(report)
}

/// Damage as findings; what else went wrong as it is.
fn damage(outcome: Result<(), OpenError>) -> Result<Vec<String>, OpenError> {
    match outcome {
        Ok(()) => Ok(Vec::new()),
        Err(OpenError::Damaged(report)) => Ok(report.findings),
        Err(other) => Err(other),
    }
}

fn verify_ledger(directory: &Directory, mark: Option<Mark>) -> Result<(), OpenError> {
    recovery::check_ledger(&directory.ledger(), &copies()?.path().join("ledger"), mark)
}

fn copies() -> Result<TempDir, OpenError> {
    tempfile::tempdir().map_err(|source| OpenError::Io { act: "make a temporary directory", source })
}

fn verify_segment(directory: &Directory, summary: &Summary) -> Result<(), OpenError> {
    let (witness, _) = spans(directory, summary)?;
    let copies = copies()?;
    recovery::compare(&directory.segment(summary.segment), &copies.path().join("segment"), &witness, summary.last_chunk)
}

/// Every group that counts, in order.
fn each_group(directory: &Directory, plan: &Plan, mut visit: impl FnMut(&Group) -> Result<(), OpenError>) -> Result<(), OpenError> {
    let mut visit_all = |witness: &Witness, spans: &[Span]| {
        spans.iter().try_for_each(|span| visit(&recovery::read_group(witness, span.first_chunk, span.last_chunk)?))
    };
    for summary in &plan.live {
        let (witness, spans) = spans(directory, summary)?;
        visit_all(&witness, &spans)?;
    }
    if plan.carried.is_empty() {
        return Ok(());
    }
    let witness = Witness::look(&directory.segment(plan.carried_from), plan.carried_from);
    let witness = witness.map_err(|source| OpenError::Io { act: "read a segment", source })?;
    visit_all(&witness.ok_or_else(|| OpenError::damaged("the last segment has gone"))?, &plan.carried)
}

/// The groups of a segment that counts, all of which must be there.
fn spans(directory: &Directory, summary: &Summary) -> Result<(Witness, Vec<Span>), OpenError> {
    let path = directory.segment(summary.segment);
    let witness = Witness::look(&path, summary.segment).map_err(|source| OpenError::Io { act: "read a segment", source })?;
    let broken = || OpenError::damaged(format!("segment {} is not whole up to chunk {}", summary.segment, summary.last_chunk));
    let witness = witness.ok_or_else(broken)?;
    let walk = Walk::of(&witness, Some(summary.last_chunk)).ok_or_else(broken)?;
    if walk.end() != (summary.last_chunk, summary.last_checksum) {
        let found = walk.spans.last().map_or(Sequence::from_u64(summary.last_before), Span::last);
        return Err(OpenError::damaged(format!(
            "segment {} is sound up to save {found}, but should hold saves up to {}: chunks up to {} are damaged or gone",
            summary.segment, summary.last, summary.last_chunk
        )));
    }
    Ok((witness, walk.spans))
}

/// Writes every save that the journal holds as a line of JSON.
///
/// # Errors
/// When it can't be read, is damaged, or `out` fails.
pub fn export(directory: &Path, out: &mut dyn Write) -> Result<u64, OpenError> {
    let directory = Directory::existing(directory)?;
    let io = |act| move |source| OpenError::Io { act, source };
    let found = recovery::look(&directory).map_err(io("read the journal"))?;
    let mark = watermark::read(&directory.watermark()).map_err(io("read the journal"))?;
    let plan = audit::judge(&found, mark).map_err(OpenError::Damaged)?;
    let mut lines = 0;
    each_group(&directory, &plan, |group| {
        for entry in group.entries() {
            let entry = entry.map_err(|error| OpenError::damaged(error.to_string()))?;
            write_line(&entry, out).map_err(io("write the export"))?;
            lines += 1;
        }
        Ok(())
    })?;
    out.flush().map_err(io("write the export"))?;
    Ok(lines)
}

#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    lane: u16,
    collection: &'a str,
    key: Vec<&'a str>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    /// Members of the body that are added to their columns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    add: Vec<String>,
    batch_left: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    accepted_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<&'a str>,
}

fn write_line(entry: &Entry, out: &mut dyn Write) -> io::Result<()> {
    let record = &entry.record;
    let kind = match record.change {
        Change::Set(_) => "set",
        Change::Delete => "delete",
        Change::Append(_) => "append",
    };
    let body = record.change.body().map(Body::as_bytes).map(serde_json::from_slice::<&RawValue>).transpose()?;
    let added = record.change.body().map(Body::members).unwrap_or_default().into_iter().take(record.adds);
    let accepted_at = Timestamp::try_from(record.accepted_at).map_or_else(|_| "unknown".to_owned(), |at| format!("{at:.3}"));
    let line = Line {
        sequence: entry.sequence.get(),
        lane: record.lane.0,
        collection: &record.collection,
        key: record.key.parts().collect(),
        kind,
        body,
        add: added.map(|member| member.name.into_owned()).collect(),
        batch_left: record.batch_left,
        request_id: record.request_id.as_deref().map(|request| &*request.id),
        accepted_at,
        retries: record.retries.map(Sequence::get),
        callback: record.callback.as_deref().map(|callback| &*callback.endpoint),
    };
    // A body may span lines; a line of the export may not.
    let text = serde_json::to_string(&line)?.replace(['\n', '\r'], " ");
    writeln!(out, "{text}")
}

/// What to salvage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// What the journal doesn't know to be in Postgres. A little of it may be there already.
    #[default]
    Unsettled,
    /// Everything that is there, for a Postgres that was itself put back in time.
    All,
}

/// What a salvage has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Saves in the new journal.
    pub saves: u64,
    /// Saves left out because Postgres holds them.
    pub settled: u64,
    /// Ranges of the old sequences that are lost: first and last.
    pub lost: Vec<(Sequence, Sequence)>,
    /// The new journal's id, as text.
    pub journal: String,
}

/// Writes everything that verifies into a new journal, with an id of its own and sequences of its run 1. `from` stays as it is.
///
/// # Errors
/// When `from` can't be read or `to` holds a journal or can't be written.
pub fn salvage(from: &Path, to: &Path, scope: Scope) -> Result<Salvaged, OpenError> {
    let from = Directory::existing(from)?;
    let io = |act| move |source| OpenError::Io { act, source };
    let segments = from.segments().map_err(io("read the journal"))?;
    let mark = watermark::read(&from.watermark()).map_err(io("read the watermark"))?;
    let mut hoard = Hoard::default();
    for &segment in &segments {
        let path = from.segment(segment);
        let closed = Summary::read_mark(&path).map_err(io("read the journal"))?;
        hoard.add_hints(&closed.as_ref().map(Summary::positions).unwrap_or_default());
        if let Some(witness) = Witness::look(&path, segment).map_err(io("read the journal"))? {
            hoard.add(witness);
        }
    }
    let salvaged = Salvaged { lost: hoard.lost(mark), ..Salvaged::default() };
    write_salvage(&hoard, to, scope, salvaged)
}

/// Whole groups by their first sequence, wherever they were seen.
#[derive(Default)]
struct Hoard {
    witnesses: Vec<Witness>,
    /// First sequence → (last sequence, witness, first chunk, last chunk). A later segment's copy replaces an earlier one's.
    groups: BTreeMap<u64, (u64, usize, u64, u64)>,
    settled: BTreeMap<LaneId, Sequence>,
    /// The highest floor that was noted. Lanes come and go: what the last saves of one that is gone were, only this says.
    floor: Sequence,
}

impl Hoard {
    /// Positions noted together: of every lane that there was.
    fn add_hints(&mut self, positions: &[(LaneId, Sequence)]) {
        for &(lane, position) in positions {
            let known = self.settled.entry(lane).or_default();
            *known = position.max(*known);
        }
        let floor = positions.iter().map(|&(_, position)| position).min();
        self.floor = self.floor.max(floor.unwrap_or_default());
    }

    fn is_settled(&self, entry: &Entry) -> bool {
        let position = self.settled.get(&entry.record.lane).copied().unwrap_or_default();
        entry.sequence <= position.max(self.floor)
    }

    fn add(&mut self, witness: Witness) {
        witness.chunks.values().for_each(|chunk| self.add_hints(&chunk.settled));
        let starts = witness.chunks.values().filter(|chunk| chunk.opening.is_none() && chunk.header.part == 0);
        for header in starts.map(|chunk| &chunk.header) {
            let last_chunk = header.number + u64::from(header.parts) - 1;
            if let Ok(group) = recovery::read_group(&witness, header.number, last_chunk)
                && group.entries().all(|entry| entry.is_ok())
            {
                self.groups.insert(group.first.get(), (group.last().get(), self.witnesses.len(), header.number, last_chunk));
            }
        }
        self.witnesses.push(witness);
    }

    /// Gaps between the groups of one run, and what the watermark saw behind the last one.
    fn lost(&self, mark: Option<Mark>) -> Vec<(Sequence, Sequence)> {
        let mut lost = Vec::new();
        let mut before: Option<Sequence> = None;
        let groups = self.groups.iter().map(|(&first, &(last, ..))| (Sequence::from_u64(first), Sequence::from_u64(last)));
        for (first, last) in groups {
            let expected = before.map(|before| before.plus(1));
            lost.extend(
                expected
                    .filter(|expected| expected.run() == first.run() && *expected < first)
                    .map(|expected| (expected, Sequence::from_u64(first.get() - 1))),
            );
            before = Some(last);
        }
        let end = before.unwrap_or(Sequence::ZERO);
        lost.extend(mark.filter(|mark| mark.sequence > end).map(|mark| (end.plus(1), mark.sequence)));
        lost
    }

    fn groups(&self) -> impl Iterator<Item = Result<Group, OpenError>> + '_ {
        self.groups.values().map(|&(_, witness, first, last)| recovery::read_group(&self.witnesses[witness], first, last))
    }
}

/// Size at which a salvage begins another segment.
const SALVAGE_SEGMENT_BYTES: u64 = 64 << 20;

fn write_salvage(hoard: &Hoard, to: &Path, scope: Scope, mut salvaged: Salvaged) -> Result<Salvaged, OpenError> {
    let to = Directory::open(to)?;
    let used = to.ledger().exists() || !to.segments().map_err(|source| OpenError::Io { act: "read the new journal", source })?.is_empty();
    if used {
        return Err(OpenError::Directory { path: to.path().to_owned(), reason: "holds a journal: salvage into a new one".to_owned() });
    }
    let failed = |error| OpenError::store("write the new journal", error);
    let journal = JournalId::draw();
    salvaged.journal = journal.to_string();
    let before = Sequence::before_run(1).expect("run 1");
    let start = Start { journal, segment: 1, run: 1, first_chunk: 1, begins: before.plus(1), ..Start::default() };
    let store = Store::open(&to.segment(1), LIVE_CACHE_BYTES).map_err(failed)?;
    let mut writer = SegmentWriter::open(store, &start, 0, &Vec::new()).map_err(failed)?;
    let mut last = before;
    for group in hoard.groups() {
        let group = group?;
        let kept = kept_records(&group, hoard, scope, &mut salvaged);
        if kept.is_empty() {
            continue;
        }
        let saves = u32::try_from(kept.len()).expect("a group is bounded");
        writer.put(last.plus(1), saves, kept.into_iter(), &Vec::new()).map_err(failed)?;
        last = last.plus(u64::from(saves));
        writer.sync().map_err(failed)?;
        if writer.summary().bytes >= SALVAGE_SEGMENT_BYTES {
            writer = next_segment(&to, writer)?;
        }
    }
    writer.sync().map_err(failed)?;
    conclude_salvage(&to, writer)?;
    Ok(salvaged)
}

/// The records of a group that are worth keeping. Counts both kinds.
fn kept_records<'a>(group: &'a Group, hoard: &Hoard, scope: Scope, salvaged: &mut Salvaged) -> Vec<&'a [u8]> {
    let mut kept = Vec::new();
    for (entry, bytes) in group.records().flatten() {
        if hoard.is_settled(&entry) && scope == Scope::Unsettled {
            salvaged.settled += 1;
        } else {
            salvaged.saves += 1;
            kept.push(bytes);
        }
    }
    kept
}

fn next_segment(to: &Directory, writer: SegmentWriter) -> Result<SegmentWriter, OpenError> {
    let failed = |error| OpenError::store("write the new journal", error);
    let number = writer.summary().segment + 1;
    let start = writer.next_start(number);
    let store = Store::open(&to.segment(number), LIVE_CACHE_BYTES).map_err(failed)?;
    let mut next = SegmentWriter::open(store, &start, 0, &Vec::new()).map_err(failed)?;
    next.sync().map_err(failed)?;
    writer.close(&to.segment(number - 1), &Vec::new()).map_err(failed)?;
    Ok(next)
}

/// The identity comes last: a salvage that was cut short leaves nothing that could be started.
fn conclude_salvage(to: &Directory, writer: SegmentWriter) -> Result<(), OpenError> {
    let failed = |error| OpenError::store("write the new journal", error);
    let Summary { journal, segment, last_chunk, last, .. } = *writer.summary();
    writer.close(&to.segment(segment), &Vec::new()).map_err(failed)?;
    let mark = Mark { journal, run: 1, chunk: last_chunk, sequence: Sequence::from_u64(last), removed: Sequence::ZERO, ledger: 0 };
    let marked = Watermark::open(&to.watermark()).and_then(|mut watermark| watermark.write(mark));
    marked.map_err(|source| OpenError::Io { act: "write the new journal", source })?;
    let ledger = Ledger::open(&to.ledger()).map_err(failed)?;
    let put = ledger.put(JOURNAL_RUN, &1u64.to_le_bytes()).and_then(|()| ledger.put(JOURNAL_ID, &journal.to_bytes()));
    put.map_err(|error| OpenError::damaged(error.to_string()))?;
    ledger.close().map_err(failed)
}
