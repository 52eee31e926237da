//! What happened, and what a lane makes of it.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Bound, CAREFUL_FOR, Cause, Contact, Gap, Hand, HandWork, Plan, Question, Search, Settled, Standing, Stood, Trouble};
use crate::{
    backlog::{Footprint, Generation},
    collections::Reaches,
    drain::{
        handle::Control,
        judge::{Need, Stake, Tries, Verdict, Waits, judge},
        meet::Meeting,
        room::Room,
        status::Halt,
        target::{What, Work},
    },
    postgres::{Failure, PositionRow, Written},
    save::{Accepted, CollectionId, Sequence},
    settings::OnRewind,
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
        if self.resumes != control.resumes {
            self.resumes = control.resumes;
            self.rewind.agreed = self.rewind.asked;
        }
        if self.gaps != control.gaps {
            self.gaps = control.gaps;
            self.gap.agreed = self.gap.asked;
        }
        if self.fails != control.fails {
            self.fails = control.fails;
            self.standing.told = self.standing.at.is_some();
        }
    }

    /// Statements are to take so long from now on.
    pub(in crate::drain) fn aim(&mut self, target: Duration) {
        self.statement_rows.aim(target);
    }

    /// Whether the row says less than it did, and a person has to agree first.
    pub(in crate::drain) fn asks_before_rewriting(&mut self, to: Sequence) -> bool {
        let asks = to < self.position && self.settings.on_rewind == OnRewind::Halt && self.rewind.agreed != Some(to);
        self.rewind.asked = asks.then_some(to);
        asks
    }

    /// The position row was read.
    pub(in crate::drain) fn meet(&mut self, row: Option<PositionRow>, knows: impl FnOnce(Sequence) -> bool) -> Meeting {
        let meeting = self.ownership.meet(row, knows);
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
        self.search = None;
        // Should it go back again, that is asked anew.
        self.rewind = Question::default();
        self.forget_hand();
    }

    /// Postgres holds everything up to `to`.
    fn settle(&mut self, to: Sequence) -> Settled {
        self.position = to;
        self.search = self.search.filter(|search| search.through > to);
        let first_done = self.bounds.iter().position(|bound| bound.through <= to).unwrap_or(self.bounds.len());
        let done = self.bounds.split_off(first_done);
        let hand = self.hand.take();
        self.forget_hand();
        Settled { hand, _bounds: done }
    }

    fn forget_hand(&mut self) {
        self.hand = None;
        self.condemned = None;
        self.waited = false;
        self.refused_since = None;
        self.standing.at = None;
        self.standing.told = false;
        self.gap.asked = None;
        self.work_tries = Tries::default();
    }

    /// What is in hand was committed. `true`: whatever was wrong is over.
    pub(in crate::drain) fn applied(&mut self, written: &Written) -> (Settled, bool) {
        self.careful_for = if written.failed.is_empty() { self.careful_for.saturating_sub(1) } else { CAREFUL_FOR };
        let hand = self.hand.as_ref().expect("only what is in hand is applied");
        let through = hand.through;
        let saves = match &hand.work {
            HandWork::Generation { generation, .. } => {
                self.standing.taken(generation);
                generation.saves
            }
            HandWork::Failed { saves, .. } => saves.len() as u64,
        };
        match &mut self.search {
            Some(search) => search.saves = search.saves.saturating_sub(saves),
            // What went through was about as much as is tried.
            None if saves.saturating_mul(2) >= self.saves_max => self.saves_max = self.saves_max.saturating_mul(2),
            None => {}
        }
        self.statement_rows = written.statement_rows;
        self.statement_rows.committed();
        let over = self.trouble.take().is_some_and(|trouble| trouble.halt.is_some());
        (self.settle(through), over)
    }

    /// A generation came out of the backlog. Returns it if it isn't what comes next.
    pub(in crate::drain) fn sealed(
        &mut self,
        generation: Arc<Generation>,
        room: Room,
        reaches: &Arc<Reaches>,
        allowed: u64,
    ) -> Option<Arc<Generation>> {
        debug_assert!(self.bounds.is_empty() && self.hand.is_none(), "the backlog comes after what is known");
        let through = generation.through;
        if through <= self.position {
            return Some(generation);
        }
        self.bounds.push(Bound { through, room: Some(room) });
        let fits = generation.saves <= self.saves_max() && generation.footprint.objects <= allowed;
        if generation.after == self.position && fits && Arc::ptr_eq(&generation.reaches, reaches) {
            let single = generation.saves == 1;
            self.hand_objects_max = allowed;
            self.hand = Some(Hand { through, work: HandWork::Generation { generation, single, room: None } });
            return None;
        }
        // Part of it is in Postgres, or what is before it is not, or less is written at once, or it was folded by an older
        // catalog: it is folded from the journal. Its room stays with the bound.
        Some(generation)
    }

    /// What is in hand and what came out of the backlog after it, to be folded into one. `None` if nothing came that fits.
    pub(in crate::drain) fn begin_extension(
        &mut self,
        sealed: Option<(Arc<Generation>, Room)>,
    ) -> Option<(Arc<Generation>, Arc<Generation>, Room)> {
        self.waited = false;
        let (later, later_room) = sealed?;
        let Some(Hand { through, work: HandWork::Generation { generation, single, room } }) = self.hand.take() else {
            unreachable!("only a generation is extended");
        };
        let bound = self.bounds.pop().expect("what is in hand ends at a bound");
        if generation.through != later.after || !Arc::ptr_eq(&generation.reaches, &later.reaches) {
            self.bounds.push(Bound { through: later.through, room: Some(later_room) });
            self.bounds.push(bound);
            self.hand = Some(Hand { through, work: HandWork::Generation { generation, single, room } });
            return None;
        }
        // Should this go no further, all of it is folded from the journal.
        self.bounds.push(Bound { through: later.through, room: None });
        let rooms = [bound.room, room].into_iter().flatten();
        Some((generation, later, rooms.fold(later_room, Room::joined)))
    }

    /// Both are one.
    pub(in crate::drain) fn extended(&mut self, generation: Arc<Generation>, room: Room, allowed: u64) {
        self.hand_objects_max = allowed;
        let (through, footprint) = (generation.through, generation.footprint);
        self.bounds.last_mut().expect("it was pushed").room = Some(room.within(footprint));
        self.hand = Some(Hand { through, work: HandWork::Generation { generation, single: false, room: None } });
    }

    /// The lane has no save between its position and `through`: a generation of nothing moves it up.
    pub(in crate::drain) fn move_up(&mut self, through: Sequence, reaches: Arc<Reaches>) {
        debug_assert!(self.bounds.is_empty() && self.hand.is_none(), "nothing waits");
        if through > self.position {
            let generation = Arc::new(Generation { through, ..Generation::empty(self.position, reaches) });
            self.bounds.push(Bound { through, room: None });
            self.hand = Some(Hand { through, work: HandWork::Generation { generation, single: true, room: None } });
        }
    }

    /// The journal holds nothing of it any more, and somebody has accepted that: a generation of nothing moves the position.
    pub(in crate::drain) fn skip_gap(&mut self, Gap { after, through }: Gap, reaches: Arc<Reaches>) {
        self.gap = Question::default();
        let generation = Arc::new(Generation { through, ..Generation::empty(after, reaches) });
        if self.bounds.last().is_none_or(|bound| bound.through > through) {
            self.bounds.push(Bound { through, room: None });
        }
        self.hand = Some(Hand { through, work: HandWork::Generation { generation, single: true, room: None } });
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
    pub(in crate::drain) fn folded(&mut self, generation: Arc<Generation>, single: bool, room: Room, allowed: u64) {
        self.hand_objects_max = allowed;
        let through = generation.through;
        if self.bounds.last().is_none_or(|bound| bound.through > through) {
            self.bounds.push(Bound { through, room: None });
        }
        self.hand = Some(Hand { through, work: HandWork::Generation { generation, single, room: Some(room) } });
    }

    /// What is in hand is folded again. Returns it.
    pub(in crate::drain) fn put_back(&mut self) -> Option<Hand> {
        self.hand.take()
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
        Work { after: self.position, through: hand.through, what, statement_rows: self.statement_rows, careful: self.is_careful() }
    }

    /// About how many rows the transaction writes.
    pub(in crate::drain) fn rows_in_hand(&self) -> u64 {
        match self.hand.as_ref().map(|hand| &hand.work) {
            Some(HandWork::Generation { generation, .. }) => generation.footprint.objects,
            Some(HandWork::Failed { saves, .. }) => saves.len() as u64,
            None => 0,
        }
    }

    /// Rows of the next full statement.
    pub(in crate::drain) fn statement_rows(&self) -> u64 {
        self.statement_rows.get()
    }

    /// A single save is executed as it is.
    fn is_careful(&self) -> bool {
        self.careful_for > 0 && matches!(&self.hand, Some(Hand { work: HandWork::Generation { single: false, .. }, .. }))
    }

    /// The catalog was read.
    pub(in crate::drain) fn refreshed(&mut self) {
        self.refresh = false;
        self.contact_tries = Tries::default();
    }

    /// The connection is gone: the position row comes first over the next one.
    pub(in crate::drain) fn lost(&mut self) {
        self.contact = Contact::Unread;
    }

    /// Reading or writing the position row or reading the catalog failed.
    pub(in crate::drain) fn contact_failed(&mut self, need: Need, failure: &Failure, now: Instant, chance: f64) -> Verdict {
        self.contact = Contact::Unread;
        self.gap.asked = None;
        let waits = self.waits();
        let tries = self.contact_tries.count(failure.sqlstate.as_deref());
        let verdict = judge(need, tries, Stake::None, waits, chance);
        self.wait(verdict, failure, now, true);
        verdict
    }

    /// The journal's oldest save is this one: what comes between the position and it is a gap.
    pub(in crate::drain) fn ask_for_gap(&mut self, oldest: Sequence) {
        let through = Sequence::from_u64(oldest.get().saturating_sub(1));
        self.gap.asked = Some(Gap { after: self.position, through });
    }

    /// The work can't be made ready: the journal no longer holds it, or there is no room for a failed save. The position row
    /// is read before the next try: it may have been corrected.
    pub(in crate::drain) fn cannot_prepare(&mut self, failure: &Failure, now: Instant, chance: f64) -> Verdict {
        self.contact = Contact::Unread;
        let waits = self.waits();
        let tries = self.work_tries.count(None);
        let verdict = judge(Need::Halt, tries, Stake::None, waits, chance);
        self.wait(verdict, failure, now, false);
        verdict
    }

    /// Applying failed. Returns what is to be dropped with the verdict.
    pub(in crate::drain) fn apply_failed(&mut self, need: Need, failure: &Failure, now: Instant, chance: f64) -> (Verdict, Option<Hand>) {
        let (stake, saves) = match self.hand.as_ref().map(|hand| &hand.work) {
            Some(HandWork::Generation { generation, single, .. }) if generation.saves > 0 => {
                (Stake::Saves { single: *single, one_row: self.statement_rows.get() <= 1, careful: self.careful_for > 0 }, generation.saves)
            }
            Some(_) | None => (Stake::None, 0),
        };
        let waits = self.waits();
        let tries = self.work_tries.count(failure.sqlstate.as_deref());
        let verdict = judge(need, tries, stake, waits, chance);
        let verdict = self.stand(verdict, failure, now);
        self.wait(verdict, failure, now, false);
        let dropped = match verdict {
            Verdict::Halve => {
                let hand = self.hand.take();
                if self.search.is_none() {
                    self.saves_max = (saves / 2).max(1);
                }
                let through = hand.as_ref().map(|hand| hand.through);
                self.search = through.map(|through| Search { through, saves });
                if let (Some(suspect), Some(through)) = (failure.suspect, through) {
                    self.split_at(suspect, through);
                }
                hand
            }
            Verdict::Refold(_) => self.hand.take(),
            Verdict::TakeOut => {
                self.careful_for = CAREFUL_FOR;
                None
            }
            Verdict::Fail => {
                self.condemned = Some(failure.clone());
                self.hand.take()
            }
            Verdict::Shrink(_) => {
                self.statement_rows.shrink();
                None
            }
            _ => None,
        };
        if dropped.is_some() && !matches!(verdict, Verdict::Refold(_)) {
            self.work_tries = Tries::default();
        }
        (verdict, dropped)
    }

    /// What is before the suspect first, then it alone; it is part of no batch. Unless that is what was tried.
    fn split_at(&mut self, suspect: Sequence, through: Sequence) {
        let before = Sequence::from_u64(suspect.get() - 1);
        if suspect <= self.position || suspect > through || (before <= self.position && suspect == through) {
            return;
        }
        // Both halves are as large as they are: nothing is searched for.
        self.search = None;
        for at in [suspect, before] {
            if at > self.position && self.bounds.last().is_none_or(|bound| bound.through != at) {
                self.bounds.push(Bound { through: at, room: None });
            }
        }
    }

    /// What only a person, a setting or time can decide about a single save.
    fn stand(&mut self, verdict: Verdict, failure: &Failure, now: Instant) -> Verdict {
        let Some(Hand { work: HandWork::Generation { generation, single: true, .. }, .. }) = &self.hand else { return verdict };
        match verdict {
            Verdict::Fail if failure.sqlstate.as_deref() == Some("23503") => {
                let since = *self.refused_since.get_or_insert(now);
                let retried = now >= since + self.settings.relational_retry;
                if retried { Verdict::Fail } else { Verdict::Again(self.settings.retry_wait_min) }
            }
            Verdict::Halt(wait) if failure.is_about_statement() => {
                self.standing.judge(failure, generation, wait, self.settings.halt_wait, now)
            }
            other => other,
        }
    }

    fn waits(&self) -> Waits {
        Waits { min: self.settings.retry_wait_min, max: self.settings.retry_wait_max }
    }

    fn wait(&mut self, verdict: Verdict, failure: &Failure, now: Instant, ends_at_contact: bool) {
        let wait = match verdict {
            Verdict::Again(wait) | Verdict::Shrink(wait) => wait,
            Verdict::Reconnect(wait) | Verdict::Reread(wait) => {
                self.contact = Contact::Unread;
                self.waited = true;
                wait
            }
            Verdict::Halt(wait) | Verdict::Refold(wait) => {
                self.refresh = true;
                wait
            }
            Verdict::TakeOut | Verdict::Halve | Verdict::Fail => return,
        };
        let until = now + wait;
        self.trouble = Some(match (verdict, self.trouble.take()) {
            (Verdict::Halt(wait), _) => {
                let halt = Halt { at_gap: self.gap.asked.is_some(), ..Halt::new(failure, now, wait) };
                Trouble { until, halt: Some(halt), ends_at_contact }
            }
            // A probe that doesn't get through ends no halt.
            (_, Some(Trouble { halt: Some(halt), ends_at_contact, .. })) => {
                Trouble { until, halt: Some(Halt { next_probe: until, ..halt }), ends_at_contact }
            }
            _ => Trouble { until, halt: None, ends_at_contact },
        });
    }
}

impl Standing {
    /// In front of a single save whose statement was refused: wait on, or let it become a failed save.
    fn judge(&mut self, failure: &Failure, generation: &Generation, wait: Duration, wait_max: Duration, now: Instant) -> Verdict {
        let cause = Cause { collection: failure.collection.clone(), sqlstate: failure.sqlstate.clone() };
        let since = match &self.at {
            Some((at, since)) if *at == cause => *since,
            _ => now,
        };
        let given_up = self.given_up.as_ref().is_some_and(|(given_up, _)| *given_up == cause);
        if given_up || self.told || now >= since + wait_max {
            let collections: Vec<CollectionId> = generation.by_collection().map(|(id, _)| id).collect();
            self.given_up = Some((cause, collections));
            return Verdict::Fail;
        }
        self.at = Some((cause, since));
        Verdict::Halt(wait.min(since + wait_max - now))
    }

    /// A generation was taken: what its collections were refused for is repaired.
    fn taken(&mut self, generation: &Generation) {
        let is_taken = |id: &CollectionId| generation.by_collection().any(|(taken, _)| taken == *id);
        self.given_up.take_if(|(_, collections)| collections.iter().any(is_taken));
    }
}
