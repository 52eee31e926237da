//! A client: draws saves to objects that are its own, notes them, sends them, and notes that they were acknowledged.

use std::{collections::HashMap, ops::Range, sync::Arc};

use fastrand::Rng;
use forebay::proto::{Save, SaveBatchRequest, save_service_client::SaveServiceClient};
use serde_json::json;
use tonic::{Status, transport::Channel};

use crate::support::saves::{batch, delete, request, set};

use super::{
    NOTES, TABLES,
    client_log::{Call, Change, ClientLog, Sent},
};

/// Rows per table and client: few, so that they are saved often.
const OBJECTS: u64 = 15;

/// What a client's calls look like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Half of the calls are batches of up to so many saves.
    pub(super) batch_max: usize,
    /// Bytes of a row's filler.
    pub(super) filler: Range<usize>,
    /// One line of so many is poisoned.
    pub(super) poison_every: u64,
}

/// Its calls follow each other, so that versions arrive in the order in which they were noted.
#[derive(Debug)]
pub(super) struct Client {
    number: usize,
    shape: Shape,
    random: Rng,
    log: Arc<ClientLog>,
    /// The last version of each object that was sent.
    versions: HashMap<String, u64>,
    sent: u64,
}

impl Client {
    pub(super) fn new(number: usize, shape: Shape, random: Rng, log: Arc<ClientLog>) -> Self {
        Self { number, shape, random, log, versions: HashMap::new(), sent: 0 }
    }

    /// The same client, which goes on with another log that begins with all that it has sent.
    pub(super) fn with_log(&self, log: Arc<ClientLog>) -> Self {
        let Self { number, shape, random, versions, sent, .. } = self;
        Self { number: *number, shape: shape.clone(), random: random.clone(), log, versions: versions.clone(), sent: *sent }
    }

    /// Calls until a call fails, as it does when the daemon ends.
    pub(super) async fn save_until_it_ends(mut self, mut daemon: SaveServiceClient<Channel>) -> Self {
        while self.call(&mut daemon).await.is_ok() {}
        self
    }

    /// One call.
    pub(super) async fn call(&mut self, daemon: &mut SaveServiceClient<Channel>) -> Result<(), Status> {
        let (call, mut saves) = self.draw();
        self.sent += saves.len() as u64;
        let number = self.log.sent(&call).await;
        match saves.len() {
            1 => drop(daemon.save(request(saves.remove(0))).await?),
            _ => drop(daemon.save_batch(SaveBatchRequest { atomic: call.atomic, ..batch(saves) }).await?),
        }
        self.log.acknowledged(number);
        Ok(())
    }

    /// How many saves it has sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    fn draw(&mut self) -> (Call, Vec<Save>) {
        let count = if self.random.bool() { 1 } else { self.random.usize(2..=self.shape.batch_max) };
        // Half of the batches are for one table, so that they may be atomic whatever the lanes.
        let table = self.random.bool().then(|| self.draw_table());
        let atomic = count > 1 && table.is_some() && self.random.bool();
        let drawn: Vec<_> = (0..count)
            .map(|_| {
                let table = table.unwrap_or_else(|| self.draw_table());
                self.draw_save(table, atomic)
            })
            .collect();
        let (saves, requests) = drawn.into_iter().unzip();
        (Call { saves, atomic, acknowledged: false }, requests)
    }

    fn draw_table(&mut self) -> &'static str {
        TABLES.get(self.random.usize(..=TABLES.len())).copied().unwrap_or(NOTES)
    }

    fn draw_save(&mut self, table: &str, atomic: bool) -> (Sent, Save) {
        let id = if table == NOTES { self.number.to_string() } else { format!("{}-{}", self.number, self.random.u64(..OBJECTS)) };
        let object = format!("{table}/{id}");
        let version = self.versions.entry(object.clone()).or_default();
        *version += 1;
        let version = *version;
        let change = match (table == NOTES, atomic) {
            // A poisoned line would take its batch along.
            (true, false) if self.random.u64(..self.shape.poison_every) == 0 => Change::Poison,
            (true, _) => Change::Line,
            (false, _) if self.random.u8(..10) == 0 => Change::Delete,
            (false, _) => Change::Set,
        };
        let text = format!("{object} {version} ");
        let filler = text.repeat(1 + self.random.usize(self.shape.filler.clone()) / text.len());
        let sent = Sent { client: self.number, checksum: checksum(&object, version, &filler), object, version, change };
        let save = match change {
            Change::Set => set(table, &[&id], json!({"version": version, "filler": filler, "checksum": sent.checksum})),
            Change::Delete => delete(table, &[&id]),
            Change::Line | Change::Poison => set(table, &[], json!({"line": line(&sent)})),
        };
        (sent, save)
    }
}

/// What a row's bytes have to add up to.
pub(super) fn checksum(object: &str, version: u64, filler: &str) -> u32 {
    crc32c::crc32c(format!("{object} {version} {filler}").as_bytes())
}

/// The line that a save adds.
pub(super) fn line(sent: &Sent) -> String {
    let kind = if sent.change == Change::Poison { "poison" } else { "line" };
    format!("{kind} {} of {}", sent.version, sent.client)
}
