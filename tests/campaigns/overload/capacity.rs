//! An open loop: saves come ten times as fast as they are written, whatever becomes of those before.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use forebay::proto::save_service_client::SaveServiceClient;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};
use tonic::transport::Channel;

use crate::{
    campaigns::campaign::Counts,
    support::{
        Database, HANG,
        saves::{batch, set},
    },
};

use super::{ATTACKERS, honest::comes_back_after, run::Run};

/// What the load saves to, each object once.
pub(super) const SCHEMA: &str = "create table surplus (id bigint primary key, filler text)";

/// So many rows are written in a second, and the backlog has room for as many.
pub(super) const LIMITS: [(&str, &str); 3] =
    [("drain.rows_per_second_max", "1000"), ("backlog.objects_max", "1000"), ("grpc.calls_in_flight_max", "8")];

/// A call comes so often, and has so many saves in the mean: 10,000 in a second.
const TICK: Duration = Duration::from_millis(10);
const SAVES: u64 = 100;
/// In one strike.
const TICKS: u64 = 100;

pub(super) const OFFERED: &str = "saves offered";
const ACCEPTED: &str = "saves offered and accepted";

/// What was offered and accepted.
#[derive(Debug, Default)]
struct Tally {
    offered: AtomicU64,
    accepted: AtomicU64,
}

/// A second of it, again and again until honest clients were served meanwhile. What is refused says so, and when to come back.
pub(super) async fn offer_ten_times(run: &mut Run) -> u64 {
    let mut clients = Vec::new();
    for _ in 0..ATTACKERS {
        clients.push(run.daemon().client().await);
    }
    let tally = Tally { offered: run.counts.get(OFFERED).copied().unwrap_or(0).into(), accepted: 0.into() };
    let offered = run.while_serving(|| offer(&clients, &tally)).await;
    *run.counts.entry(ACCEPTED).or_default() += tally.accepted.into_inner();
    offered
}

async fn offer(clients: &[SaveServiceClient<Channel>], tally: &Tally) -> u64 {
    let (mut calls, mut ticks, mut offered) = (JoinSet::new(), interval(TICK), 0);
    for (n, client) in (0..TICKS).zip(clients.iter().cycle()) {
        ticks.tick().await;
        let count = SAVES / 2 + n % SAVES;
        let first = tally.offered.fetch_add(count, Ordering::Relaxed);
        offered += count;
        let mut client = client.clone();
        let saves = (first..first + count).map(|id| set("surplus", &[&id.to_string()], json!({"filler": "x".repeat(50)})));
        let saves = batch(saves.collect());
        calls.spawn(async move { timeout(HANG, client.save_batch(saves)).await.expect("it is answered").map(|_| count) });
    }
    while let Some(answer) = calls.join_next().await {
        match answer.expect("it is answered") {
            Ok(count) => drop(tally.accepted.fetch_add(count, Ordering::Relaxed)),
            Err(status) => drop(comes_back_after(&status)),
        }
    }
    offered
}

/// What was accepted is there, and what was refused isn't.
pub(super) async fn judge(counts: &Counts, database: &Database) {
    let (offered, accepted) = (counts[OFFERED], counts[ACCEPTED]);
    assert_eq!(database.number("select count(*) from surplus").await, accepted, "of {offered} saves");
    assert!(accepted < offered, "nothing was shed: this was no overload");
}
