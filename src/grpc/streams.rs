//! What is remembered of save streams that were opened with an id, so that a resumed one saves nothing twice (P3) and
//! takes nothing refused for accepted (P6).
//!
//! Remembered is what the journal retains, nothing else: at a start `daemon` feeds every recovered save through
//! [`Streams::observe`], and a stream whose last save the journal has given up may be forgotten. The memory is
//! exact because only one call at a time may append for a stream: a newer opening fences the older, then waits until the
//! journal has answered what the older has in flight.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    limits::{Limit, LimitReached},
    save::{Sequence, StreamOrigin},
};

type StreamId = [u8; 16];
/// First and last offset.
type Range = (u64, u64);

/// Consecutive offsets whose saves are numbered consecutively too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Landed {
    first: u64,
    count: u64,
    /// Of the first.
    sequence: u64,
}

/// Streams by id.
pub struct Streams {
    known: Mutex<Known>,
    /// `request_ids.count_max`: counts the streams in `known`, and the request ids.
    limit: Arc<Limit>,
    retained_from: Box<dyn Fn() -> Sequence + Send + Sync>,
}

#[derive(Default)]
struct Known {
    streams: HashMap<StreamId, Arc<Stream>>,
    /// Openings since the last search for streams to forget.
    openings: usize,
}

struct Stream {
    state: Mutex<State>,
    /// Told when nothing is in flight any more.
    settled: Notify,
}

#[derive(Default)]
struct State {
    /// Counts the openings: only the newest may append.
    opening: u64,
    /// Ends the call that has the stream open.
    open: Option<CancellationToken>,
    /// Appends that the journal has not answered.
    in_flight: usize,
    /// Accepted offsets, rising.
    accepted: VecDeque<Range>,
    /// The last accepted save.
    last: Sequence,
    /// Whether the call that has the stream open waits for outcomes: then it is remembered where saves landed.
    waits: bool,
    /// The newest saves, oldest first.
    landed: VecDeque<Landed>,
}

/// A stream as it is kept between two runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Its id.
    id: StreamId,
    /// Accepted offsets, rising.
    accepted: Vec<Range>,
    /// The last accepted save.
    last: u64,
    /// The newest saves, oldest first; of streams that wait for outcomes.
    #[serde(default)]
    landed: Vec<Landed>,
}

impl Remembered {
    /// How many entries say where its saves landed.
    pub fn landed(&self) -> usize {
        self.landed.len()
    }
}

/// Where a stream stands when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resumption {
    /// Accepted offsets, rising; what lies before the first is too old to be told from accepted.
    accepted: Vec<Range>,
    /// Where the newest of them landed, oldest first.
    landed: Vec<Landed>,
}

impl Resumption {
    /// The last accepted offset.
    pub(super) fn through(&self) -> Option<u64> {
        self.accepted.last().map(|&(_, last)| last)
    }

    /// Offsets up to it that were not accepted.
    pub(super) fn missing(&self) -> impl Iterator<Item = Range> + '_ {
        self.accepted.windows(2).map(|pair| (pair[0].1 + 1, pair[1].0 - 1))
    }

    /// The save that was accepted at an offset; `None` if that is too long ago.
    pub(super) fn sequence(&self, offset: u64) -> Option<Sequence> {
        let landed = self.landed.iter().rfind(|landed| landed.first <= offset && offset - landed.first < landed.count)?;
        Some(Sequence::from_u64(landed.sequence).plus(offset - landed.first))
    }

    /// Whether an offset up to [`Self::through`] was accepted.
    pub(super) fn was_accepted(&self, offset: u64) -> bool {
        !self.missing().any(|(first, last)| (first..=last).contains(&offset))
    }
}

impl Streams {
    /// Ranges of accepted offsets kept per stream; between two of them saves were refused or offsets left out. The oldest
    /// gap is forgotten first: its saves were answered so long ago that nobody waits for an answer.
    const RANGES_MAX: usize = 65;
    /// Entries of where a stream's newest saves landed. While others save as well, one may be as short as one save.
    const LANDED_MAX: usize = 256;

    /// Remembers up to the limit; `retained_from` tells the oldest sequence that the journal still has.
    pub fn new(limit: Arc<Limit>, retained_from: impl Fn() -> Sequence + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), limit, retained_from: Box::new(retained_from) })
    }

    /// Remembers a save that recovery found in the journal. In sequence order.
    pub fn observe(&self, origin: StreamOrigin, sequence: Sequence) {
        let mut known = lock(&self.known);
        let stream = known.streams.entry(origin.stream_id).or_insert_with(|| {
            // What the journal holds is remembered, whatever the limit is now.
            self.limit.take_anyway(1);
            Stream::new()
        });
        let mut state = lock(&stream.state);
        state.accept(origin.offset, 1, sequence);
        state.land(origin.offset, 1, sequence);
    }

    /// What is remembered, for the next start.
    pub fn remembered(&self) -> Vec<Remembered> {
        let known = lock(&self.known);
        let remembered = known.streams.iter().map(|(id, stream)| {
            let state = lock(&stream.state);
            let Resumption { accepted, landed } = state.resumption();
            Remembered { id: *id, accepted, last: state.last.get(), landed }
        });
        remembered.collect()
    }

    /// Remembers what an earlier run remembered at its end; instead of [`Streams::observe`] for the same saves.
    pub fn recall(&self, remembered: Vec<Remembered>) {
        let mut known = lock(&self.known);
        for Remembered { id, accepted, last, landed } in remembered {
            self.limit.take_anyway(1);
            let (stream, last) = (Stream::new(), Sequence::from_u64(last));
            *lock(&stream.state) = State { accepted: accepted.into(), last, landed: landed.into(), ..State::default() };
            known.streams.insert(id, stream);
        }
    }

    /// How many streams are remembered.
    pub fn count(&self) -> usize {
        lock(&self.known).streams.len()
    }

    /// Opens a stream; ends the call that has it open. `ended` ends the new one, which `waits` for outcomes or doesn't.
    ///
    /// The stream may be used once [`Opening::settled`] has returned.
    pub(super) fn open(self: &Arc<Self>, id: StreamId, ended: CancellationToken, waits: bool) -> Result<Opening, LimitReached> {
        let mut known = lock(&self.known);
        self.forget_some(&mut known);
        let stream = match known.streams.get(&id) {
            Some(stream) => Arc::clone(stream),
            None => {
                self.limit.try_take(1)?;
                let stream = Stream::new();
                known.streams.insert(id, Arc::clone(&stream));
                stream
            }
        };
        let (number, older) = {
            let mut state = lock(&stream.state);
            state.opening += 1;
            state.waits = waits;
            if !waits {
                state.landed = VecDeque::new();
            }
            (state.opening, state.open.replace(ended))
        };
        if let Some(older) = older {
            older.cancel();
        }
        Ok(Opening { streams: Arc::clone(self), stream, id, number })
    }

    /// Drops what the journal doesn't retain.
    pub(super) fn forget_given_up(&self) {
        self.forget(&mut lock(&self.known));
    }

    /// Drops what the journal doesn't retain, now and then. Looks through all when the limit is met, and else once for as many openings
    /// as there are streams, so that it costs each opening the same.
    fn forget_some(&self, known: &mut Known) {
        known.openings += 1;
        if self.limit.used() < self.limit.max() && known.openings < known.streams.len().max(1_024) {
            return;
        }
        self.forget(known);
    }

    fn forget(&self, known: &mut Known) {
        known.openings = 0;
        let (before, retained_from) = (known.streams.len(), (self.retained_from)());
        known.streams.retain(|_, stream| !lock(&stream.state).is_forgettable(retained_from));
        self.limit.give_back((before - known.streams.len()) as u64);
    }
}

impl Stream {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), settled: Notify::new() })
    }
}

impl State {
    fn accept(&mut self, first: u64, count: u64, first_sequence: Sequence) {
        let last = first + (count - 1);
        self.last = first_sequence.plus(count - 1);
        match self.accepted.back_mut() {
            // A run of the daemon may have taken again what an earlier one had lost track of.
            Some((_, end)) if *end >= first => *end = last.max(*end),
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => self.accepted.push_back((first, last)),
        }
        if self.accepted.len() > Streams::RANGES_MAX {
            self.accepted.pop_front();
        }
    }

    /// Remembers where saves landed.
    fn land(&mut self, first: u64, count: u64, first_sequence: Sequence) {
        let sequence = first_sequence.get();
        match self.landed.back_mut() {
            Some(last) if last.first + last.count == first && last.sequence + last.count == sequence => last.count += count,
            _ => self.landed.push_back(Landed { first, count, sequence }),
        }
        if self.landed.len() > Streams::LANDED_MAX {
            self.landed.pop_front();
        }
    }

    fn resumption(&self) -> Resumption {
        Resumption { accepted: self.accepted.iter().copied().collect(), landed: self.landed.iter().copied().collect() }
    }

    fn is_forgettable(&self, retained_from: Sequence) -> bool {
        self.open.is_none() && self.in_flight == 0 && self.last < retained_from
    }
}

/// A stream in use by one call.
pub(super) struct Opening {
    streams: Arc<Streams>,
    stream: Arc<Stream>,
    id: StreamId,
    number: u64,
}

impl Opening {
    /// The client's id.
    pub(super) fn id(&self) -> StreamId {
        self.id
    }

    /// Waits until the journal has answered everything of older calls; tells where the stream stands then.
    pub(super) async fn settled(&self) -> Resumption {
        loop {
            let settled = self.stream.settled.notified();
            {
                let state = lock(&self.stream.state);
                if state.in_flight == 0 {
                    return state.resumption();
                }
            }
            settled.await;
        }
    }

    /// Begins an append of consecutive offsets; `None` if a newer call has the stream.
    pub(super) fn begin(&self) -> Option<InFlight> {
        let mut state = lock(&self.stream.state);
        if state.opening != self.number {
            return None;
        }
        state.in_flight += 1;
        Some(InFlight(Arc::clone(&self.stream)))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut known = lock(&self.streams.known);
        let never_used = {
            let mut state = lock(&self.stream.state);
            if state.opening != self.number {
                return;
            }
            state.open = None;
            state.accepted.is_empty() && state.in_flight == 0
        };
        if never_used && known.streams.remove(&self.id).is_some() {
            self.streams.limit.give_back(1);
        }
    }
}

/// An append on its way; when dropped it is answered.
pub(super) struct InFlight(Arc<Stream>);

impl InFlight {
    /// It is in the journal: `count` offsets from `first` on.
    pub(super) fn accepted(self, first: u64, count: u64, first_sequence: Sequence) {
        let mut state = lock(&self.0.state);
        state.accept(first, count, first_sequence);
        if state.waits {
            state.land(first, count, first_sequence);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.in_flight -= 1;
        if state.in_flight == 0 {
            self.0.settled.notify_waiters();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics under this lock")
}

#[cfg(test)]
mod tests;
