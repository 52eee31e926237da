//! The lanes: who owns their position rows, and the tasks that run them.

use std::sync::Arc;

use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    catalog::SharedCollections,
    failed::FailedSaves,
    gaps::Gaps,
    layout::{Handover, Layout},
    log::LaneLog,
    observe::Observer,
    recovery::Backlogs,
    rewinds::Rewinds,
    target::LaneTarget,
};
use crate::{
    drain::{End, Lane, LaneBacklog, LaneHandle, LaneParts, Ownership, RowRate},
    journal::{Ledger, LedgerError, Monitor, Reader},
    limits::Limits,
    outcomes::Superseded,
    postgres::Postgres,
    save::{LaneId, Sequence},
    settings::Settings,
};

/// Tokens of earlier starts that a row is taken over from. A database that went back in time has an old one.
const TOKENS_MAX: usize = 4_096;

/// What the lanes are made of.
pub(super) struct LaneMaker<'a> {
    pub(super) settings: &'a Settings,
    pub(super) limits: &'a Limits,
    pub(super) row_rate: &'a RowRate,
    pub(super) postgres: &'a Postgres,
    pub(super) journal: Uuid,
    pub(super) ledger: &'a Ledger,
    pub(super) reader: &'a Reader,
    pub(super) monitor: &'a Monitor,
    pub(super) collections: &'a SharedCollections,
    pub(super) layout: &'a Layout,
    pub(super) handover: &'a Handover,
    pub(super) failed: &'a FailedSaves,
    pub(super) gaps: &'a Gaps,
    pub(super) rewinds: &'a Rewinds,
    pub(super) superseded: &'a Arc<Superseded>,
    pub(super) observer: &'a Observer,
    pub(super) take_over: bool,
    /// The last save that the journal held at this start.
    pub(super) found: Sequence,
    /// This start.
    pub(super) run: u64,
}

/// A lane that was started.
pub(super) struct Started {
    pub(super) handle: LaneHandle,
    /// This start's token.
    pub(super) owner: Uuid,
    /// Its part of the journal.
    pub(super) log: LaneLog,
}

impl LaneMaker<'_> {
    /// Starts the lanes of the layout in `tasks`.
    pub(super) async fn start_all(&self, backlogs: &Backlogs, tasks: &mut JoinSet<End>) -> Result<Vec<Started>, LedgerError> {
        let mut lanes = Vec::new();
        for ((id, name), backlog) in (0..).map(LaneId).zip(self.layout.lanes.names()).zip(backlogs.iter()) {
            lanes.push(self.start(id, name, backlog.clone(), tasks).await?);
        }
        Ok(lanes)
    }

    /// Starts the lane of this number in `tasks`, with a token that is durable before anybody sees it.
    async fn start(&self, id: LaneId, name: &str, backlog: LaneBacklog, tasks: &mut JoinSet<End>) -> Result<Started, LedgerError> {
        let name: Arc<str> = name.into();
        let mut ownership = own(self.ledger, &name, self.take_over).await?;
        let owner = ownership.owner;
        // Where another layout was before, its end has left a row for every lane.
        ownership.known.extend(self.layout.token());
        ownership.had_row |= self.layout.token().is_some();
        let (monitor, observer) = (self.monitor.clone(), self.observer.clone());
        let log = LaneLog {
            lane: id,
            found: self.found.max(self.layout.begins()),
            run: self.run,
            reader: self.reader.clone(),
            monitor: monitor.clone(),
            ledger: self.ledger.clone(),
            collections: self.collections.clone(),
            row_key: row_key(&name),
            gaps: self.gaps.clone(),
            rewinds: self.rewinds.clone(),
            superseded: Arc::clone(self.superseded),
        };
        let parts = LaneParts {
            id,
            name: Arc::clone(&name),
            window: self.settings.lanes.get(&*name).map_or_else(Default::default, |lane| lane.window),
            drain: self.settings.drain.clone(),
            backlog: backlog.clone(),
            failed_saves: Arc::clone(&self.limits.failed_saves),
            statement_target: Arc::clone(&self.limits.statement_target),
            row_rate: self.row_rate.clone(),
            target: LaneTarget {
                postgres: self.postgres.clone(),
                collections: self.collections.clone(),
                handover: self.handover.clone(),
                begins: self.layout.begins(),
                failed: self.failed.clone(),
                superseded: Arc::clone(self.superseded),
                journal: self.journal,
                lane: Arc::clone(&name),
                lane_id: id,
                backlog,
                owner,
                writer: None,
                met: false,
                observer,
                statement_target: Arc::clone(&self.limits.statement_target),
                failed_saves: Arc::clone(&self.limits.failed_saves),
                log: log.clone(),
            },
            log: log.clone(),
            settle: Box::new(move |lane, position| monitor.settled(lane, position, true)),
            ownership,
        };
        let (lane, handle) = Lane::new(parts);
        tasks.spawn(lane.run());
        Ok(Started { handle, owner, log })
    }
}

/// Draws this start's token and makes it durable, before it is written to the position row.
async fn own(ledger: &Ledger, lane: &str, take_over: bool) -> Result<Ownership, LedgerError> {
    let (ledger, tokens_key, row_key) = (ledger.clone(), format!("owners/{lane}"), row_key(lane));
    let owner = Uuid::new_v4();
    let remembered = tokio::task::spawn_blocking(move || {
        let mut tokens = ledger.get(&tokens_key)?.unwrap_or_default();
        let known = tokens.as_chunks::<16>().0.iter().map(|bytes| Uuid::from_bytes(*bytes)).collect();
        let surplus = (tokens.len() + 16).saturating_sub(TOKENS_MAX * 16);
        tokens.drain(..surplus);
        tokens.extend_from_slice(owner.as_bytes());
        ledger.put(&tokens_key, &tokens)?;
        Ok((known, ledger.get(&row_key)?.is_some()))
    });
    let (known, had_row) = remembered.await.expect("the ledger doesn't panic")?;
    Ok(Ownership { owner, known, take_over, had_row })
}

/// Set in the ledger once the lane has had a position row.
fn row_key(lane: &str) -> String {
    format!("row/{lane}")
}
