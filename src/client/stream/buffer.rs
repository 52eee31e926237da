//! The saves of a stream that are not answered yet. Pure: no clock, no I/O.

use std::{collections::VecDeque, mem, task::Waker};

use tokio::sync::oneshot;

use super::{REFUSED_MAX, RefusedSave};
use crate::{client::Error, proto};

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
    refused: Vec<RefusedSave>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Entry {
    save: proto::Save,
    bytes: usize,
    tell: Option<oneshot::Sender<Result<(), Error>>>,
    refused: bool,
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
            refused: Vec::new(),
            waker: None,
        }
    }
}

impl Buffer {
    /// Takes a save in; returns its offset, or nothing if the stream has ended.
    pub(super) fn push(&mut self, save: proto::Save, bytes: usize, tell: Option<oneshot::Sender<Result<(), Error>>>) -> Option<u64> {
        if self.closed {
            return None;
        }
        self.entries.push_back(Entry { save, bytes, tell, refused: false });
        self.wake();
        Some(self.last())
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
        let answered = through.map_or_else(Answered::default, |through| self.acknowledge(through.min(self.unsent - 1)));
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
            !entry.refused && !deletes && (entry.save.key.is_empty() || !entry.save.add.is_empty())
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
        let from = (self.cursor - self.first) as usize;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.bytes;
            first || bytes <= MESSAGE_BYTES
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

    /// Every save up to `through` is answered.
    pub(super) fn acknowledge(&mut self, through: u64) -> Answered {
        let count = (through + 1).saturating_sub(self.first).min(self.unsent - self.first);
        let mut answered = Answered::default();
        for entry in self.entries.drain(..count as usize) {
            answered.saves += 1;
            answered.bytes += entry.bytes;
            if let Some(tell) = entry.tell {
                // Nobody may be waiting any more.
                let _ = tell.send(Ok(()));
            }
        }
        self.first += count;
        self.cursor = self.cursor.max(self.first);
        answered
    }

    /// One save is refused. Fails when too many refusals have not been taken.
    pub(super) fn refuse(&mut self, offset: u64, error: Error) -> Result<(), Error> {
        let Some(entry) = offset.checked_sub(self.first).and_then(|index| self.entries.get_mut(index as usize)) else {
            return Ok(());
        };
        entry.refused = true;
        match entry.tell.take() {
            Some(tell) => drop(tell.send(Err(error))),
            None if self.refused.len() < REFUSED_MAX => self.refused.push(RefusedSave { offset, error }),
            None => return Err(error),
        }
        Ok(())
    }

    /// The offset before the first that is not answered.
    pub(super) fn through(&self) -> u64 {
        self.first - 1
    }

    pub(super) fn take_refused(&mut self) -> Vec<RefusedSave> {
        mem::take(&mut self.refused)
    }

    /// Gives up what is not answered: those who wait learn it by their closed channel.
    pub(super) fn clear(&mut self) {
        self.closed = true;
        self.connection += 1;
        self.entries.clear();
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Save;

    fn buffer(saves: u64) -> Buffer {
        let mut buffer = Buffer::default();
        for n in 0..saves {
            assert_eq!(buffer.push(Save::set("t", [n.to_string()], "{}").into_proto(), 10, None), Some(n + 1));
        }
        buffer.connect();
        buffer.resume(None);
        buffer
    }

    fn sent(buffer: &mut Buffer) -> Vec<u64> {
        let mut offsets = Vec::new();
        while let Next::Send(message) = buffer.next(buffer.connection, Waker::noop()) {
            offsets.extend(message.offset..message.offset + message.saves.len() as u64);
        }
        offsets
    }

    #[test]
    fn saves_leave_once_and_stay_until_they_are_answered() {
        let mut buffer = buffer(600);
        assert_eq!(sent(&mut buffer), (1..=600).collect::<Vec<_>>());
        assert!(sent(&mut buffer).is_empty());
        assert_eq!(buffer.acknowledge(400), Answered { saves: 400, bytes: 4_000 });
        assert_eq!(buffer.acknowledge(399), Answered::default());
        assert_eq!(buffer.through(), 400);
    }

    #[test]
    fn a_new_connection_sends_again_what_was_not_accepted() {
        let mut buffer = buffer(10);
        sent(&mut buffer);
        buffer.acknowledge(3);
        let old = buffer.connection;
        buffer.connect();
        assert_eq!(buffer.resume(Some(7)), Answered { saves: 4, bytes: 40 });
        assert!(matches!(buffer.next(old, Waker::noop()), Next::End));
        assert_eq!(sent(&mut buffer), [8, 9, 10]);
    }

    #[test]
    fn an_answer_to_what_was_never_sent_counts_for_nothing() {
        let mut buffer = buffer(5);
        assert_eq!(buffer.acknowledge(5), Answered::default());
        assert_eq!(buffer.resume(Some(5)), Answered::default());
        assert_eq!(sent(&mut buffer), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn messages_are_bounded_in_saves_and_bytes() {
        let mut buffer = Buffer::default();
        for _ in 0..3 {
            buffer.push(Save::set("t", ["1"], "{}").into_proto(), MESSAGE_BYTES / 2, None);
        }
        buffer.connect();
        assert!(matches!(buffer.next(1, Waker::noop()), Next::Wait), "the daemon has not said where to begin");
        buffer.resume(None);
        let Next::Send(message) = buffer.next(1, Waker::noop()) else { unreachable!("three wait") };
        assert_eq!(message.saves.len(), 2);
    }

    #[test]
    fn a_refused_save_is_told_by_its_offset() {
        let mut buffer = buffer(3);
        sent(&mut buffer);
        buffer.refuse(2, Error::refused("no")).expect("room");
        buffer.refuse(9, Error::refused("no")).expect("ignored");
        assert_eq!(buffer.acknowledge(3).saves, 3);
        let refused: Vec<_> = buffer.take_refused().iter().map(|refused| refused.offset).collect();
        assert_eq!(refused, [2]);
    }

    #[test]
    fn only_sent_appends_and_adds_would_count_twice() {
        let mut buffer = buffer(1);
        buffer.push(Save::append("log", "{}").into_proto(), 10, None);
        assert!(!buffer.repeats_count());
        sent(&mut buffer);
        assert!(buffer.repeats_count());
        buffer.acknowledge(2);
        buffer.push(Save::set("t", ["1"], r#"{"n":1}"#).adding(["n"]).into_proto(), 10, None);
        sent(&mut buffer);
        assert!(buffer.repeats_count());
    }
}
