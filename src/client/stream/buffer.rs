//! The saves of a stream that are not answered yet. Pure: no clock, no I/O.

use std::{collections::VecDeque, mem, ops::AddAssign, task::Waker};

use tokio::sync::oneshot;

use super::{Accepted, NotSaved};
use crate::{
    client::{Error, Ticket},
    proto,
};

/// What a save takes of a message beside itself.
pub(super) const FRAME_BYTES: usize = 16;
/// What one message carries at most: saves, and the bytes at which it is full.
const MESSAGE_SAVES_MAX: usize = 256;
const MESSAGE_BYTES: usize = 128 << 10;

/// Saves by offset, without a gap: the first has `first`, the next to send on this connection `cursor`.
#[derive(Debug)]
pub(super) struct Buffer {
    entries: VecDeque<Entry>,
    first: u64,
    cursor: u64,
    /// Saves from here on were never sent.
    unsent: u64,
    connection: u64,
    /// The daemon has said where this connection begins.
    resumed: bool,
    finishing: bool,
    closed: bool,
    waker: Option<Waker>,
}

pub(super) type Tell = oneshot::Sender<Result<Accepted, Error>>;

#[derive(Debug)]
struct Entry {
    save: proto::Save,
    bytes: usize,
    tell: Option<Tell>,
    told: Told,
}

/// What is known of a save before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// It failed: acknowledged with the others.
    Failed,
    /// Refused, or failed on a connection before: neither sent again nor acknowledged.
    Gone,
}

/// Room that answers have freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) saves: usize,
    pub(super) bytes: usize,
}

/// What the sender of a connection does next.
#[derive(Debug)]
pub(super) enum Next {
    Send(proto::SaveStreamRequest),
    Wait,
    End,
}

impl AddAssign for Answered {
    fn add_assign(&mut self, more: Self) {
        self.saves += more.saves;
        self.bytes += more.bytes;
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 1,
            cursor: 1,
            unsent: 1,
            connection: 0,
            resumed: false,
            finishing: false,
            closed: false,
            waker: None,
        }
    }
}

impl Buffer {
    /// Takes a save in; returns its offset, or the save if the stream has ended.
    pub(super) fn push(&mut self, save: proto::Save, bytes: usize, tell: Option<Tell>) -> Result<u64, proto::Save> {
        if self.closed {
            return Err(save);
        }
        self.entries.push_back(Entry { save, bytes, tell, told: Told::Nothing });
        self.wake();
        Ok(self.last())
    }

    fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// No save will follow. Returns the last offset.
    pub(super) fn finish(&mut self) -> u64 {
        self.finishing = true;
        self.wake();
        self.last()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finishing && self.entries.is_empty()
    }

    /// A connection takes over: what the one before it still asks for is answered with its end.
    pub(super) fn connect(&mut self) -> u64 {
        self.connection += 1;
        self.resumed = false;
        self.wake();
        self.connection
    }

    /// Where this connection begins: after `through`, which the daemon has accepted, or with the first save not answered.
    pub(super) fn resume(&mut self, through: Option<u64>) -> Answered {
        let mut answered = through.map_or_else(Answered::default, |through| self.acknowledge(through, Vec::new(), &[]));
        self.entries.iter_mut().filter(|entry| entry.told == Told::Failed).for_each(|entry| entry.told = Told::Gone);
        answered += self.forget_gone();
        self.cursor = self.first;
        self.resumed = true;
        self.wake();
        answered
    }

    /// Whether saves that were sent, and may have been accepted, would count twice.
    pub(super) fn repeats_count(&self) -> bool {
        let sent = (self.unsent - self.first) as usize;
        self.entries.iter().take(sent).any(|entry| {
            let deletes = matches!(entry.save.change, Some(proto::save::Change::Delete(_)));
            entry.told == Told::Nothing && !deletes && (entry.save.key.is_empty() || !entry.save.add.is_empty())
        })
    }

    /// The next message of a connection.
    pub(super) fn next(&mut self, connection: u64, waker: &Waker) -> Next {
        if connection != self.connection {
            return Next::End;
        }
        if !self.resumed {
            return self.wait(waker);
        }
        let behind = self.entries.range((self.cursor - self.first) as usize..);
        self.cursor += behind.take_while(|entry| entry.told == Told::Gone).count() as u64;
        let from = (self.cursor - self.first) as usize;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.bytes;
            entry.told != Told::Gone && (first || bytes <= MESSAGE_BYTES)
        };
        let saves: Vec<_> = self.entries.range(from..).take(MESSAGE_SAVES_MAX).take_while(fits).map(|entry| entry.save.clone()).collect();
        if saves.is_empty() {
            return if self.finishing { Next::End } else { self.wait(waker) };
        }
        let offset = self.cursor;
        self.cursor += saves.len() as u64;
        self.unsent = self.unsent.max(self.cursor);
        Next::Send(proto::SaveStreamRequest { offset, saves, ..Default::default() })
    }

    /// Waits for [`wake`](Self::wake).
    fn wait(&mut self, waker: &Waker) -> Next {
        self.waker = Some(waker.clone());
        Next::Wait
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Every save up to `through` is answered; `tickets` are those of the saves among them that are not refused, in order.
    pub(super) fn acknowledge(&mut self, through: u64, tickets: Vec<String>, superseded: &[u64]) -> Answered {
        let count = through.saturating_add(1).saturating_sub(self.first).min(self.unsent - self.first);
        let mut tickets = tickets.into_iter();
        let mut answered = Answered::default();
        for (offset, entry) in (self.first..).zip(self.entries.drain(..count as usize)) {
            answered += Answered { saves: 1, bytes: entry.bytes };
            let ticket = if entry.told == Told::Gone { None } else { tickets.next() };
            if let Some(tell) = entry.tell {
                let ticket = ticket.filter(|ticket| !ticket.is_empty()).map(Ticket::from);
                // Nobody may be waiting any more.
                let _ = tell.send(Ok(Accepted { ticket, superseded: superseded.contains(&offset) }));
            }
        }
        self.first += count;
        answered += self.forget_gone();
        answered
    }

    /// Those at the front that nothing is awaited for.
    fn forget_gone(&mut self) -> Answered {
        let mut answered = Answered::default();
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.told == Told::Gone) {
            answered += Answered { saves: 1, bytes: entry.bytes };
            self.first += 1;
        }
        self.cursor = self.cursor.max(self.first);
        answered
    }

    /// One save is refused: to be told by who is not told here.
    pub(super) fn refuse(&mut self, offset: u64, error: Error) -> (Option<NotSaved>, Answered) {
        (self.reject(offset, error, Told::Gone), self.forget_gone())
    }

    /// One save has failed: to be told by who is not told here.
    pub(super) fn fail(&mut self, offset: u64, error: Error) -> Option<NotSaved> {
        self.reject(offset, error, Told::Failed)
    }

    /// `None`: its sender is told here, or was told on a connection before.
    fn reject(&mut self, offset: u64, error: Error, told: Told) -> Option<NotSaved> {
        let index = offset.checked_sub(self.first).filter(|_| offset < self.unsent)?;
        let entry = self.entries.get_mut(index as usize).filter(|entry| entry.told == Told::Nothing)?;
        entry.told = told;
        match entry.tell.take() {
            Some(tell) => {
                let _ = tell.send(Err(error));
                None
            }
            None => Some(NotSaved { offset: Some(offset), save: entry.save.clone().into(), error }),
        }
    }

    /// The offset before the first that is not answered.
    pub(super) fn through(&self) -> u64 {
        self.first - 1
    }

    /// Saves that have no answer.
    pub(super) fn unanswered(&self) -> usize {
        self.entries.iter().filter(|entry| entry.told == Told::Nothing).count()
    }

    /// Nothing is sent or answered any more: those who wait learn it by their closed channel.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.connection += 1;
        self.entries.iter_mut().for_each(|entry| entry.tell = None);
        self.wake();
    }

    /// Of a closed one: the saves that have no answer, and why.
    pub(super) fn take_unanswered(&mut self, why: &Error) -> Vec<NotSaved> {
        let entries = (self.first..).zip(mem::take(&mut self.entries)).filter(|(_, entry)| entry.told == Told::Nothing);
        let not_saved = |(offset, entry): (u64, Entry)| {
            let error = if offset < self.unsent { why.for_sent() } else { why.clone() };
            NotSaved { offset: Some(offset), save: entry.save.into(), error }
        };
        entries.map(not_saved).collect()
    }
}

#[cfg(test)]
mod tests;
