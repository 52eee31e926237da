//! Postgres as a lane sees it: the writer's connection, made when needed, and what its errors ask for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    aside::LaneAside,
    catalog::SharedCollections,
    failed::FailedSaves,
    layout::{Handover, before_the_layout},
    log::LaneLog,
    observe::Observer,
};
use crate::{
    collections::{Across, Collections, Reaches},
    drain::{LaneBacklog, Target, What, Work},
    failed::SaveKind,
    limits::Limit,
    outcomes::Superseded,
    postgres::{self, Action, ApplyError, FailedSave, Failure, PositionRow, Postgres, Writer, Written},
    save::{Accepted, Body, Change, LaneId, Sequence},
};

/// One lane's way to Postgres.
pub(super) struct LaneTarget {
    pub(super) postgres: Postgres,
    pub(super) collections: SharedCollections,
    /// To be completed before the position row is read.
    pub(super) handover: Handover,
    /// Where the layout of the lanes begins.
    pub(super) begins: Sequence,
    pub(super) failed: FailedSaves,
    pub(super) journal: Uuid,
    pub(super) lane: Arc<str>,
    pub(super) lane_id: LaneId,
    pub(super) backlog: LaneBacklog,
    /// This start's token.
    pub(super) owner: Uuid,
    pub(super) writer: Option<Writer>,
    /// Whether Postgres has been asked what only a first contact asks.
    pub(super) met: bool,
    pub(super) observer: Observer,
    /// `drain.statement_target`
    pub(super) statement_target: Arc<Limit>,
    /// `failed.saves_max`
    pub(super) failed_saves: Arc<Limit>,
    pub(super) superseded: Arc<Superseded>,
    /// For the saves behind a row at fault.
    pub(super) log: LaneLog,
}

/// How often an idle lane looks whether its connection is still there: at a flag, the server is asked nothing.
const LOST_CHECK: Duration = Duration::from_secs(10);

impl LaneTarget {
    /// The connection, if there is a sound one. Out of our hands while it is used: should the call be dropped, it goes too.
    fn take_writer(&mut self) -> Option<Writer> {
        self.writer.take().filter(Writer::is_usable)
    }

    /// What only a first contact asks: a start without Postgres worked with what the journal remembers.
    async fn meet(&mut self) -> Result<(), Failure> {
        if !self.met {
            self.collections.ensure_fresh().await?;
            self.met = true;
        }
        Ok(())
    }
}

impl LaneTarget {
    /// What two lanes write in two transactions must not depend on each other: DDL may have joined it since the start.
    fn stands_alone(&self, collections: &Collections) -> Result<(), Failure> {
        let lanes = self.collections.lanes();
        match collections.across(lanes).find(|across| across.lanes.contains(&self.lane_id)) {
            Some(across) => {
                let remedy = format!("take it back until the lanes are drained; to have it, first {}", Across::REMEDY);
                Err(Failure { remedy: remedy.into(), ..Failure::local(Action::Halt, across.shown(lanes)) })
            }
            None => Ok(()),
        }
    }
}

impl Target for LaneTarget {
    async fn contact(&mut self) -> Result<Option<PositionRow>, Failure> {
        if let Some(foreign) = self.handover.complete().await? {
            return Ok(Some(foreign));
        }
        let mut writer = match self.take_writer() {
            Some(writer) => writer,
            None => self.postgres.writer(self.journal, &self.lane, self.owner).await?,
        };
        let row = writer.read_position().await?;
        self.writer = Some(writer);
        if let Some(row) = row.filter(|row| row.through < self.begins) {
            return Err(before_the_layout(row, self.begins));
        }
        self.meet().await?;
        Ok(row)
    }

    async fn count_failed(&mut self) -> Result<(), Failure> {
        self.failed.count(self.lane_id, &self.backlog).await
    }

    async fn claim(&mut self, read: Option<PositionRow>) -> Result<(), ApplyError> {
        if read.is_none() {
            self.postgres.ensure_schema().await?;
        }
        let mut writer = self.take_writer().ok_or_else(gone)?;
        let claimed = writer.claim(read, Sequence::ZERO).await;
        self.writer = Some(writer);
        claimed
    }

    fn reaches(&self) -> Arc<Reaches> {
        Arc::clone(self.collections.now().reaches())
    }

    async fn refresh(&mut self) -> Result<(), Failure> {
        self.collections.refresh().await.map(drop)
    }

    async fn apply(&mut self, work: Work<'_>) -> Result<Written, ApplyError> {
        let collections = self.collections.now();
        self.stands_alone(&collections)?;
        if matches!(work.what, What::Generation(generation) if !Arc::ptr_eq(&generation.reaches, collections.reaches())) {
            return Err(ApplyError::Catalog);
        }
        let (generation, (given_up, why), failed): (_, (&[Accepted], _), _) = match work.what {
            What::Generation(generation) => (Some(generation), (&[], None), Vec::new()),
            What::Failed(saves, why) => (None, (saves, Some(why)), saves.iter().map(|save| failed_save(save, why, &collections)).collect()),
        };
        let closes = generation.map_or_else(|| FailedSaves::closes_given_up(given_up), |generation| self.failed.closes(generation));
        let Work { after, through, .. } = work;
        let statement_rows = work.statement_rows;
        let log = self.log.clone();
        let aside = LaneAside {
            log: &log,
            after,
            through,
            collections: &collections,
            room: self.failed_saves.max().saturating_sub(self.failed_saves.used()),
        };
        let work = postgres::Work {
            collections: &collections,
            after,
            through,
            generation,
            failed: &failed,
            closes: &closes,
            statement_rows,
            aside: work.careful.then_some(&aside),
        };
        // Never over a new connection: the position row is read first.
        let mut writer = self.take_writer().ok_or_else(gone)?;
        let began = Instant::now();
        let applied = writer.apply(&work).await;
        self.writer = Some(writer);
        self.observer.transaction_ended(self.lane_id, &applied, began.elapsed());
        if let Ok(written) = &applied {
            let condemned =
                given_up.iter().zip(std::iter::repeat(why)).filter_map(|(accepted, why)| Some((accepted.clone(), why?.clone())));
            let failed: Vec<_> = condemned.chain(written.failed.iter().cloned()).collect();
            self.failed.settled(&failed, &written.closed, &self.backlog);
            written.superseded.iter().for_each(|(&collection, saves)| self.superseded.note(self.lane_id, collection, saves));
            self.observer.settled(generation, &failed, written);
            let longest = written.statement_times.iter().max().map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            self.statement_target.saw(longest);
        }
        applied
    }

    fn is_connected(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::is_usable)
    }

    fn disconnect(&mut self) {
        self.writer = None;
    }

    async fn lost(&mut self) {
        while self.is_connected() {
            tokio::time::sleep(LOST_CHECK).await;
        }
    }
}

fn gone() -> Failure {
    Failure::local(Action::Reconnect, "the connection is gone")
}

pub(super) fn failed_save(accepted: &Accepted, why: &Failure, collections: &Collections) -> FailedSave {
    let save = &accepted.save;
    let (kind, body) = match &save.change {
        Change::Set(body) => (SaveKind::Set, Some(body)),
        Change::Append(body) => (SaveKind::Append, Some(body)),
        Change::Delete => (SaveKind::Delete, None),
    };
    let added = body.map(Body::members).unwrap_or_default().into_iter().take(save.adds.len()).map(|member| member.name.into_owned());
    FailedSave {
        sequence: accepted.sequence,
        collection: collections.get(save.collection).name.to_string(),
        key: save.key.parts().map(str::to_owned).collect(),
        kind,
        body: body.map(|body| body.as_str().to_owned()),
        added: added.collect(),
        sqlstate: why.sqlstate.as_deref().map(str::to_owned),
        constraint: why.constraint.as_deref().map(str::to_owned),
        message: why.message.to_string(),
        detail: why.detail.as_deref().map(str::to_owned),
        accepted_at: save.accepted_at,
    }
}
