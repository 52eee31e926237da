//! The audit: from what is on disk, what the journal holds, or that it is damaged. Decides only; touches nothing.
//!
//! Evidence is the highest chunk that anything on disk calls synced: `synced through` in chunks, marks of closed segments,
//! the watermark. Up to there every chunk must be whole and in its chain (P1); groups above it were never acknowledged for
//! certain: whole ones are carried into the next segment, torn ones are dropped and counted. Between two segments
//! the newer one's opening says which chunk of the older one it follows.

use std::fmt;

use super::{
    JournalId,
    framing::Kind,
    segment::{Settled, Start, Summary},
    walk::{Span, Walk},
    watermark::Mark,
    witness::Witness,
};
use crate::save::Sequence;

/// What is wrong with a journal. `Display` is a report for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One sentence each; empty: nothing is wrong.
    pub findings: Vec<String>,
    /// Segments that count.
    pub segments: u64,
    /// Saves in them.
    pub saves: u64,
    /// The first of them.
    pub first: Option<Sequence>,
    /// The last of them.
    pub last: Option<Sequence>,
    /// Chunks at the end that a crash has torn and that nothing calls synced: no damage.
    pub torn_chunks: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn of(finding: String) -> Self {
        Self { findings: vec![finding], ..Self::default() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (Some(first), Some(last)) => {
                write!(f, "{} segments hold {} saves, {first} to {last}", self.segments, self.saves)?;
            }
            _ => write!(f, "{} segments hold no saves", self.segments)?,
        }
        if self.torn_chunks > 0 {
            write!(f, "; {} chunks at the end were never synced and are torn", self.torn_chunks)?;
        }
        for finding in &self.findings {
            write!(f, "\n- {finding}")?;
        }
        Ok(())
    }
}

/// A segment as it was found.
#[derive(Debug)]
pub(super) enum Found {
    /// Closed in order; whether its file is there.
    Closed(Box<Summary>, bool),
    /// Not closed: looked at chunk by chunk. `None`: there is no file.
    Open(u64, Option<Witness>),
}

impl Found {
    fn segment(&self) -> u64 {
        match self {
            Self::Closed(summary, _) => summary.segment,
            Self::Open(segment, _) => *segment,
        }
    }

    fn first_chunk(&self) -> Option<u64> {
        match self {
            Self::Closed(summary, _) => Some(summary.first_chunk),
            Self::Open(_, witness) => witness.as_ref()?.chunks.keys().next().copied(),
        }
    }

    fn run(&self) -> u64 {
        match self {
            Self::Closed(summary, _) => summary.run,
            Self::Open(_, witness) => witness.iter().flat_map(|seen| seen.chunks.values()).map(|chunk| chunk.header.run).max().unwrap_or(0),
        }
    }

    fn highest_chunk(&self) -> u64 {
        match self {
            Self::Closed(summary, _) => summary.last_chunk,
            Self::Open(_, witness) => witness.as_ref().and_then(|seen| seen.chunks.keys().next_back().copied()).unwrap_or(0),
        }
    }

    /// The highest chunk that this segment calls synced.
    fn evidence(&self) -> u64 {
        match self {
            Self::Closed(summary, _) => summary.last_chunk,
            Self::Open(_, witness) => {
                let seen = witness.iter().flat_map(|witness| witness.chunks.values());
                seen.map(|chunk| chunk.header.synced_through).max().unwrap_or(0)
            }
        }
    }

    /// A finding if something in it has no business here.
    fn intruder(&self, journal: JournalId) -> Option<String> {
        let segment = self.segment();
        let foreign = |id: JournalId| (id != journal).then(|| format!("segment {segment} belongs to another journal, {id}"));
        match self {
            Self::Closed(_, false) => Some(format!("segment {segment} was closed, but its file is gone")),
            Self::Closed(summary, true) => foreign(summary.journal),
            Self::Open(_, None) => None,
            Self::Open(_, Some(witness)) => witness
                .later_version
                .map(|version| format!("segment {segment} has chunks of format version {version}: start the later Forebay that wrote them"))
                .or_else(|| (witness.strangers > 0).then(|| format!("segment {segment} holds chunks of another segment")))
                .or_else(|| witness.chunks.values().find_map(|chunk| foreign(chunk.header.journal))),
        }
    }

    fn journal(&self) -> Option<JournalId> {
        match self {
            Self::Closed(summary, _) => Some(summary.journal),
            Self::Open(_, witness) => witness.as_ref()?.chunks.values().next().map(|chunk| chunk.header.journal),
        }
    }
}

/// What the journal holds and how the next run begins.
#[derive(Debug)]
pub(super) struct Plan {
    /// Segments that count, oldest first. Nothing above their `last_chunk` does.
    pub live: Vec<Summary>,
    /// Segments that hold nothing that counts.
    pub void: Vec<u64>,
    /// Groups that nothing calls synced: written again before anything else.
    pub carried: Vec<Span>,
    /// The segment that holds them.
    pub carried_from: u64,
    /// Chunks above the last whole group.
    pub torn_chunks: u64,
    /// The newest settled positions found: hints.
    pub settled: Settled,
    /// The last save that the journal holds.
    pub last: Sequence,
    /// The highest run found.
    pub run: u64,
    pub journal: Option<JournalId>,
    /// Saves up to here may have been removed.
    pub removed: Sequence,
    /// What the next segment goes on from.
    next: Next,
}

#[derive(Clone, Copy, Debug)]
struct Next {
    segment: u64,
    first_chunk: u64,
    follows: u64,
    follows_checksum: u32,
    synced_through: u64,
    last_before: Sequence,
}

impl Plan {
    /// The start of the new run's first segment.
    pub(super) fn start(&self, journal: JournalId, run: u64, before_run: Sequence) -> Start {
        let Next { segment, first_chunk, follows, follows_checksum, synced_through, last_before } = self.next;
        let begins = self.carried.first().map_or(before_run.plus(1), |span| span.first);
        Start { journal, segment, run, first_chunk, follows, follows_checksum, synced_through, begins, last_before }
    }

    /// The report of a sound journal.
    pub(super) fn report(&self) -> Report {
        let mut report = describe(&self.live);
        report.saves += self.carried.iter().map(|span| u64::from(span.saves)).sum::<u64>();
        report.first = report.first.or(self.carried.first().map(|span| span.first));
        report.last = self.carried.last().map(Span::last).or(report.last);
        report.torn_chunks = self.torn_chunks;
        report
    }
}

/// Judges a journal. `found` is every segment, oldest first.
pub(super) fn judge(found: &[Found], mark: Option<Mark>) -> Result<Plan, Box<Report>> {
    let evidence = found.iter().map(Found::evidence).chain(mark.map(|mark| mark.chunk)).max().unwrap_or(0);
    let journal = mark.map(|mark| mark.journal).or_else(|| found.iter().find_map(Found::journal));
    let mut findings: Vec<_> = found.iter().filter_map(|segment| segment.intruder(journal?)).collect();
    let mut held = Held { gone: mark.map_or(Sequence::ZERO, |mark| mark.removed), ..Held::default() };
    for segment in found.iter().rev() {
        if let Err(finding) = held.add(segment) {
            findings.push(finding);
            break;
        }
    }
    if findings.is_empty() {
        findings.extend(held.missing(evidence, mark).or_else(|| held.removed_unsaid(mark)));
    }
    if !findings.is_empty() {
        held.live.reverse();
        return Err(Box::new(Report { findings, ..describe(&held.live) }));
    }
    let last_segment = found.iter().map(Found::segment).max().unwrap_or(0);
    let last_chunk = found.iter().map(Found::highest_chunk).max().unwrap_or(0).max(evidence);
    let (Some(segment), Some(first_chunk)) = (last_segment.checked_add(1), last_chunk.checked_add(1)) else {
        held.live.reverse();
        let findings = vec![format!("nothing can follow segment {last_segment} and chunk {last_chunk}: nobody has written so many")];
        return Err(Box::new(Report { findings, ..describe(&held.live) }));
    };
    let run = found.iter().map(Found::run).chain(mark.map(|mark| mark.run)).max().unwrap_or(0);
    let removed =
        mark.map_or_else(|| held.live.last().map_or(Sequence::ZERO, |oldest| Sequence::from_u64(oldest.last_before)), |mark| mark.removed);
    Ok(held.plan(journal, run, removed, Next { segment, first_chunk, synced_through: evidence, ..Next::NOTHING }))
}

impl Next {
    const NOTHING: Self =
        Self { segment: 0, first_chunk: 0, follows: 0, follows_checksum: 0, synced_through: 0, last_before: Sequence::ZERO };
}

fn describe(live: &[Summary]) -> Report {
    let mut held = live.iter().filter(|summary| summary.saves > 0);
    Report {
        segments: live.len() as u64,
        saves: live.iter().map(|summary| summary.saves).sum(),
        first: held.clone().next().map(Summary::begins),
        last: held.next_back().map(Summary::last),
        ..Report::default()
    }
}

/// What the segments hold, from the newest back.
#[derive(Debug, Default)]
struct Held {
    /// Saves up to here may be missing.
    gone: Sequence,
    /// Newest first.
    live: Vec<Summary>,
    void: Vec<u64>,
    /// The newest live segment, if it was not closed.
    newest: Option<Walk>,
    torn_chunks: u64,
}

impl Held {
    /// Takes the next older segment.
    fn add(&mut self, segment: &Found) -> Result<(), String> {
        let number = segment.segment();
        let newer = self.live.last();
        if let Some(newer) = newer.filter(|newer| segment.first_chunk().is_none_or(|first| first > newer.follows)) {
            check_superseded(segment, newer)?;
            self.void.push(number);
            return Ok(());
        }
        let summary = match segment {
            Found::Closed(summary, _) => Summary::clone(summary),
            Found::Open(_, witness) => {
                let walk = witness.as_ref().and_then(|witness| Walk::of(witness, newer.map(|newer| newer.follows)));
                match (walk, newer) {
                    (Some(walk), newer) => {
                        let summary = walk.summary(walk.spans.len());
                        if newer.is_none() {
                            self.torn_chunks += walk.torn_chunks;
                            self.newest = Some(walk);
                        }
                        summary
                    }
                    // A crash before its first sync. If anything calls it synced, `missing` will say so.
                    (None, None) => {
                        self.torn_chunks += witness.as_ref().map_or(0, |witness| witness.chunks.len() as u64);
                        self.void.push(number);
                        return Ok(());
                    }
                    (None, Some(newer)) => {
                        return Err(format!("segment {number} has lost its opening, but segment {} follows it", newer.segment));
                    }
                }
            }
        };
        match check_link(&summary, self.live.last()) {
            Ok(()) => self.live.push(summary),
            Err(_) if self.is_left_over(&summary) => self.void.push(number),
            Err(finding) => return Err(finding),
        }
        Ok(())
    }

    /// Whether a segment should be gone with those between it and the next one: its removal has failed, theirs has not.
    fn is_left_over(&self, older: &Summary) -> bool {
        older.last() <= self.gone && self.live.last().is_some_and(|newer| newer.last_before <= self.gone.get())
    }

    fn missing(&self, evidence: u64, mark: Option<Mark>) -> Option<String> {
        let (segment, chunk, save) =
            self.live.first().map_or((0, 0, Sequence::ZERO), |newest| (newest.segment, newest.last_chunk, newest.last()));
        let through = mark.filter(|mark| mark.chunk == evidence && mark.sequence > save);
        let through = through.map_or(String::new(), |mark| format!(" up to {}", mark.sequence));
        (chunk < evidence).then(|| {
            format!(
                "chunks {} to {evidence} were synced but are damaged or gone: segment {segment} is sound up to chunk {chunk} and save \
                 {save}, saves after it{through} are missing",
                chunk + 1
            )
        })
    }

    /// The oldest segment goes on from others; they must have been removed in order.
    fn removed_unsaid(&self, mark: Option<Mark>) -> Option<String> {
        let (oldest, removed) = (self.live.last()?, mark?.removed);
        (oldest.last_before > removed.get()).then(|| {
            format!(
                "the segments before segment {} are gone, with saves up to {}: only saves up to {removed} were drained and removed",
                oldest.segment, oldest.last_before
            )
        })
    }

    /// Decides what the next segment carries and what it follows.
    fn plan(mut self, journal: Option<JournalId>, run: u64, removed: Sequence, mut next: Next) -> Plan {
        let settled = self.live.first().map_or_else(Vec::new, Summary::positions);
        let (mut carried, mut carried_from) = (Vec::new(), 0);
        if let (Some(walk), Some(newest)) = (self.newest, self.live.first_mut()) {
            let known = walk.spans.iter().take_while(|span| span.last_chunk <= next.synced_through).count();
            carried = walk.spans[known..].to_vec();
            carried_from = newest.segment;
            *newest = walk.summary(known);
        }
        if let Some(newest) = self.live.first() {
            (next.follows, next.follows_checksum, next.last_before) = (newest.last_chunk, newest.last_checksum, newest.last());
        }
        // A segment that is left without saves is passed over: restarts make no row of empty ones.
        if self.live.first().is_some_and(|newest| newest.saves == 0) {
            let empty = self.live.remove(0);
            self.void.push(empty.segment);
            (next.follows, next.follows_checksum) = (empty.follows, empty.follows_checksum);
        }
        self.live.reverse();
        let last = carried.last().map_or(next.last_before, Span::last);
        let Self { live, void, torn_chunks, .. } = self;
        Plan { live, void, carried, carried_from, torn_chunks, settled, last, run, journal, removed, next }
    }
}

/// The older of two neighbours must end with the chunk that the newer one follows.
fn check_link(older: &Summary, newer: Option<&Summary>) -> Result<(), String> {
    match newer {
        Some(newer) if (older.last_chunk, older.last_checksum) != (newer.follows, newer.follows_checksum) => Err(format!(
            "segment {} is sound up to chunk {} and save {}, but segment {} follows chunk {} and save {}: what is between is damaged or gone",
            older.segment, older.last_chunk, older.last, newer.segment, newer.follows, newer.last_before
        )),
        _ => Ok(()),
    }
}

/// What a newer segment passes over must have held nothing that was synced when the newer one began.
fn check_superseded(older: &Found, newer: &Summary) -> Result<(), String> {
    let lost = match older {
        Found::Closed(summary, _) => summary.saves > 0,
        Found::Open(_, None) => false,
        Found::Open(_, Some(witness)) => {
            witness.chunks.values().any(|chunk| chunk.header.kind == Kind::Group && chunk.header.number <= newer.known_synced)
        }
    };
    if lost {
        return Err(format!("segment {} holds saves, but segment {} passes over it", older.segment(), newer.segment));
    }
    Ok(())
}
