//! What watchers are told: found anew for each of them from the lanes' positions and the failed saves, never queued.
//!
//! A commit whose answer was lost needs no care of its own: what failed in it is among the rows that the lane counts before its
//! position shows (P6).

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::select_all;

use super::{
    catalog::SharedCollections,
    failed::{FailedSaves, Refusal, Told},
    gaps::Gaps,
    rewinds::Rewinds,
};
use crate::{
    drain::LaneHandle,
    failed::FailedRow,
    outcomes::{Reason, Span, Superseded, Ticket, Watch, WatchEnd, WatchEvent},
    postgres::Failure,
    save::{LaneId, Sequence},
};

/// Failed saves that a watcher is told of at a time, about.
const TOLD_MAX: usize = 256;
/// From one question to the next when Postgres can't be asked for a reason.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// What watchers are told from.
pub(super) struct Watches {
    pub(super) lanes: Vec<LaneHandle>,
    pub(super) collections: SharedCollections,
    pub(super) failed: FailedSaves,
    pub(super) gaps: Gaps,
    pub(super) rewinds: Rewinds,
    pub(super) superseded: Arc<Superseded>,
}

/// Why there is nothing to tell.
enum Silence {
    End(WatchEnd),
    Away(Failure),
}

impl From<WatchEnd> for Silence {
    fn from(end: WatchEnd) -> Self {
        Self::End(end)
    }
}

impl Watches {
    /// What a watcher is to be told next; waits until there is something. Dropped, nothing is lost.
    pub(super) async fn next(&self, watch: &mut Watch) -> Result<Vec<WatchEvent>, WatchEnd> {
        let lanes: Vec<_> = watch.lanes().filter_map(|lane| self.lanes.get(usize::from(lane.0))).collect();
        for lane in &lanes {
            lane.confirmed().await;
        }
        loop {
            // Before the look: what comes after it is heard of. Of every lane: as one goes on, an idle one is passed by.
            let mut positions: Vec<_> = self.lanes.iter().map(LaneHandle::position).collect();
            match self.look(watch, &lanes).await {
                Ok(told) if told.is_empty() => {
                    // Their senders live in the handles.
                    let _ = select_all(positions.iter_mut().map(|position| Box::pin(position.changed()))).await;
                }
                Ok(told) => return Ok(told),
                Err(Silence::End(end)) => return Err(end),
                Err(Silence::Away(error)) => {
                    tracing::debug!(%error, "why saves failed can't be read for a watcher now");
                    tokio::time::sleep(ASK_INTERVAL).await;
                }
            }
        }
    }

    /// What there is to tell now.
    async fn look(&self, watch: &mut Watch, lanes: &[&LaneHandle]) -> Result<Vec<WatchEvent>, Silence> {
        // In this order: what is seen of the lanes may be from after a rewind that isn't counted, never the other way round.
        let rewound = self.rewinds.since(watch.mark().unwrap_or_default().rewinds);
        watch.know(rewound)?;
        let settled: Vec<_> = lanes.iter().map(|lane| lane.settled().unwrap_or_default()).collect();
        if !watch.is_open() {
            let first = watch.open(&settled, self.gone(), rewound.count)?;
            return Ok(first.into_iter().map(WatchEvent::Watermark).collect());
        }
        let (mut told, mut reached) = (Vec::new(), Vec::new());
        let due = watch.due(&settled);
        for mut span in due.iter().copied() {
            while span.after < span.through && told.len() < TOLD_MAX {
                span.after = self.tell(watch, span, &mut told).await?;
            }
            reached.push((span.lane, span.after));
        }
        // After the looking: what was forgotten meanwhile may be missing in it.
        watch.can_tell(&due, self.gone())?;
        told.extend(watch.reach(&reached).map(WatchEvent::Watermark));
        Ok(told)
    }

    /// Up to here outcomes can't be told any more.
    fn gone(&self) -> Sequence {
        self.failed.horizon().max(self.gaps.end())
    }

    /// Adds what there is to tell of a lane; gives up to where that is all.
    async fn tell(&self, watch: &Watch, span: Span, told: &mut Vec<WatchEvent>) -> Result<Sequence, Silence> {
        let Span { lane, after, through, live_after } = span;
        let superseded = self.superseded.between(lane, live_after.max(after), through, TOLD_MAX);
        let superseded = superseded.ok_or(WatchEnd::TooSlow(watch.mark().unwrap_or_default()))?;
        let wanted = |collection: &str| watch.wants(collection) && self.collections.lanes().lane_of(collection) == lane;
        let (failed, through) = self.failed.between(lane, (after, superseded.through), TOLD_MAX, wanted);
        told.extend(self.with_reasons(lane, failed).await.map_err(Silence::Away)?);
        let collections = self.collections.now();
        let changed_nothing = superseded.saves.into_iter().filter(|(sequence, _)| *sequence <= through);
        told.extend(changed_nothing.filter_map(|(sequence, id)| {
            let collection = collections.get(id).name.to_string();
            watch.wants(&collection).then_some(WatchEvent::Superseded { ticket: Ticket { sequence, lane }, collection })
        }));
        Ok(through)
    }

    async fn with_reasons(&self, lane: LaneId, failed: Vec<Told>) -> Result<Vec<WatchEvent>, Failure> {
        let unknown: Vec<_> = failed.iter().filter(|told| told.refusal.is_none()).map(|told| told.sequence).collect();
        let rows = self.failed.rows_of(unknown).await?;
        let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.sequence, row)).collect();
        let told = failed.into_iter().map(|Told { sequence, collection, refusal }| {
            let (key, reason) = match refusal {
                Some(Refusal { key, reason, .. }) => (key.parts().map(str::to_owned).collect(), reason),
                None => rows.remove(&sequence).map_or_else(removed, of_row),
            };
            WatchEvent::Failed { ticket: Ticket { sequence, lane }, collection, key, reason }
        });
        Ok(told.collect())
    }
}

fn of_row(row: FailedRow) -> (Vec<String>, Reason) {
    (row.key, Reason { sqlstate: row.sqlstate, constraint: row.constraint, message: row.message })
}

/// A row that is gone, though nothing was forgotten: somebody has deleted it.
fn removed() -> (Vec<String>, Reason) {
    (Vec::new(), Reason { message: "its row of forebay.failed_save has been removed".to_owned(), ..Reason::default() })
}
