//! The save streams and request ids that a clean stop remembers for the next start, so that it need not read the whole journal
//! for them.

use serde::{Deserialize, Serialize};

use crate::{
    grpc::{Remembered, RememberedId, RequestIds, Streams},
    journal::{Ledger, LedgerError},
    save::Sequence,
};

const LEDGER_KEY: &str = "streams";
/// More are read from the journal again: the ledger is for small things.
const COUNT_MAX: usize = 10_000;
const LANDED_MAX: usize = 100_000;

#[derive(Serialize, Deserialize)]
struct Note {
    /// The journal's last save: with any later one, the note is stale.
    through: u64,
    streams: Vec<Remembered>,
    request_ids: Vec<RememberedId>,
}

/// Notes what is remembered of the saves up to `through`. Blocks.
pub(super) fn note(ledger: &Ledger, streams: &Streams, request_ids: &RequestIds, through: Sequence) -> Result<(), LedgerError> {
    if streams.count() + request_ids.count() > COUNT_MAX {
        return Ok(());
    }
    let (streams, request_ids) = (streams.remembered(), request_ids.remembered());
    if streams.iter().map(Remembered::landed).sum::<usize>() > LANDED_MAX {
        return Ok(());
    }
    let note = serde_json::to_vec(&Note { through: through.get(), streams, request_ids }).expect("a note is plain data");
    ledger.put(LEDGER_KEY, &note)
}

/// Takes what the last stop noted; false if there is none, or the journal holds later saves. Blocks.
pub(super) fn recall(ledger: &Ledger, streams: &Streams, request_ids: &RequestIds, last: Sequence) -> Result<bool, LedgerError> {
    let note = ledger.get(LEDGER_KEY)?.and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
    let Some(note) = note.filter(|note| note.through == last.get()) else { return Ok(false) };
    streams.recall(note.streams);
    request_ids.recall(note.request_ids);
    Ok(true)
}
