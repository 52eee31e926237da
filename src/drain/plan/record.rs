//! What happened, and what a lane makes of it.

use std::cmp::Ordering;

use tokio::time::Instant;

use super::{Bound, Contact, GROWTH, Hand, HandWork, Plan, Settled, Stood, Trouble};
use crate::{
    backlog::{Footprint, Generation},
    drain::{
        handle::Control,
        judge::{Need, Stake, Tries, Verdict, judge},
        meet::Meeting,
        room::Room,
        status::Halt,
        target::{What, Work},
    },
    postgres::{Failure, PositionRow},
    save::{Accepted, Sequence},
};

impl Plan {
    /// A resume came: what waits to be tried again is tried at once.
    pub(in crate::drain) fn hear(&mut self, control: &Control, now: Instant) {
        if self.probes != control.probes {
            self.probes = control.probes;
            if let Some(trouble) = &mut self.trouble {
                trouble.until = now;
            }
        }
    }

    /// The position row was read.
    pub(in crate::drain) fn meet(&mut self, row: Option<PositionRow>, last: Sequence) -> Meeting {
        let meeting = self.ownership.meet(row, last);
        match meeting {
            Meeting::Claim(row) => self.contact = Contact::Unclaimed(row),
            Meeting::Fenced(by) => self.contact = Contact::Fenced(by),
            Meeting::At(_) | Meeting::Missing | Meeting::Beyond(_) => {}
        }
        meeting
    }

    /// The row was written, or somebody came between: reading it tells.
    pub(in crate::drain) fn claimed(&mut self) {
        self.ownership.take_over = false;
        self.contact = Contact::Unread;
    }

    /// Whether the journal has yet to learn that there is a row.
    pub(in crate::drain) fn row_is_news(&self) -> bool {
        !self.ownership.had_row
    }

    /// The journal knows that there is a row.
    pub(in crate::drain) fn row_noted(&mut self) {
        self.ownership.had_row = true;
    }

    /// The row is ours and says `to`. `true`: whatever was wrong is over.
    pub(in crate::drain) fn stand_at(&mut self, to: Sequence) -> (Stood, bool) {
        self.contact = Contact::Made;
        self.contact_tries = Tries::default();
        let idle = self.hand.is_none() && self.bounds.is_empty();
        let over = self.trouble.take_if(|trouble| trouble.ends_at_contact || idle).is_some_and(|trouble| trouble.halt.is_some());
        let from = self.position;
        let stood = match to.cmp(&from) {
            Ordering::Equal => Stood::Here,
            Ordering::Greater if self.hand.as_ref().is_some_and(|hand| hand.through == to) => Stood::Committed(self.settle(to)),
            Ordering::Greater => Stood::Ahead { from, settled: self.settle(to) },
            Ordering::Less => {
                self.go_back(to);
                Stood::Behind { from }
            }
        };
        (stood, over)
    }

    /// What lies between is folded from the journal, before everything else.
    fn go_back(&mut self, to: Sequence) {
        self.bounds.push(Bound { through: self.position, room: None });
        self.position = to;
        self.forget_hand();
        self.work_tries = Tries::default();
    }

    /// Postgres holds everything up to `to`.
    fn settle(&mut self, to: Sequence) -> Settled {
        self.position = to;
        let first_done = self.bounds.iter().position(|bound| bound.through <= to).unwrap_or(self.bounds.len());
        let done = self.bounds.split_off(first_done);
        let hand = self.hand.take();
        self.forget_hand();
        self.work_tries = Tries::default();
        Settled { hand, _bounds: done }
    }

    fn forget_hand(&mut self) {
        self.hand = None;
        self.condemned = None;
        self.saves_max = u64::MAX;
    }

    /// What is in hand was committed. `true`: whatever was wrong is over.
    pub(in crate::drain) fn applied(&mut self) -> (Settled, bool) {
        let through = self.hand.as_ref().expect("only what is in hand is applied").through;
        self.statement_rows = (self.statement_rows + self.statement_rows_max / GROWTH + 1).min(self.statement_rows_max);
        let over = self.trouble.take().is_some_and(|trouble| trouble.halt.is_some());
        (self.settle(through), over)
    }

    /// A generation came out of the backlog. Returns it if it isn't what comes next.
    pub(in crate::drain) fn sealed(&mut self, generation: Generation, room: Room) -> Option<Generation> {
        debug_assert!(self.bounds.is_empty() && self.hand.is_none(), "the backlog comes after what is known");
        let through = generation.through;
        if through <= self.position {
            return Some(generation);
        }
        self.bounds.push(Bound { through, room: Some(room) });
        if generation.after == self.position {
            let single = generation.saves == 1;
            self.hand = Some(Hand { through, work: HandWork::Generation { generation, single, room: None } });
            return None;
        }
        // Part of it is in Postgres, or what is before it is not: it is folded from the journal. Its room stays with the bound.
        Some(generation)
    }

    /// The lane has no save between its position and `through`: a generation of nothing moves it up.
    pub(in crate::drain) fn move_up(&mut self, through: Sequence) {
        debug_assert!(self.bounds.is_empty() && self.hand.is_none(), "nothing waits");
        if through > self.position {
            let generation = Generation { through, ..Generation::empty(self.position) };
            self.bounds.push(Bound { through, room: None });
            self.hand = Some(Hand { through, work: HandWork::Generation { generation, single: true, room: None } });
        }
    }

    /// What a generation folded from the journal takes beyond the room that the bounds hold.
    pub(in crate::drain) fn room_missing(&self, generation: &Generation) -> Footprint {
        let rooms = self.bounds.iter().filter_map(|bound| bound.room.as_ref());
        let held = rooms.fold(Footprint::default(), |sum, room| sum + room.footprint());
        Footprint {
            bytes: generation.footprint.bytes.saturating_sub(held.bytes),
            objects: generation.footprint.objects.saturating_sub(held.objects),
        }
    }

    /// A generation was folded from the journal.
    pub(in crate::drain) fn folded(&mut self, generation: Generation, single: bool, room: Room) {
        let through = generation.through;
        if self.bounds.last().is_none_or(|bound| bound.through > through) {
            self.bounds.push(Bound { through, room: None });
        }
        self.saves_max = u64::MAX;
        self.hand = Some(Hand { through, work: HandWork::Generation { generation, single, room: Some(room) } });
    }

    /// The condemned saves were read.
    pub(in crate::drain) fn condemn(&mut self, saves: Vec<Accepted>) {
        let through = saves.last().expect("something was condemned").sequence;
        let why = self.condemned.clone().expect("something was condemned");
        self.hand = Some(Hand { through, work: HandWork::Failed { saves, why } });
    }

    /// The transaction to run.
    pub(in crate::drain) fn work(&self) -> Work<'_> {
        let hand = self.hand.as_ref().expect("only what is in hand is applied");
        let what = match &hand.work {
            HandWork::Generation { generation, .. } => What::Generation(generation),
            HandWork::Failed { saves, why } => What::Failed(saves, why),
        };
        Work { after: self.position, through: hand.through, what, statement_rows: self.statement_rows }
    }

    /// The catalog was read.
    pub(in crate::drain) fn refreshed(&mut self) {
        self.refresh = false;
        self.contact_tries = Tries::default();
    }

    /// The connection of an idle lane is gone.
    pub(in crate::drain) fn lost(&mut self) {
        self.contact = Contact::Unread;
    }

    /// Reading or writing the position row or reading the catalog failed.
    pub(in crate::drain) fn contact_failed(&mut self, need: Need, failure: &Failure, now: Instant, chance: f64) -> Verdict {
        self.contact = Contact::Unread;
        let tries = self.contact_tries.count(failure.sqlstate.as_deref());
        let verdict = judge(need, tries, Stake::None, self.waits, chance);
        self.wait(verdict, failure, now, true);
        verdict
    }

    /// The work can't be made ready: the journal no longer holds it, or there is no room for a failed save. The position row
    /// is read before the next try: it may have been corrected.
    pub(in crate::drain) fn cannot_prepare(&mut self, failure: &Failure, now: Instant, chance: f64) -> Verdict {
        self.contact = Contact::Unread;
        let tries = self.work_tries.count(None);
        let verdict = judge(Need::Halt, tries, Stake::None, self.waits, chance);
        self.wait(verdict, failure, now, false);
        verdict
    }

    /// Applying failed. Returns what is to be dropped with the verdict.
    pub(in crate::drain) fn apply_failed(&mut self, need: Need, failure: &Failure, now: Instant, chance: f64) -> (Verdict, Option<Hand>) {
        let (stake, saves) = match self.hand.as_ref().map(|hand| &hand.work) {
            Some(HandWork::Generation { generation, single, .. }) => {
                (Stake::Saves { single: *single, one_row: self.statement_rows <= 1 }, generation.saves)
            }
            Some(HandWork::Failed { .. }) | None => (Stake::None, 0),
        };
        let tries = self.work_tries.count(failure.sqlstate.as_deref());
        let verdict = judge(need, tries, stake, self.waits, chance);
        self.wait(verdict, failure, now, false);
        let dropped = match verdict {
            Verdict::Halve => {
                self.saves_max = (saves / 2).max(1);
                self.hand.take()
            }
            Verdict::Fail => {
                self.condemned = Some(failure.clone());
                self.hand.take()
            }
            Verdict::Shrink(_) => {
                self.statement_rows = (self.statement_rows / 2).max(1);
                None
            }
            _ => None,
        };
        if dropped.is_some() {
            self.work_tries = Tries::default();
        }
        (verdict, dropped)
    }

    fn wait(&mut self, verdict: Verdict, failure: &Failure, now: Instant, ends_at_contact: bool) {
        let wait = match verdict {
            Verdict::Again(wait) | Verdict::Shrink(wait) => wait,
            Verdict::Reconnect(wait) | Verdict::Reread(wait) => {
                self.contact = Contact::Unread;
                wait
            }
            Verdict::Halt(wait) => {
                self.refresh = true;
                wait
            }
            Verdict::Halve | Verdict::Fail => return,
        };
        let until = now + wait;
        self.trouble = Some(match (verdict, self.trouble.take()) {
            (Verdict::Halt(wait), _) => Trouble { until, halt: Some(Halt::new(failure, now, wait)), ends_at_contact },
            // A probe that doesn't get through ends no halt.
            (_, Some(Trouble { halt: Some(halt), ends_at_contact, .. })) => {
                Trouble { until, halt: Some(Halt { next_probe: until, ..halt }), ends_at_contact }
            }
            _ => Trouble { until, halt: None, ends_at_contact },
        });
    }
}
