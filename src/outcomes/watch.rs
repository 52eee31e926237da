//! Watching outcomes: how far a watcher was told, and what it is to be told next. Pure.
//!
//! Nothing is queued for a watcher. It has a cursor in every lane, and what failed between the cursor and where the lane has come
//! is found anew whenever it is ready to hear: so a slow one costs what a fast one does, and one that comes back is as one that
//! was slow. What it is told may be told again after it came back; it is never left out.

use crate::save::{LaneId, Sequence};

use super::{Reason, Ticket, Tickets};

/// A watermark: every save below has its outcome, as Postgres was known then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last of them.
    pub through: Sequence,
    /// How often Postgres had gone back in time: what is told after it did so again no longer holds.
    pub rewinds: u32,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Every save below has its outcome: in Postgres, if it wasn't told to have failed.
    Watermark(Mark),
    /// A save failed.
    Failed {
        /// It.
        ticket: Ticket,
        /// Its collection.
        collection: String,
        /// The parts of its key.
        key: Vec<String>,
        /// Why.
        reason: Reason,
    },
    /// A save is in Postgres and changed nothing.
    Superseded {
        /// It.
        ticket: Ticket,
        /// Its collection.
        collection: String,
    },
}

/// Why a watch ends, and where another may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// Postgres went back in time: later outcomes that were told no longer hold.
    Rewound(Mark),
    /// Up to here outcomes can't be told any more: failed saves are forgotten, or saves were given up.
    Gone(Mark),
    /// It heard too late: what it would be told is forgotten.
    TooSlow(Mark),
}

/// How often Postgres went back in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewound {
    /// In all.
    pub count: u32,
    /// How far at most, since the time that was asked for.
    pub to: Option<Sequence>,
}

/// A part of a lane that a watcher has not been told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The lane.
    pub lane: LaneId,
    /// Told up to here.
    pub after: Sequence,
    /// Settled up to here.
    pub through: Sequence,
    /// Saves that changed nothing are told after this one.
    pub live_after: Sequence,
}

/// Somebody watches.
#[derive(Clone, Debug)]
pub struct Watch {
    /// None for all.
    collections: Vec<String>,
    cursors: Vec<Cursor>,
    /// The last watermark, or the one to go on from.
    told: Option<Mark>,
    is_open: bool,
}

#[derive(Clone, Copy, Debug)]
struct Cursor {
    lane: LaneId,
    told: Sequence,
    /// Where the lane was when the watch began.
    began: Sequence,
}

impl Watch {
    /// Watches these collections (none: all) and their lanes, from an earlier watermark or from now on.
    pub fn new(collections: Vec<String>, lanes: &[LaneId], resume: Option<Mark>) -> Self {
        let told = resume.map_or(Sequence::ZERO, |mark| mark.through);
        let cursors = lanes.iter().map(|&lane| Cursor { lane, told, began: Sequence::ZERO }).collect();
        Self { collections, cursors, told: resume, is_open: false }
    }

    /// Its lanes, in the order in which [`Self::open`] and [`Self::due`] are told where they are.
    pub fn lanes(&self) -> impl Iterator<Item = LaneId> {
        self.cursors.iter().map(|cursor| cursor.lane)
    }

    /// Whether it is about this collection.
    pub fn wants(&self, collection: &str) -> bool {
        self.collections.is_empty() || self.collections.iter().any(|name| name == collection)
    }

    /// The last watermark that was told, or the one to go on from.
    pub fn mark(&self) -> Option<Mark> {
        self.told
    }

    fn told(&self) -> Mark {
        self.told.unwrap_or_default()
    }

    /// Postgres may have gone back in time since the last watermark.
    ///
    /// # Errors
    /// Something that was told no longer holds.
    pub fn know(&mut self, rewound: Rewound) -> Result<(), WatchEnd> {
        let Some(told) = &mut self.told else { return Ok(()) };
        let furthest = self.cursors.iter().map(|cursor| cursor.told).max().unwrap_or_default();
        if let Some(to) = rewound.to.filter(|&to| to < furthest) {
            return Err(WatchEnd::Rewound(Mark { through: told.through.min(to), rewinds: rewound.count }));
        }
        told.rewinds = rewound.count;
        Ok(())
    }

    /// Begins, if the lanes have come to where it is to go on: gives the first watermark. What lies up to `gone` can't be told any
    /// more.
    ///
    /// # Errors
    /// It can't go on from there.
    pub fn open(&mut self, settled: &[Sequence], gone: Sequence, rewinds: u32) -> Result<Option<Mark>, WatchEnd> {
        let now = Mark { through: settled.iter().copied().min().unwrap_or_default(), rewinds };
        let from = self.told.unwrap_or(now);
        if self.told.is_some() && from.through < gone {
            return Err(WatchEnd::Gone(Mark { through: gone, rewinds }));
        }
        if from.through > now.through {
            // What was told to be settled isn't. (Where outcomes are gone, a lane may not have come there yet.)
            return if from.through > gone { Err(WatchEnd::Rewound(now)) } else { Ok(None) };
        }
        for (cursor, &began) in self.cursors.iter_mut().zip(settled) {
            (cursor.told, cursor.began) = (from.through, began);
        }
        (self.told, self.is_open) = (Some(from), true);
        Ok(Some(from))
    }

    /// Whether it has begun.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// What there is to tell, where the watermark stands lowest first.
    pub fn due(&self, settled: &[Sequence]) -> Vec<Span> {
        let behind = self.cursors.iter().zip(settled).filter(|(cursor, settled)| cursor.told < **settled);
        let span = |(cursor, &through): (&Cursor, &Sequence)| {
            let Cursor { lane, told, began } = *cursor;
            Span { lane, after: told, through, live_after: told.max(began) }
        };
        let mut due: Vec<_> = behind.map(span).collect();
        due.sort_by_key(|span| span.after);
        due
    }

    /// What lies up to `gone` can't be told any more.
    ///
    /// # Errors
    /// Something in these spans is among it.
    pub fn can_tell(&self, spans: &[Span], gone: Sequence) -> Result<(), WatchEnd> {
        let lost = spans.iter().any(|span| span.after < gone);
        if lost { Err(WatchEnd::Gone(Mark { through: gone, ..self.told() })) } else { Ok(()) }
    }

    /// Of each of these lanes everything is told up to there: gives the watermark, if it has moved.
    pub fn reach(&mut self, told: &[(LaneId, Sequence)]) -> Option<Mark> {
        for (lane, through) in told {
            let cursor = self.cursors.iter_mut().find(|cursor| cursor.lane == *lane);
            cursor.into_iter().for_each(|cursor| cursor.told = cursor.told.max(*through));
        }
        let through = self.cursors.iter().map(|cursor| cursor.told).min().unwrap_or_default();
        let mark = Mark { through, ..self.told() };
        let moved = through > self.told().through;
        if moved {
            self.told = Some(mark);
        }
        moved.then_some(mark)
    }
}

impl Tickets {
    /// A watermark as text: sorts after every ticket below it, and before all others of its journal.
    pub fn show_mark(&self, mark: Mark) -> String {
        format!("{}{:08x}", self.after(mark.through), mark.rewinds)
    }

    /// What [`Self::show_mark`] gave; `None` for any other text, and that of another journal.
    pub fn read_mark(&self, text: &str) -> Option<Mark> {
        let (after, rewinds) = text.split_at_checked(text.len().checked_sub(8)?)?;
        let mark = Mark { through: self.read_after(after)?, rewinds: u32::from_str_radix(rewinds, 16).ok()? };
        // A number can be written in more ways than ours.
        (self.show_mark(mark) == text).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const A: LaneId = LaneId(0);
    const B: LaneId = LaneId(1);

    fn seq(n: u64) -> Sequence {
        Sequence::from_u64(n)
    }

    fn mark(through: u64, rewinds: u32) -> Mark {
        Mark { through: seq(through), rewinds }
    }

    fn watch(resume: Option<Mark>) -> Watch {
        Watch::new(Vec::new(), &[A, B], resume)
    }

    fn due(watch: &Watch, settled: [u64; 2]) -> Vec<(LaneId, u64, u64, u64)> {
        let spans = watch.due(&settled.map(seq)).into_iter();
        spans.map(|span| (span.lane, span.after.get(), span.through.get(), span.live_after.get())).collect()
    }

    #[test]
    fn the_watermark_is_where_the_slowest_lane_is() {
        let mut watch = watch(None);
        assert_eq!(watch.open(&[seq(5), seq(9)], seq(0), 2), Ok(Some(mark(5, 2))));
        assert_eq!(due(&watch, [5, 9]), [(B, 5, 9, 9)], "what one lane had settled before is told, as the watermark has not passed it");
        assert_eq!(watch.reach(&[(B, seq(9))]), None);
        assert_eq!(due(&watch, [7, 12]), [(A, 5, 7, 5), (B, 9, 12, 9)]);
        assert_eq!(watch.reach(&[(A, seq(7)), (B, seq(10))]), Some(mark(7, 2)));
        assert_eq!(watch.reach(&[(A, seq(20))]), Some(mark(10, 2)), "a page of the other lane is not told yet");
        assert_eq!(watch.mark(), Some(mark(10, 2)));
    }

    #[test]
    fn a_resumed_watch_begins_where_it_stopped() {
        let mut watch = watch(Some(mark(5, 0)));
        assert_eq!(watch.open(&[seq(8), seq(7)], seq(4), 0), Ok(Some(mark(5, 0))));
        assert_eq!(due(&watch, [9, 7]), [(A, 5, 9, 8), (B, 5, 7, 7)], "superseded saves are told live only");
    }

    #[test]
    fn what_is_gone_is_not_passed_over_in_silence() {
        let gone = Err(WatchEnd::Gone(mark(6, 0)));
        assert_eq!(watch(Some(mark(5, 0))).open(&[seq(8), seq(8)], seq(6), 0).map(drop), gone);
        let mut at_the_edge = watch(Some(mark(6, 0)));
        assert_eq!(at_the_edge.open(&[seq(5), seq(8)], seq(6), 0), Ok(None), "a lane is not there yet");
        assert_eq!(at_the_edge.open(&[seq(6), seq(8)], seq(6), 0), Ok(Some(mark(6, 0))));
        let spans = at_the_edge.due(&[seq(6), seq(8)]);
        assert_eq!(at_the_edge.can_tell(&spans, seq(6)), Ok(()));
        assert_eq!(at_the_edge.can_tell(&spans, seq(7)), Err(WatchEnd::Gone(mark(7, 0))));
        assert_eq!(at_the_edge.can_tell(&[], seq(7)), Ok(()), "nothing is to be told");
    }

    #[test]
    fn a_rewind_below_what_was_told_ends_the_watch() {
        let mut watch = watch(None);
        let rewound = |count, to| Rewound { count, to: Some(seq(to)) };
        assert_eq!(watch.know(rewound(1, 0)), Ok(()), "it was told nothing");
        watch.open(&[seq(5), seq(5)], seq(0), 1).expect("it begins");
        assert_eq!(watch.know(rewound(2, 5)), Ok(()));
        watch.reach(&[(B, seq(9))]);
        assert_eq!(watch.know(rewound(3, 7)), Err(WatchEnd::Rewound(mark(5, 3))), "a failure beyond the watermark may be none");
        assert_eq!(watch.know(rewound(3, 4)), Err(WatchEnd::Rewound(mark(4, 3))));
        assert_eq!(watch.know(Rewound { count: 2, to: None }), Ok(()));
    }

    #[test]
    fn a_rewind_that_came_in_between_is_told_to_who_resumes() {
        let rewound = Rewound { count: 4, to: Some(seq(8)) };
        assert_eq!(watch(Some(mark(9, 3))).know(rewound), Err(WatchEnd::Rewound(mark(8, 4))));
        assert_eq!(watch(Some(mark(8, 3))).know(rewound), Ok(()));
        let lost = watch(Some(mark(9, 4))).open(&[seq(8), seq(12)], seq(0), 4);
        assert_eq!(lost, Err(WatchEnd::Rewound(mark(8, 4))), "nobody noted it, but a lane stands below what it was told to have settled");
    }

    #[test]
    fn a_watermark_is_read_back_and_sorts_as_its_saves() {
        let tickets = Tickets::new(Uuid::from_u128(7), &[1; Tickets::KEY_BYTES]);
        let text = tickets.show_mark(mark(255, 3));
        assert_eq!(tickets.read_mark(&text), Some(mark(255, 3)));
        let ticket = |n| tickets.show(Ticket { sequence: seq(n), lane: LaneId(255) });
        assert!(ticket(255) < text && text < ticket(256), "{text}");
        let other = Tickets::new(Uuid::from_u128(7 << 96), &[1; Tickets::KEY_BYTES]);
        assert_eq!(other.read_mark(&text), None);
        for wrong in ["", "x", &text[1..], &text.to_uppercase(), &tickets.after(seq(255)), &text.replace("~", "é"), &ticket(255)] {
            assert_eq!(tickets.read_mark(wrong), None, "{wrong:?}");
        }
    }
}
