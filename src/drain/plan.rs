//! What a lane does next. Pure: it awaits nothing, time and chance are arguments, and what it decides the lane's loop does.
//!
//! Invariants: bounds lie beyond the position and rise towards the bottom of the stack; work in hand begins at the position
//! and ends at the nearest bound.
//!
//! A generation that Postgres will not take is halved by sequence, down to the save (or batch) at fault. How many saves are
//! tried at once after that grows back by doubling: where one in a thousand is refused, about a thousand go through.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    handle::{Control, Pause},
    judge::Tries,
    lane_backlog::View,
    meet::Ownership,
    rebuild::Most,
    room::Room,
    row_rate::Allowance,
    status::{Halt, LaneState},
};
use crate::{
    backlog::Generation,
    postgres::{Failure, PositionRow, StatementRows},
    save::{Accepted, CollectionId, Sequence},
    settings::DrainSettings,
};

mod record;

/// A lane's state.
#[derive(Debug)]
pub(super) struct Plan {
    ownership: Ownership,
    settings: DrainSettings,
    window: Duration,
    /// Up to here Postgres holds everything: what the row said last, or a commit since. Before the first contact what the
    /// journal noted.
    position: Sequence,
    contact: Contact,
    /// Up to where there is work, nearest last.
    bounds: Vec<Bound>,
    hand: Option<Hand>,
    /// So many objects were allowed when what is in hand was folded; there are more only where they can't be divided.
    hand_objects_max: u64,
    /// The save or batch before the nearest bound is to become a failed save, for this reason.
    condemned: Option<Failure>,
    /// A generation takes no more saves: half of what was refused last, doubled with every one that is taken.
    saves_max: u64,
    search: Option<Search>,
    /// So many generations more are written with an eye to rows at fault.
    careful_for: u32,
    /// What is in hand has waited for Postgres to come back; meanwhile more may have come.
    waited: bool,
    /// When what is in hand was refused first.
    refused_since: Option<Instant>,
    standing: Standing,
    /// A database that went back in time, to here, while `drain.on_rewind` is `halt`.
    rewind: Question<Sequence>,
    gap: Question<Gap>,
    contact_tries: Tries,
    work_tries: Tries,
    trouble: Option<Trouble>,
    /// The catalog is to be read before anything is applied.
    refresh: bool,
    /// Rows of one statement.
    statement_rows: StatementRows,
    probes: u64,
    resumes: u64,
    fails: u64,
    gaps: u64,
}

/// For the save that makes Postgres refuse a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Search {
    /// It isn't beyond this one.
    through: Sequence,
    /// So many saves are from the position to there.
    saves: u64,
}

/// In front of a save whose statement Postgres doesn't take.
#[derive(Debug, Default)]
struct Standing {
    /// What for, and since when.
    at: Option<(Cause, Instant)>,
    /// Somebody has said that it is to become a failed save.
    told: bool,
    /// Saves refused for this cause become failed saves at once, until one of their collections is taken again.
    given_up: Option<(Cause, Vec<CollectionId>)>,
}

/// What a statement was refused for: what is wrong for one save is wrong for many.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cause {
    collection: Option<Box<str>>,
    sqlstate: Option<Box<str>>,
}

/// What only a person decides.
#[derive(Debug, Default)]
struct Question<T> {
    asked: Option<T>,
    agreed: Option<T>,
}

/// What Postgres has lost and the journal no longer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gap {
    /// Begins after this save, where Postgres stands.
    pub(super) after: Sequence,
    /// Its last one.
    pub(super) through: Sequence,
}

/// How the lane stands with the position row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    /// To be read, over a connection new or old.
    Unread,
    /// To be written: it is nobody's, or an earlier start's.
    Unclaimed(Option<PositionRow>),
    /// Ours.
    Made,
    /// Another daemon's.
    Fenced(Uuid),
}

/// A sequence up to which there is work.
#[derive(Debug)]
struct Bound {
    through: Sequence,
    /// What the generation that came from the backlog holds of the limits.
    room: Option<Room>,
}

/// The next transaction.
#[derive(Debug)]
pub(super) struct Hand {
    through: Sequence,
    pub(super) work: HandWork,
}

#[derive(Debug)]
pub(super) enum HandWork {
    Generation {
        generation: Arc<Generation>,
        /// One save or one batch: it can't be halved.
        single: bool,
        /// What it takes of the limits beyond what the bounds hold.
        room: Option<Room>,
    },
    /// A condemned save or batch.
    Failed { saves: Vec<Accepted>, why: Failure },
}

/// Something went wrong and nothing has gone well since.
#[derive(Debug)]
struct Trouble {
    /// Nothing is tried before.
    until: Instant,
    halt: Option<Halt>,
    /// It is over as soon as the position row is read; otherwise, once something is applied.
    ends_at_contact: bool,
}

/// What the loop is to do.
#[derive(Debug)]
pub(super) enum Step {
    /// Read the position row.
    Contact,
    /// Write our token into it.
    Claim(Option<PositionRow>),
    /// Read the catalog.
    Refresh,
    /// Take a generation out of the backlog; one that has more objects than this is folded again by parts.
    Seal(u64),
    /// Take another one out and fold it into what is in hand, which was allowed so many objects.
    Extend(u64),
    /// What is in hand has become too much for one transaction: it is folded again by parts.
    PutBack,
    /// Nothing waits: move the position up to what other lanes have been given.
    MoveUp,
    /// Move the position over what is given up.
    SkipGap(Gap),
    /// Fold the journal from the position to the nearest bound, so much at the most.
    Fold { after: Sequence, through: Sequence, most: Most },
    /// Read the condemned saves from the journal.
    Condemn { after: Sequence, through: Sequence },
    /// Apply what is in hand.
    Apply,
    /// Wait for a change, or until then.
    Rest(Option<Instant>),
    /// There is work; the rate of rows allows it from then on.
    Hold(Instant),
    /// The lane ends: it is told to, or fenced.
    End,
}

/// After a row at fault so many generations are written carefully: where there was one there are often more.
const CAREFUL_FOR: u32 = 16;

/// All that a decision is made by, beside the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) now: Instant,
    pub(super) control: &'a Control,
    pub(super) backlog: View,
    pub(super) allowance: Allowance,
}

impl Step {
    /// Whether it leads to a transaction: Postgres is there, and may commit it at any moment.
    fn is_work(&self) -> bool {
        use Step::{Apply, Condemn, Extend, Fold, PutBack, Seal, SkipGap};
        matches!(self, Seal(_) | Extend(_) | PutBack | SkipGap(_) | Fold { .. } | Condemn { .. } | Apply)
    }
}

/// What the position row turned out to say.
#[derive(Debug)]
pub(super) enum Stood {
    /// What was expected.
    Here,
    /// The transaction in doubt was committed.
    Committed(Settled),
    /// More is in Postgres than was known.
    Ahead { from: Sequence, settled: Settled },
    /// Less is in Postgres than was.
    Behind { from: Sequence },
}

/// What is over; dropping it gives its room back to the limits, and takes a while.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) hand: Option<Hand>,
    _bounds: Vec<Bound>,
}

impl Plan {
    pub(super) fn new(ownership: Ownership, settings: DrainSettings, window: Duration, position: Sequence) -> Self {
        Self {
            ownership,
            statement_rows: StatementRows::new(settings.statement_rows, settings.statement_target),
            settings,
            window,
            position,
            contact: Contact::Unread,
            bounds: Vec::new(),
            hand: None,
            hand_objects_max: 0,
            condemned: None,
            saves_max: u64::MAX,
            search: None,
            careful_for: 0,
            waited: false,
            refused_since: None,
            standing: Standing::default(),
            rewind: Question::default(),
            gap: Question::default(),
            contact_tries: Tries::default(),
            work_tries: Tries::default(),
            trouble: None,
            refresh: false,
            probes: 0,
            resumes: 0,
            fails: 0,
            gaps: 0,
        }
    }

    pub(super) fn position(&self) -> Sequence {
        self.position
    }

    /// What to do next.
    pub(super) fn next(&self, seen: Seen<'_>) -> Step {
        if matches!(self.contact, Contact::Fenced(_)) || self.stops(seen) {
            return Step::End;
        }
        if let Some(pause) = self.paused(seen) {
            return Step::Rest(Some(pause.until));
        }
        if let Some(trouble) = self.trouble.as_ref().filter(|trouble| trouble.until > seen.now) {
            return Step::Rest(Some(trouble.until));
        }
        match self.contact {
            Contact::Unread | Contact::Fenced(_) => Step::Contact,
            Contact::Unclaimed(row) => Step::Claim(row),
            Contact::Made if self.refresh => Step::Refresh,
            Contact::Made => match self.next_work(seen) {
                step if step.is_work() && seen.allowance.from > seen.now => Step::Hold(seen.allowance.from),
                step => step,
            },
        }
    }

    fn next_work(&self, seen: Seen<'_>) -> Step {
        let (allowed, objects_max) = (seen.allowance.objects_max, self.objects_max(seen));
        if self.hand.is_some() {
            return match () {
                () if self.is_too_much(allowed) => Step::PutBack,
                () if self.may_extend(seen.backlog, objects_max) => Step::Extend(allowed),
                () => Step::Apply,
            };
        }
        if let Some(&Bound { through, .. }) = self.bounds.last() {
            let after = self.position;
            if let Some(gap) = self.gap.agreed.filter(|gap| gap.after == after) {
                return Step::SkipGap(gap);
            }
            return match self.condemned {
                Some(_) => Step::Condemn { after, through },
                None => Step::Fold { after, through, most: Most { saves: self.saves_max(), objects: objects_max } },
            };
        }
        match self.window_end(seen) {
            _ if seen.backlog.full => Step::Seal(allowed),
            Some(end) if end <= seen.now => Step::Seal(allowed),
            Some(end) => Step::Rest(Some(end)),
            None if seen.control.stop.is_some() => Step::Rest(None),
            None if seen.backlog.moves_up.is_some_and(|at| at <= seen.now) => Step::MoveUp,
            None => Step::Rest(seen.backlog.moves_up),
        }
    }

    /// How many saves to try at once.
    fn saves_max(&self) -> u64 {
        self.search.map_or(self.saves_max, |search| (search.saves / 2).max(1))
    }

    /// How many objects are folded for one transaction.
    ///
    /// A rate cuts a generation by sequence, as a refusal does: so every commit still is a point of the save order (P4), and no
    /// transaction holds locks for longer than writing what a second allows. Pauses between the statements of a large one would
    /// keep its locks for minutes. The price: parts are folded each by itself, so objects that are saved again and again are
    /// written more often.
    fn objects_max(&self, seen: Seen<'_>) -> u64 {
        self.settings.generation_objects_max.min(seen.allowance.objects_max)
    }

    /// Whether what is in hand was folded when more was allowed.
    fn is_too_much(&self, allowed: u64) -> bool {
        let Some(Hand { work: HandWork::Generation { generation, single: false, .. }, .. }) = &self.hand else { return false };
        self.hand_objects_max > allowed && generation.footprint.objects > allowed
    }

    /// Whether what came while Postgres was away may go with what is in hand: the longer it was away, the better the folding.
    fn may_extend(&self, backlog: View, objects_max: u64) -> bool {
        let Some(Hand { work: HandWork::Generation { generation, .. }, .. }) = &self.hand else { return false };
        let fits = generation.footprint.objects + backlog.objects <= objects_max;
        self.waited && self.bounds.len() == 1 && !backlog.full && backlog.since.is_some() && fits
    }

    /// Until when saves gather; nobody who waits is kept waiting for it.
    fn window_end(&self, Seen { control, backlog, .. }: Seen<'_>) -> Option<Instant> {
        let since = backlog.since?;
        let hurried = control.wanted > self.position || control.stop.is_some();
        Some(if hurried { since } else { since + self.window })
    }

    fn stops(&self, seen: Seen<'_>) -> bool {
        let Some(deadline) = seen.control.stop else { return false };
        let left = self.hand.is_some() || !self.bounds.is_empty() || seen.backlog.pending();
        // What the rate allows only after that is left, too.
        let deadline_passes = seen.now.max(seen.allowance.from) >= deadline;
        !left || self.is_away() || self.halt().is_some() || deadline_passes || self.paused(seen).is_some()
    }

    /// Whether Postgres was asked for and did not come; a first contact under way is no such thing.
    pub(super) fn is_away(&self) -> bool {
        self.contact != Contact::Made && self.contact_tries.all > 0
    }

    fn paused<'a>(&self, seen: Seen<'a>) -> Option<&'a Pause> {
        seen.control.pause.as_ref().filter(|pause| pause.until > seen.now)
    }

    /// What the lane shows while it takes a step.
    pub(super) fn state(&self, step: &Step, seen: Seen<'_>) -> LaneState {
        if let Contact::Fenced(by) = self.contact {
            return LaneState::Fenced { by };
        }
        if matches!(step, Step::End) {
            return LaneState::Stopped;
        }
        if let Some(pause) = self.paused(seen) {
            return LaneState::Paused { reason: Arc::clone(&pause.reason), until: pause.until };
        }
        if let Some(halt) = self.halt() {
            return LaneState::Halted(halt.clone());
        }
        // A try that is under way is work like any other.
        if let Some(trouble) = self.trouble.as_ref().filter(|_| !step.is_work()) {
            let next = trouble.until.max(seen.allowance.from);
            return LaneState::Retrying { attempt: self.contact_tries.all.max(self.work_tries.all), next };
        }
        match step {
            Step::Hold(until) => LaneState::Waiting { until: *until, for_rate: true },
            Step::Rest(Some(until)) if seen.backlog.pending() => LaneState::Waiting { until: *until, for_rate: false },
            Step::Rest(_) | Step::MoveUp => LaneState::Idle,
            Step::Contact | Step::Claim(_) | Step::Refresh => LaneState::Connecting,
            _ => LaneState::Applying { through: self.bounds.last().map_or(self.position, |bound| bound.through) },
        }
    }

    /// Why the lane stands still, if it does.
    pub(super) fn halt(&self) -> Option<&Halt> {
        self.trouble.as_ref()?.halt.as_ref()
    }

    /// Whether anything of what came out of the backlog is left.
    pub(super) fn has_work(&self) -> bool {
        self.hand.is_some() || !self.bounds.is_empty()
    }

    /// Whether the connection is worth watching while nothing is to be done.
    pub(super) fn in_contact(&self) -> bool {
        self.contact == Contact::Made
    }

    /// Who fenced the lane off, if somebody did.
    pub(super) fn fenced(&self) -> Option<Uuid> {
        match self.contact {
            Contact::Fenced(by) => Some(by),
            _ => None,
        }
    }
}
