//! What a position row says, read at first contact and after everything that leaves its value in doubt.

use uuid::Uuid;

use crate::{postgres::PositionRow, save::Sequence};

/// Who may write a lane's position row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// This start's token, drawn afresh and durable in the journal's ledger.
    pub owner: Uuid,
    /// Tokens of earlier starts of the same journal: from these the row is taken over.
    pub known: Vec<Uuid>,
    /// `--take-over`: once, from whoever has it.
    pub take_over: bool,
    /// The journal knows that there was a row: then a missing one is no fresh start.
    pub had_row: bool,
}

/// What a row means for the lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Ours: Postgres holds everything up to here.
    At(Sequence),
    /// Nobody's, or an earlier start's: write our token first.
    Claim(Option<PositionRow>),
    /// Another daemon's. This one must write nothing more.
    Fenced(Uuid),
    /// There was a row and it is gone.
    Missing,
    /// It names a save that this journal never gave a number to.
    Beyond(Sequence),
}

impl Ownership {
    /// `knows`: whether a number is the journal's.
    pub(super) fn meet(&self, row: Option<PositionRow>, knows: impl FnOnce(Sequence) -> bool) -> Meeting {
        let Some(row) = row else {
            return if self.had_row { Meeting::Missing } else { Meeting::Claim(None) };
        };
        let ours = row.owner == self.owner;
        if !ours && !self.known.contains(&row.owner) && !self.take_over {
            Meeting::Fenced(row.owner)
        } else if !knows(row.through) {
            Meeting::Beyond(row.through)
        } else if ours {
            Meeting::At(row.through)
        } else {
            Meeting::Claim(Some(row))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ownership() -> Ownership {
        Ownership { owner: Uuid::from_u128(1), known: vec![Uuid::from_u128(2)], take_over: false, had_row: true }
    }

    fn row(owner: u128, through: u64) -> PositionRow {
        PositionRow { owner: Uuid::from_u128(owner), through: Sequence::from_u64(through) }
    }

    #[test]
    fn a_row_is_taken_over_only_from_a_start_of_the_same_journal() {
        let mut ownership = ownership();
        assert_eq!(ownership.meet(Some(row(1, 5)), |_| true), Meeting::At(Sequence::from_u64(5)));
        assert_eq!(ownership.meet(Some(row(2, 5)), |_| true), Meeting::Claim(Some(row(2, 5))));
        assert_eq!(ownership.meet(Some(row(3, 5)), |_| true), Meeting::Fenced(Uuid::from_u128(3)));
        ownership.take_over = true;
        assert_eq!(ownership.meet(Some(row(3, 5)), |_| true), Meeting::Claim(Some(row(3, 5))));
    }

    #[test]
    fn a_missing_row_is_a_fresh_start_only_if_there_was_none() {
        let fresh = Ownership { had_row: false, ..ownership() };
        assert_eq!(fresh.meet(None, |_| true), Meeting::Claim(None));
        assert_eq!(ownership().meet(None, |_| true), Meeting::Missing);
    }

    #[test]
    fn a_row_beyond_the_journal_is_named() {
        let knows = |sequence| sequence <= Sequence::from_u64(4);
        assert_eq!(ownership().meet(Some(row(1, 5)), knows), Meeting::Beyond(Sequence::from_u64(5)));
    }
}
