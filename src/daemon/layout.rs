//! The layout of the lanes: which there are, what each of them writes, and how one layout follows another.
//!
//! A layout counts from its beginning on: a sequence that no save has, above every save of the layout before. All of those are
//! settled when it begins, and their callbacks noted, so no save is ever folded by another layout than the one it was accepted
//! under, and a lane's number need only mean something within one. (What is read back is routed by its collection all the same: so
//! the saves of a salvaged journal, which has no layout, find their lane.)
//!
//! The layout is in the journal's ledger; a journal without one has the default lane alone. When the settings have other lanes:
//!
//! 1. The daemon starts with the lanes of the ledger, accepts nothing, drains, and notes callbacks. If that isn't done within
//!    [`EMPTY_TIMEOUT`], or Postgres is away, those lanes stay in force, a warning says so, and the next start tries again.
//! 2. The lanes end. The new layout is put into the ledger, with the position rows of the old lanes as they were seen. **From here on
//!    it is in force**: one put, old or new, whatever happens.
//! 3. The daemon starts with the new lanes. Before the first of them reads its position row, one transaction compares the old rows with
//!    those in the ledger, and moves every row of the journal to the beginning, under a token of its own that the new lanes take
//!    over from. It is repeated until it is seen to have happened, over restarts too, and then noted in the ledger.
//!
//! Saves may be accepted between 2 and 3, with Postgres away: they wait. A database that goes back in time to before 3 has rows below the
//! beginning: then every lane halts, because which save was in which lane before is no longer known (P3).
//!
//! A journal that has never accepted a save has nothing to drain: it takes the new layout at once, without Postgres.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    collections::{Collections, Lanes},
    exit::{Exit, Failure as Failed, OrExit},
    journal::{Ledger, LedgerError},
    postgres::{Action, Failure, LaneChange, LaneRows, PositionRow, Postgres, earlier_remedy},
    save::Sequence,
};

const LEDGER_KEY: &str = "layout";
/// How long a start drains the lanes of a layout that is to be followed by another.
pub(super) const EMPTY_TIMEOUT: Duration = Duration::from_secs(10);
/// And how long Postgres may be away meanwhile.
pub(super) const EMPTY_PATIENCE: Duration = Duration::from_secs(5);

/// A layout. Without anything in the ledger: the default lane, from the first save on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    pub(super) lanes: Lanes,
    begins: u64,
    /// In the rows until the lanes take them over.
    token: u128,
    /// The rows that are to be replaced: empty once they are.
    before: Vec<Before>,
}

/// A row of the layout before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    lane: String,
    owner: u128,
    through: u64,
}

impl Layout {
    /// The layout of a journal that has accepted nothing.
    pub(super) fn first(lanes: Lanes) -> Self {
        Self { lanes, ..Self::default() }
    }

    /// The layout after one of which everything is settled; nothing was accepted in this run.
    pub(super) fn following(lanes: Lanes, run: u64, rows: Vec<(String, PositionRow)>) -> Self {
        let begins = Sequence::before_run(run).expect("a run that was begun").get();
        let before = rows.into_iter().map(|(lane, row)| Before { lane, owner: row.owner.as_u128(), through: row.through.get() });
        Self { lanes, begins, token: Uuid::new_v4().as_u128(), before: before.collect() }
    }

    /// Above every save of the layouts before.
    pub(super) fn begins(&self) -> Sequence {
        Sequence::from_u64(self.begins)
    }

    /// The token that the lanes take their rows over from, if another layout was before.
    pub(super) fn token(&self) -> Option<Uuid> {
        (self.begins > 0).then(|| Uuid::from_u128(self.token))
    }

    /// What the ledger holds.
    pub(super) async fn recall(ledger: &Ledger) -> Result<Self, LedgerError> {
        let ledger = ledger.clone();
        let kept = tokio::task::spawn_blocking(move || ledger.get(LEDGER_KEY)).await.expect("the ledger doesn't panic")?;
        let Some(kept) = kept else { return Ok(Self::default()) };
        serde_json::from_slice(&kept).map_err(|_| LedgerError::Damaged(LEDGER_KEY.to_owned()))
    }

    /// Puts it in force.
    pub(super) async fn keep(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let (ledger, layout) = (ledger.clone(), serde_json::to_vec(self).expect("a layout is plain data"));
        tokio::task::spawn_blocking(move || ledger.put(LEDGER_KEY, &layout)).await.expect("the ledger doesn't panic")
    }
}

/// Which lanes a start has.
pub(super) enum Wanted {
    /// Those of the settings, as soon as nothing waits under others.
    Settings(Lanes),
    /// Those that the journal has.
    Kept,
}

/// The layout that a start begins with.
pub(super) struct Choice {
    pub(super) layout: Layout,
    /// The lanes of the settings, if they count.
    wanted: Option<Lanes>,
    /// The ledger doesn't hold it yet.
    news: bool,
}

impl Choice {
    /// `last` is the journal's last save.
    pub(super) async fn make(ledger: &Ledger, last: Sequence, wanted: Wanted) -> Result<Self, LedgerError> {
        let layout = Layout::recall(ledger).await?;
        Ok(match wanted {
            Wanted::Kept => Self { layout, wanted: None, news: false },
            // Nothing was ever accepted: no save knows another layout.
            Wanted::Settings(lanes) if last == Sequence::ZERO && lanes != layout.lanes => {
                Self { layout: Layout::first(lanes.clone()), wanted: Some(lanes), news: true }
            }
            Wanted::Settings(lanes) => Self { layout, wanted: Some(lanes), news: false },
        })
    }

    /// Holds the lanes of the settings against the catalog. Gives them if the layout has others.
    pub(super) async fn hold_against(self, collections: &Collections, ledger: &Ledger) -> Result<Option<Lanes>, Failed> {
        let Some(wanted) = self.wanted else { return Ok(None) };
        let problems = wanted.problems(collections);
        if !problems.is_empty() {
            return Err(Failed { exit: Exit::Settings, error: anyhow::anyhow!("{}", problems.join("; ")) });
        }
        if self.news {
            self.layout.keep(ledger).await.or_exit(Exit::JournalIo, "write the journal's ledger")?;
        }
        Ok((wanted != self.layout.lanes).then_some(wanted))
    }
}

/// The way from the rows of the layout before to those of this one. Cheap to clone.
#[derive(Clone)]
pub(super) struct Handover(Arc<Inner>);

struct Inner {
    postgres: Postgres,
    ledger: Ledger,
    journal: Uuid,
    take_over: bool,
    /// Every token of this journal.
    known: Vec<Uuid>,
    /// Held while the rows are written.
    layout: Mutex<Layout>,
}

impl Handover {
    pub(super) async fn new(
        layout: Layout,
        postgres: Postgres,
        ledger: Ledger,
        journal: Uuid,
        take_over: bool,
    ) -> Result<Self, LedgerError> {
        let tokens = ledger.clone();
        let owners = tokio::task::spawn_blocking(move || tokens.scan("owners/")).await.expect("the ledger doesn't panic")?;
        let known: BTreeSet<Uuid> =
            owners.iter().flat_map(|(_, tokens)| tokens.as_chunks::<16>().0).map(|bytes| Uuid::from_bytes(*bytes)).collect();
        let known = known.into_iter().collect();
        Ok(Self(Arc::new(Inner { postgres, ledger, journal, take_over, known, layout: Mutex::new(layout) })))
    }

    /// Returns once the rows are those of this layout; the row of another daemon, if one has them.
    pub(super) async fn complete(&self) -> Result<Option<PositionRow>, Failure> {
        let mut layout = self.0.layout.lock().await;
        if layout.before.is_empty() {
            return Ok(None);
        }
        match self.change(&layout).await? {
            LaneRows::Foreign(row) => return Ok(Some(row)),
            LaneRows::Changed => {}
        }
        let changed = Layout { before: Vec::new(), ..layout.clone() };
        changed.keep(&self.0.ledger).await.map_err(|error| Failure::local(Action::Halt, format!("note the layout: {error}")))?;
        tracing::info!(lanes = %changed.lanes, "the lanes of the settings are in force");
        *layout = changed;
        Ok(None)
    }

    async fn change(&self, layout: &Layout) -> Result<LaneRows, Failure> {
        let row = |owner, through| PositionRow { owner: Uuid::from_u128(owner), through: Sequence::from_u64(through) };
        let before: Vec<_> = layout.before.iter().map(|before| (before.lane.clone(), row(before.owner, before.through))).collect();
        let lanes: Vec<&str> = layout.lanes.names().collect();
        let change = LaneChange {
            journal: self.0.journal,
            before: &before,
            lanes: &lanes,
            row: row(layout.token, layout.begins),
            known: &self.0.known,
            take_over: self.0.take_over,
        };
        self.0.postgres.change_lanes(&change).await
    }
}

/// A row of a lane of this layout says what only one of a layout before could.
pub(super) fn before_the_layout(row: PositionRow, begins: Sequence) -> Failure {
    let message = format!(
        "the row of forebay.lane_position says {}, but the lanes have changed since, at {begins}: postgres went back in time",
        row.through
    );
    Failure { remedy: earlier_remedy().into(), ..Failure::local(Action::Halt, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_begins_above_every_save_before_it() {
        let last = Sequence::before_run(6).expect("a run").plus((1 << 40) - 1);
        let rows = vec![("default".to_owned(), PositionRow { owner: Uuid::from_u128(7), through: last })];
        let layout = Layout::following(Lanes::new(vec![("hot".to_owned(), vec!["scores".to_owned()])]), 7, rows);
        assert!(layout.begins() > last && layout.begins() < Sequence::before_run(7).expect("a run").plus(1));
        assert_eq!(layout.lanes.names().collect::<Vec<_>>(), ["default", "hot"]);
        let text = serde_json::to_vec(&layout).expect("plain data");
        assert_eq!(serde_json::from_slice::<Layout>(&text).expect("a layout"), layout);
        assert_eq!((Layout::default().begins(), Layout::default().token()), (Sequence::ZERO, None));
    }
}
