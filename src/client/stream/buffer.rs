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
mod tests {
    use super::*;
    use crate::client::Save;

    fn buffer(saves: u64) -> Buffer {
        let mut buffer = Buffer::default();
        for n in 0..saves {
            assert_eq!(buffer.push(numbered(n), 10, None), Ok(n + 1));
        }
        buffer.connect();
        buffer.resume(None);
        buffer
    }

    fn numbered(n: u64) -> proto::Save {
        Save::set("t", [n.to_string()], "{}").into_proto()
    }

    fn acknowledge(buffer: &mut Buffer, through: u64) -> Answered {
        buffer.acknowledge(through, Vec::new(), &[])
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
        assert_eq!(acknowledge(&mut buffer, 400), Answered { saves: 400, bytes: 4_000 });
        assert_eq!(acknowledge(&mut buffer, 399), Answered::default());
        assert_eq!(buffer.through(), 400);
    }

    #[test]
    fn a_new_connection_sends_again_what_was_not_accepted() {
        let mut buffer = buffer(10);
        sent(&mut buffer);
        acknowledge(&mut buffer, 3);
        let old = buffer.connection;
        buffer.connect();
        assert_eq!(buffer.resume(Some(7)), Answered { saves: 4, bytes: 40 });
        assert!(matches!(buffer.next(old, Waker::noop()), Next::End));
        assert_eq!(sent(&mut buffer), [8, 9, 10]);
    }

    #[test]
    fn an_answer_to_what_was_never_sent_counts_for_nothing() {
        let mut buffer = buffer(5);
        assert_eq!(acknowledge(&mut buffer, u64::MAX), Answered::default());
        assert!(buffer.refuse(5, Error::refused("no")).0.is_none());
        assert_eq!(buffer.resume(Some(5)), Answered::default());
        assert_eq!(sent(&mut buffer), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn messages_are_bounded_in_saves_and_bytes() {
        let mut buffer = Buffer::default();
        for _ in 0..3 {
            buffer.push(numbered(1), MESSAGE_BYTES / 2, None).expect("it is open");
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
        let (not_saved, answered) = buffer.refuse(2, Error::refused("no"));
        let not_saved = not_saved.expect("told");
        assert_eq!((not_saved.offset, not_saved.save.key(), answered), (Some(2), &["1".to_owned()][..], Answered::default()));
        assert!(buffer.refuse(9, Error::refused("no")).0.is_none());
        assert_eq!(acknowledge(&mut buffer, 3).saves, 3);
    }

    #[test]
    fn what_was_refused_is_neither_sent_nor_told_again() {
        let mut buffer = buffer(6);
        sent(&mut buffer);
        assert_eq!(buffer.refuse(1, Error::refused("no")).1, Answered { saves: 1, bytes: 10 }, "nothing before it is awaited");
        for offset in [3, 6] {
            assert!(buffer.refuse(offset, Error::refused("no")).0.is_some());
        }
        assert!(buffer.fail(4, Error::refused("failed")).is_some());
        buffer.connect();
        buffer.resume(None);
        assert_eq!(sent(&mut buffer), [2, 5]);
        for offset in [3, 4] {
            assert!(buffer.refuse(offset, Error::refused("no")).0.is_none());
        }
        assert_eq!(acknowledge(&mut buffer, 5).saves, 5, "the last one, which is told, goes with it");
        buffer.finish();
        assert!(buffer.is_finished());
    }

    #[test]
    fn tickets_go_to_all_but_the_refused() {
        let mut buffer = buffer(0);
        let answers: Vec<_> = (0..4)
            .map(|n| {
                let (tell, answer) = oneshot::channel();
                buffer.push(numbered(n), 10, Some(tell)).expect("it is open");
                answer
            })
            .collect();
        sent(&mut buffer);
        buffer.refuse(2, Error::refused("no"));
        buffer.fail(1, Error::refused("failed"));
        let tickets = ["t-1", "t-3", ""].map(str::to_owned).to_vec();
        buffer.acknowledge(4, tickets, &[3]);
        let told: Vec<_> = answers.into_iter().map(|mut answer| answer.try_recv().expect("told").ok()).collect();
        let third = Accepted { ticket: Some("t-3".to_owned().into()), superseded: true };
        assert_eq!(told, [None, None, Some(third), Some(Accepted { ticket: None, superseded: false })]);
    }

    #[test]
    fn what_has_no_answer_is_given_back_with_the_reason() {
        let mut buffer = buffer(4);
        sent(&mut buffer);
        buffer.push(numbered(4), 10, None).expect("it is open");
        acknowledge(&mut buffer, 1);
        buffer.refuse(3, Error::refused("no"));
        assert_eq!(buffer.unanswered(), 3);
        buffer.close();
        assert!(buffer.push(numbered(5), 10, None).is_err());
        let unanswered = buffer.take_unanswered(&Error::unavailable("away"));
        let told: Vec<_> =
            unanswered.iter().map(|one| (one.offset.expect("it had one"), matches!(one.error, Error::OutcomeUnknown(_)))).collect();
        assert_eq!(told, [(2, true), (4, true), (5, false)]);
    }

    #[test]
    fn only_sent_appends_and_adds_would_count_twice() {
        let mut buffer = buffer(1);
        buffer.push(Save::append("log", "{}").into_proto(), 10, None).expect("it is open");
        assert!(!buffer.repeats_count());
        sent(&mut buffer);
        assert!(buffer.repeats_count());
        acknowledge(&mut buffer, 2);
        buffer.push(Save::set("t", ["1"], r#"{"n":1}"#).adding(["n"]).into_proto(), 10, None).expect("it is open");
        sent(&mut buffer);
        assert!(buffer.repeats_count());
    }
}
