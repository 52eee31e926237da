//! Opening a journal: look, judge, agree with the store, and only then write.
//!
//! The order matters. Nothing is modified before there is room for all of it and the audit has passed, that of the ledger too: a
//! damaged journal stays as it was found, for `salvage` (room of the disk that was only reserved is given back). Then the new run's
//! segment is written, with every group in it that nothing calls synced (after a failed sync the page cache lies, so reading them back
//! proves nothing), and synced. Only then are older segments marked closed and void ones removed. A crash anywhere in between starts over.

use std::{
    fs, io,
    panic::{UnwindSafe, catch_unwind},
    path::Path,
};

use super::{
    Journal, JournalId, OpenError, Recovered,
    audit::{self, Found, Plan, Report},
    directory::Directory,
    group::{Assembler, Group},
    ledger::Ledger,
    segment::{SegmentWriter, Summary},
    space::OWN_BYTES,
    store::{self, Store, sync_directory},
    watermark::{self, Mark, Watermark},
    witness::Witness,
};
use crate::{save::Sequence, settings::JournalSettings};

/// Cache of the segment that is written.
pub(super) const LIVE_CACHE_BYTES: u64 = 8 << 20;
/// Cache of a segment that is read.
pub(super) const READ_CACHE_BYTES: u64 = 2 << 20;
pub(super) const JOURNAL_ID: &str = "journal.id";
pub(super) const JOURNAL_RUN: &str = "journal.run";

pub(super) fn open(settings: &JournalSettings) -> Result<Journal, OpenError> {
    let directory = Directory::open(&settings.directory)?;
    let io = |act| move |source| OpenError::Io { act, source };
    directory.sweep().map_err(io("sweep the journal"))?;
    let found = look(&directory).map_err(io("look at the journal"))?;
    let mark = watermark::read(&directory.watermark()).map_err(io("read the watermark"))?;
    let plan = audit::judge(&found, mark).map_err(OpenError::Damaged)?;
    if mark.is_none() && plan.journal.is_some() {
        tracing::warn!("the journal's watermark is gone: what it would have witnessed is taken on trust");
    }
    give_back(&directory, &found).map_err(io("give back what a segment had reserved"))?;
    directory.has_room(room(&directory, &found, &plan).map_err(io("look at the journal"))?)?;
    agree(&directory, &found, &plan)?;
    check_ledger(&directory.ledger(), &directory.audit_of_ledger(), mark)?;
    let carried = carried_groups(&found, &plan)?;

    let identity = Identity::take(&directory, &plan)?;
    let before_run = Sequence::before_run(identity.run).ok_or_else(|| OpenError::damaged("the run numbers are used up"))?;
    let start = plan.start(identity.journal, identity.run, before_run);
    let write = |act| move |error: store::StoreError| OpenError::store(act, error);
    let store = Store::open(&directory.segment(start.segment), LIVE_CACHE_BYTES).map_err(write("open a segment"))?;
    let segment = begin(store, &start, &carried, &plan).map_err(write("write a segment"))?;
    let watermark = witness_start(&directory, &segment, &plan, &identity.ledger).map_err(io("write the watermark"))?;
    conclude(&directory, &found, &plan).map_err(io("close the earlier segments"))?;
    Ok(Journal {
        settings: settings.clone(),
        directory,
        id: identity.journal,
        run: identity.run,
        ledger: identity.ledger,
        recovered: recovered(&plan),
        settled: plan.settled,
        last: plan.last,
        before_run,
        closed: plan.live,
        segment,
        watermark,
        removed: plan.removed,
    })
}

/// Looks at every segment, without writing anything.
pub(super) fn look(directory: &Directory) -> io::Result<Vec<Found>> {
    let look = |number| {
        let path = directory.segment(number);
        match Summary::read_mark(&path)?.filter(|summary| summary.segment == number) {
            Some(summary) => Ok(Found::Closed(Box::new(summary), path.join("db").exists())),
            None => Ok(Found::Open(number, Witness::look(&path, number)?)),
        }
    };
    directory.segments()?.into_iter().map(look).collect()
}

/// Segments that were not closed still hold the disk's room for what was to come.
fn give_back(directory: &Directory, found: &[Found]) -> io::Result<()> {
    for segment in found {
        if let Found::Open(number, Some(_)) = segment {
            store::give_back(&directory.segment(*number))?;
        }
    }
    Ok(())
}

/// What a start may write: the ledger grows when it is opened; before that it is copied, as is each segment that was not closed, one
/// at a time. Closed segments are read as they are.
fn room(directory: &Directory, found: &[Found], plan: &Plan) -> io::Result<u64> {
    let ledger = directory.ledger().join("db").metadata().map_or(0, |file| file.len());
    let mut copied = store::opened_bytes(ledger);
    for segment in found {
        if let Found::Open(number, Some(witness)) = segment
            && plan.live.iter().any(|summary| summary.segment == *number)
        {
            copied = store::opened_bytes(witness.bytes()?).max(copied);
        }
    }
    Ok(OWN_BYTES + store::opened_bytes(ledger) - ledger + copied)
}

/// The store must find what counts. It is asked on a copy: its repair would destroy what it can't read. Of carried groups it
/// may know less than the witness, if their sync was cut short; they are not read from it.
fn agree(directory: &Directory, found: &[Found], plan: &Plan) -> Result<(), OpenError> {
    for segment in found {
        let Found::Open(number, Some(witness)) = segment else { continue };
        if let Some(summary) = plan.live.iter().find(|summary| summary.segment == *number) {
            compare(&directory.segment(*number), &directory.audit(*number), witness, summary.last_chunk)?;
        }
    }
    Ok(())
}

/// Opens a copy of a segment and asks for every chunk up to `last`.
pub(super) fn compare(segment: &Path, copy: &Path, witness: &Witness, last: u64) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { act: "copy a segment to audit it", source };
    store::copy(segment, copy).map_err(io)?;
    let compared = caught(segment, || compare_copy(segment, copy, witness, last));
    fs::remove_dir_all(copy).map_err(io)?;
    compared
}

#[cfg(not(panic = "unwind"))]
compile_error!("the audit catches sled's panics: build with panic = \"unwind\"");

/// sled asserts what it reads: a panic is a finding too.
pub(super) fn caught(segment: &Path, compare: impl FnOnce() -> Result<(), OpenError> + UnwindSafe) -> Result<(), OpenError> {
    let panics = || OpenError::damaged(format!("the store panics when it opens {}", segment.display()));
    catch_unwind(compare).unwrap_or_else(|_| Err(panics()))
}

/// The ledger must be whole, and not shorter than the watermark knows. It is opened on a copy, too, before anything is changed.
pub(super) fn check_ledger(ledger: &Path, copy: &Path, mark: Option<Mark>) -> Result<(), OpenError> {
    if !ledger.exists() {
        return Ok(());
    }
    let io = |source| OpenError::Io { act: "copy the ledger to audit it", source };
    store::copy(ledger, copy).map_err(io)?;
    let checked = caught(ledger, || check_ledger_copy(copy, mark));
    fs::remove_dir_all(copy).map_err(io)?;
    checked
}

fn check_ledger_copy(copy: &Path, mark: Option<Mark>) -> Result<(), OpenError> {
    let unread = |source| OpenError::Io { act: "audit a copy of the ledger", source };
    let ledger = Ledger::open(copy).map_err(|error| match io::Error::from(error) {
        source if source.raw_os_error().is_some() => unread(source),
        error => OpenError::damaged(format!("the store can't open the ledger: {error}")),
    })?;
    let damaged = |error: super::LedgerError| OpenError::damaged(error.to_string());
    ledger.scan("").map_err(damaged)?;
    let (counted, witnessed) = (ledger.count().map_err(damaged)?, mark.map_or(0, |mark| mark.ledger));
    if counted < witnessed {
        return Err(OpenError::damaged(format!(
            "the ledger was written {counted} times, but {witnessed} times by the watermark: its newest values are gone"
        )));
    }
    ledger.close().map_err(|error| unread(error.into()))
}

fn compare_copy(segment: &Path, copy: &Path, witness: &Witness, last: u64) -> Result<(), OpenError> {
    let differs = |what: String| OpenError::damaged(format!("segment {}: {what}", segment.display()));
    // What the system can't do, with a copy, says nothing about the segment.
    let unread = |source| OpenError::Io { act: "audit a copy of a segment", source };
    let failed = |what: String, error| match io::Error::from(error) {
        source if source.raw_os_error().is_some() => unread(source),
        error => differs(format!("{what}: {error}")),
    };
    let store = Store::open(copy, READ_CACHE_BYTES).map_err(|error| failed("the store can't open it".to_owned(), error))?;
    for (number, seen) in witness.chunks.range(..=last) {
        let value = store.chunk(*number).map_err(|error| failed(format!("chunk {number}"), error))?;
        let same = value.is_some_and(|value| value.ends_with(&seen.checksum.to_le_bytes()));
        if !same {
            return Err(differs(format!("chunk {number} is on disk, but the store doesn't find it")));
        }
    }
    store.close().map_err(|error| unread(error.into()))
}

fn carried_groups(found: &[Found], plan: &Plan) -> Result<Vec<Group>, OpenError> {
    let witness = found.iter().find_map(|segment| match segment {
        Found::Open(number, Some(witness)) if *number == plan.carried_from => Some(witness),
        _ => None,
    });
    let Some(witness) = witness else { return Ok(Vec::new()) };
    let mut groups = Vec::with_capacity(plan.carried.len());
    for span in &plan.carried {
        groups.push(read_group(witness, span.first_chunk, span.last_chunk)?);
    }
    Ok(groups)
}

/// Reads one group from where it was seen.
pub(super) fn read_group(witness: &Witness, first: u64, last: u64) -> Result<Group, OpenError> {
    let mut assembler = Assembler::default();
    let mut whole = None;
    for number in first..=last {
        let value = witness.value(number).map_err(|source| OpenError::Io { act: "read a group", source })?;
        whole = assembler.add(&value).map_err(|error| OpenError::damaged(error.to_string()))?;
    }
    whole.ok_or_else(|| OpenError::damaged(format!("the group of chunks {first} to {last} is not whole")))
}

/// Who this journal is, and which start of it this is.
struct Identity {
    journal: JournalId,
    run: u64,
    ledger: Ledger,
}

impl Identity {
    /// Reads the ledger, or begins it with a new journal; the run number is durable when this returns.
    fn take(directory: &Directory, plan: &Plan) -> Result<Self, OpenError> {
        let fresh = !directory.ledger().exists();
        if fresh && plan.journal.is_some() {
            return Err(OpenError::damaged("the ledger is gone, but there are segments: it holds what the daemon knows of Postgres"));
        }
        let ledger = Ledger::open(&directory.ledger()).map_err(|error| OpenError::store("open the ledger", error))?;
        let failed = |error: super::LedgerError| OpenError::damaged(error.to_string());
        let journal = match (ledger.get(JOURNAL_ID).map_err(failed)?, plan.journal) {
            (Some(id), found) => {
                let id = id.try_into().map(JournalId::from_bytes).map_err(|_| OpenError::damaged("the ledger's journal id is none"))?;
                if let Some(found) = found.filter(|&found| found != id) {
                    return Err(OpenError::damaged(format!("the ledger belongs to journal {id}, the segments to {found}")));
                }
                id
            }
            (None, Some(_)) => return Err(OpenError::damaged("the ledger has lost the journal's id")),
            (None, None) => JournalId::draw(),
        };
        let before = ledger.get(JOURNAL_RUN).map_err(failed)?;
        let before = before.and_then(|run| run.try_into().ok()).map_or(0, u64::from_le_bytes);
        // Past the last one there is none, as its first number says.
        let run = before.max(plan.run).saturating_add(1);
        // That nothing can be written says nothing about what is there.
        let unwritten = |error| OpenError::Io { act: "write the ledger", source: io::Error::other(error) };
        ledger.put(JOURNAL_ID, &journal.to_bytes()).and_then(|()| ledger.put(JOURNAL_RUN, &run.to_le_bytes())).map_err(unwritten)?;
        Ok(Self { journal, run, ledger })
    }
}

/// Writes the new run's opening and what it carries, and syncs.
fn begin(store: Store, start: &super::segment::Start, carried: &[Group], plan: &Plan) -> Result<SegmentWriter, store::StoreError> {
    let count = u32::try_from(carried.len()).expect("groups of one segment");
    let mut segment = SegmentWriter::open(store, start, count, &plan.settled)?;
    for group in carried {
        segment.put(group.first, group.saves, std::iter::once(&group.payload[..]), &plan.settled)?;
    }
    segment.sync()?;
    Ok(segment)
}

/// The first watermark of the run, and the name of its file.
fn witness_start(directory: &Directory, segment: &SegmentWriter, plan: &Plan, ledger: &Ledger) -> io::Result<Watermark> {
    let mut watermark = Watermark::open(&directory.watermark())?;
    let synced = segment.summary();
    let sequence = Sequence::from_u64(synced.last);
    let ledger = ledger.count().map_err(io::Error::other)?;
    let Summary { journal, run, last_chunk: chunk, .. } = *synced;
    watermark.write(Mark { journal, run, chunk, sequence, removed: plan.removed, ledger })?;
    sync_directory(directory.path())?;
    Ok(watermark)
}

/// What is live is closed from now on, what is void goes.
fn conclude(directory: &Directory, found: &[Found], plan: &Plan) -> io::Result<()> {
    for segment in found {
        let Found::Open(number, Some(witness)) = segment else { continue };
        if let Some(summary) = plan.live.iter().find(|summary| summary.segment == *number) {
            Summary { bytes: witness.bytes()?, ..summary.clone() }.mark(&directory.segment(*number))?;
        }
    }
    plan.void.iter().try_for_each(|&number| Ok(directory.remove_segment(number)?))
}

fn recovered(plan: &Plan) -> Recovered {
    let Report { saves, torn_chunks, .. } = plan.report();
    if torn_chunks > 0 {
        tracing::warn!(chunks = torn_chunks, "dropped a torn group at the journal's end: it was never acknowledged");
    }
    Recovered {
        saves,
        bytes: plan.live.iter().map(|summary| summary.bytes).sum(),
        segments: plan.live.len() as u64,
        carried_groups: plan.carried.len() as u64,
        torn_chunks,
    }
}
