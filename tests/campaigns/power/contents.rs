//! What a journal holds, by the journal's own recovery, without a daemon around it: a start takes milliseconds, and thousands of
//! broken journals can be started.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use forebay::{
    journal::{Entry, Events, Journal, OpenError, ReadError, Running},
    limits::Limits,
    save::{Change, LaneId, Sequence},
    settings::{JournalSettings, Settings},
};
use serde_json::Value;

use crate::{
    campaigns::{
        NOTES,
        checker::{Row, Stored},
    },
    support::HANG,
};

/// A journal that a start takes.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) entries: Vec<Entry>,
    /// What is in its ledger, but for what each start changes.
    pub(crate) ledger: Vec<(String, Vec<u8>)>,
}

/// Why a start doesn't take it.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// With this report.
    Damaged(String),
    Other(String),
    /// With no right to.
    Panicked(String),
}

/// Starts a journal and reads all of it, as a daemon does that knows nothing of Postgres. Panics if that hangs.
pub(crate) async fn read(directory: &Path) -> Result<Contents, Refusal> {
    let settings = JournalSettings { directory: directory.to_owned(), free_bytes_min: 0, ..Settings::default().journal };
    let opened = tokio::task::spawn_blocking(move || catch_unwind(AssertUnwindSafe(|| Journal::open(&settings))));
    let opened = tokio::time::timeout(HANG, opened).await.expect("a start doesn't hang").expect("it is waited for");
    let journal = opened.map_err(|panic| Refusal::Panicked(format!("{:?}", panic.downcast_ref::<String>())))?.map_err(Refusal::of)?;
    let ledger = journal.ledger().scan("").map_err(|error| Refusal::Other(error.to_string()))?;
    let ledger = ledger.into_iter().filter(|(key, _)| key != "journal.run").collect();
    let (hint, oldest) = (journal.settled_hint(LaneId(0)), journal.oldest());
    let limits = Limits::new(&Settings::default());
    limits.all().for_each(|limit| limit.set_max(u64::MAX >> 1));
    limits.journal_free_bytes.set_max(0);
    let events = Events { offer: Box::new(drop), on_group: Box::new(drop), on_fatal: Box::new(drop) };
    let running = journal.start(&limits, &[hint], events).expect("threads");
    let entries = tokio::time::timeout(HANG, read_all(&running, oldest)).await.expect("reading doesn't hang");
    let stopped = tokio::time::timeout(HANG, running.stop()).await.expect("stopping doesn't hang");
    let entries = entries?;
    stopped.map_err(|error| Refusal::Other(error.to_string()))?;
    Ok(Contents { entries, ledger })
}

async fn read_all(running: &Running, oldest: Sequence) -> Result<Vec<Entry>, Refusal> {
    const BYTES: usize = 4 << 20;
    let (reader, mut entries) = (running.reader(), Vec::<Entry>::new());
    loop {
        let after = entries.last().map_or(oldest, |entry| entry.sequence);
        let more = reader.read(after, Sequence::from_u64(u64::MAX >> 1), BYTES).await;
        let more = more.map_err(|error| match error {
            ReadError::Damaged(report) => Refusal::Damaged(report),
            other => Refusal::Other(other.to_string()),
        })?;
        if more.is_empty() {
            return Ok(entries);
        }
        entries.extend(more);
    }
}

impl Refusal {
    fn of(error: OpenError) -> Self {
        match error {
            OpenError::Damaged(report) => Self::Damaged(report.to_string()),
            other => Self::Other(other.to_string()),
        }
    }
}

impl Contents {
    /// Lays the saves over what Postgres holds, in their order. Some of them may be there already.
    pub(crate) fn over(&self, mut stored: Stored) -> Stored {
        let written: HashSet<_> = stored.lines.iter().cloned().collect();
        assert!(self.entries.is_sorted_by(|before, after| before.sequence < after.sequence), "no sequence comes twice");
        for Entry { record, .. } in &self.entries {
            let body = record.change.body().map(|body| serde_json::from_slice::<Value>(body.as_bytes()).expect("JSON"));
            if record.collection == NOTES {
                let body = body.expect("a line has one");
                let line = body["line"].as_str().expect("a text");
                stored.lines.extend((!written.contains(line)).then(|| line.to_owned()));
                continue;
            }
            let object = format!("{}/{}", record.collection, record.key.parts().next().expect("one part"));
            match (&record.change, body) {
                (Change::Delete, _) => drop(stored.rows.remove(&object)),
                (_, Some(body)) => drop(stored.rows.insert(object, row(&body))),
                (_, None) => unreachable!("only a delete has none"),
            }
        }
        stored
    }
}

/// A row of a table with keys, as a save or Postgres has it in JSON.
pub(crate) fn row(json: &Value) -> Row {
    let number = |name: &str| json[name].as_u64().expect("a number");
    let filler = json["filler"].as_str().expect("a text").to_owned();
    Row { version: number("version"), filler, checksum: u32::try_from(number("checksum")).expect("a checksum") }
}

/// Up to which save the journal was synced, as its watermark has it: turn and sequence stand at 24 and 48 of two slots 4 KiB apart, of
/// which the later turn counts. 0 if there is none.
pub(crate) fn watermark(directory: &Path) -> u64 {
    const BYTES: usize = 76;
    let bytes = std::fs::read(directory.join("watermark")).unwrap_or_default();
    let number = |slot: &[u8], at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("8 bytes"));
    let sound = |slot: &&[u8]| crc32c::crc32c(&slot[..BYTES - 4]).to_le_bytes() == slot[BYTES - 4..];
    let slots = [0, 4096].into_iter().filter_map(|at| bytes.get(at..at + BYTES)).filter(sound);
    slots.max_by_key(|slot| number(slot, 24)).map_or(0, |slot| number(slot, 48))
}
