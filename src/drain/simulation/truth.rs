//! What was acknowledged, for the checks.

use crate::{
    backlog::model::Model,
    save::{Accepted, LaneId, Sequence},
};

/// What was acknowledged, in order; what was given up of it, between these two.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) saves: Vec<Accepted>,
    pub(super) given_up: Vec<(LaneId, Sequence, Sequence)>,
}

impl Truth {
    /// Everything after this one.
    pub(super) fn after(&self, after: Sequence) -> &[Accepted] {
        &self.saves[self.saves.partition_point(|accepted| accepted.sequence <= after)..]
    }

    /// The saves of a lane after the first up to the second.
    pub(super) fn between(&self, lane: LaneId, after: Sequence, through: Sequence) -> impl Iterator<Item = &Accepted> {
        let saves = self.after(after).iter().take_while(move |accepted| accepted.sequence <= through);
        saves.filter(move |accepted| accepted.save.lane == lane)
    }

    pub(super) fn is_given_up(&self, lane: LaneId, after: Sequence, through: Sequence) -> bool {
        self.given_up.iter().any(|&(given_up, from, to)| (given_up, from) == (lane, after) && through <= to)
    }

    pub(super) fn last_of(&self, lane: LaneId) -> Sequence {
        let last = self.saves.iter().rfind(|accepted| accepted.save.lane == lane);
        last.map_or(Sequence::ZERO, |accepted| accepted.sequence)
    }
}

/// What saves make of these tables, executed one by one.
pub(super) fn executed_over<'a>(mut tables: Model, saves: impl IntoIterator<Item = &'a Accepted>) -> Model {
    for accepted in saves {
        tables.execute(&accepted.save);
    }
    tables
}
