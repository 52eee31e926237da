//! Reads beside everything else: what is pending, laid over the row that was read with its position, is what executing every save
//! since makes of that row.

use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{World, truth::executed_over};
use crate::{
    backlog::model::{LOG, Model, ROWS},
    drain::{BacklogReader, LaneBacklog, LogError, PendingError},
    save::{Key, LaneId, Sequence},
};

/// Reads until it is told to end.
pub(super) struct Reading(JoinHandle<()>);

impl Reading {
    pub(super) fn begin(world: &World, lane: LaneId, backlog: &LaneBacklog) -> Self {
        let (world, backlog) = (world.clone(), backlog.clone());
        Self(tokio::spawn(async move {
            let reader = BacklogReader::new(backlog.clone(), world.log(lane));
            let read = || read(&world, lane, &reader);
            loop {
                tokio::join!(read(), read(), read());
                load(&world, lane, &backlog).await;
            }
        }))
    }

    pub(super) async fn end(self) {
        self.0.abort();
        let ended = self.0.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "reads don't panic");
    }
}

fn keys() -> Vec<Key> {
    (0..8_u8).map(|key| Key::from_parts([key.to_string().as_str()])).collect()
}

async fn a_while(world: &World) {
    let wait = world.lock().chance.u64(0..400);
    sleep(Duration::from_millis(wait)).await;
}

/// One statement: rows and position of one moment.
fn statement(world: &World, lane: LaneId) -> (Model, Sequence) {
    let tables = world.tables(lane);
    (tables.rows.clone(), tables.row.map(|row| row.through).unwrap_or_default())
}

async fn read(world: &World, lane: LaneId, reader: &BacklogReader<impl crate::drain::Log>) {
    let (pin, acknowledged) = (reader.pin(), world.acknowledged(lane));
    a_while(world).await;
    let (rows, position) = statement(world, lane);
    a_while(world).await;
    let pending = match reader.pending(&pin, ROWS, &keys(), position).await {
        Ok(pending) => pending,
        Err(PendingError::Journal(LogError::Forgotten { .. })) => return,
        Err(error) => panic!("{error}"),
    };
    if world.gives_up_after(lane, position) {
        return;
    }
    assert!(pending.through >= acknowledged, "older than what was acknowledged before");
    let expected = executed_over(rows.clone(), &world.pending(lane, position, pending.through));
    for (key, folds) in keys().iter().zip(&pending.folds) {
        let mut row = Model {
            rows: rows.rows.get_key_value(key).map(|(key, row)| (key.clone(), row.clone())).into_iter().collect(),
            log: Vec::new(),
        };
        folds.iter().for_each(|fold| row.lay(key, fold));
        assert_eq!(row.rows.get(key), expected.rows.get(key), "{key:?} at {position}, through {}: {folds:?}", pending.through);
    }
}

/// Every object that waits comes, unless it is in Postgres meanwhile.
async fn load(world: &World, lane: LaneId, backlog: &LaneBacklog) {
    let mut cursor = backlog.cut();
    let through = backlog.through();
    let mut come = Vec::new();
    loop {
        let chunk_max = world.lock().chance.usize(1..4);
        // A lane that ended while it folded has let go of what it held.
        let keys = timeout(Duration::from_secs(3_600), backlog.next_keys(&mut cursor, ROWS, chunk_max)).await.expect("no wait is long");
        if keys.is_empty() {
            break;
        }
        come.extend(keys);
        a_while(world).await;
    }
    assert!(backlog.next_keys(&mut cursor, LOG, 1).await.is_empty(), "it has ended");
    let (_, after) = statement(world, lane);
    if after < cursor.settled() {
        return;
    }
    for accepted in world.pending(lane, after, through).iter().filter(|accepted| accepted.save.collection == ROWS) {
        assert!(come.contains(&accepted.save.key), "{} waits and has not come", accepted.sequence);
    }
}
