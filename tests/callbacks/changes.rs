//! What is to be told is told, once, although the lanes change or Postgres goes back in time.

use std::collections::BTreeSet;

use forebay::proto::{GetStatusRequest, PauseRequest};
use serde_json::json;

use super::{flush, player, save, setup, shop_is, states};
use crate::support::{
    Backup, Daemon, Database, directory, eventually,
    lanes::goes_on,
    receiver::{Conduct, Receiver},
    saves::{request, set},
};

async fn lanes(daemon: &Daemon) -> Vec<String> {
    let status = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("a status").into_inner();
    status.status.expect("a status").lanes.into_iter().map(|lane| lane.name).collect()
}

async fn pause(daemon: &Daemon, lane: &str) {
    let pause = PauseRequest { lane: lane.to_owned(), reason: "a test".to_owned(), ..PauseRequest::default() };
    daemon.admin().await.pause(pause).await.expect("paused");
}

/// A lane that has written everything, and can't ask what became of it, when the lanes are to change.
#[tokio::test(flavor = "multi_thread")]
async fn lanes_change_once_every_callback_is_noted_and_none_is_told_again() {
    let (database, journal) = (Database::with(super::SCHEMA).await, directory());
    let mut receiver = Receiver::start(Conduct::Answer(200)).await;
    let setup = setup(journal.path(), &database, &receiver).expect_in_log("the lanes stay as they were");
    let daemon = setup.clone().set("lanes.second.collections", "events").start().await;
    pause(&daemon, "second").await;
    let mut expected = save(&daemon, vec![set("events", &[], json!({"what": "x"})), player(1, "good")]).await;
    receiver.told_of(1).await;
    pause(&daemon, "default").await;
    expected.extend(save(&daemon, vec![player(2, "good")]).await);
    receiver.die().await;
    daemon.kill().await;

    let (holder, mut asked) = (database.client().await, database.client().await);
    holder.batch_execute("begin; lock table events, players in share mode").await.expect("locked");
    // The other lanes have noted more: a mark of theirs says nothing of this one's saves.
    let setup = setup.set("lanes.third.collections", "events");
    let daemon = setup.spawn();
    let waiting = "select count(*) from pg_locks where not granted and relation in ('events'::regclass, 'players'::regclass)";
    eventually("the old lanes write", || async { (database.number(waiting).await == 2).then_some(()) }).await;
    let lock = asked.transaction().await.expect("a transaction");
    lock.batch_execute("lock table forebay.failed_save").await.expect("locked");
    holder.batch_execute("rollback").await.expect("released");
    let said = daemon.logged("the lanes stay as they were: a start that finds them drained changes them").await;
    // A lane that had to connect again counts its rows first, which are locked for it too: then it isn't drained either.
    let why = said["why"].to_string();
    assert!(why.contains("callbacks are still to be noted") || why.contains("drained"), "{said}");
    assert_eq!(lanes(&daemon).await, ["default", "second"]);
    assert_eq!(database.number("select count(*) from events").await, 1, "everything is written");
    lock.rollback().await.expect("unlocked");
    receiver.revive().await;
    receiver.told_of(3).await;
    daemon.stop().await;

    let daemon = setup.start().await;
    assert_eq!(lanes(&daemon).await, ["default", "third"]);
    // Reads the whole journal again.
    daemon.kill().await;
    let daemon = setup.start().await;
    expected.extend(save(&daemon, vec![player(3, "good")]).await);
    let told = states(&receiver.told_of(4).await);
    assert_eq!(told, expected.into_iter().map(|ticket| (ticket, "PERSISTED".to_owned())).collect());
    daemon.stop().await;
    assert_eq!(receiver.got().len(), 4, "each once");
}

/// Its failures wait for room when the lanes change; then the endpoint works.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_on_although_their_collection_has_another_lane() {
    let (database, journal) = (Database::with(super::SCHEMA).await, directory());
    let receiver = Receiver::start(Conduct::Answer(500)).await;
    let setup = setup(journal.path(), &database, &receiver)
        .set("callbacks.pending_max", "2")
        .set("collections.events.on_failed", "shop")
        .set("collections.players.on_failed", "shop");
    let daemon = setup.clone().set("lanes.second.collections", "events").start().await;
    let mut client = daemon.client().await;
    for save in (0..3).map(|_| set("events", &[], json!({"what": "bad"}))) {
        client.save(request(save)).await.expect("accepted");
    }
    flush(&daemon).await;
    shop_is(&daemon, "there is room for one", |shop| shop.pending == 1).await;
    daemon.stop().await;
    let setup = setup.set("lanes.third.collections", "events");
    let daemon = setup.start().await;
    assert_eq!(lanes(&daemon).await, ["default", "third"]);
    receiver.conduct(Conduct::Answer(200));
    receiver.told_of(3).await;
    shop_is(&daemon, "nothing is pending", |shop| shop.pending == 0).await;
    daemon.stop().await;
    let (told, daemon) = (receiver.got().len(), setup.start().await);
    daemon.client().await.save(request(player(1, "bad"))).await.expect("accepted");
    receiver.told_of(4).await;
    daemon.stop().await;
    assert_eq!(receiver.got().len(), told + 1, "each once");
}

/// There is no room to tell anything while Postgres goes back and what it lost is written again.
#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_fails_only_after_postgres_went_back_is_told() {
    let (mut database, journal) = (Database::alone(super::SCHEMA).await, directory());
    let receiver = Receiver::start(Conduct::Answer(500)).await;
    let setup = setup(journal.path(), &database, &receiver)
        .set("callbacks.pending_max", "2")
        .set("collections.players.on_failed", "shop")
        .expect_in_log("postgres");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    client.save(request(player(0, "first"))).await.expect("accepted");
    flush(&daemon).await;
    let backup = Backup::of(&database);
    for (id, name) in [(1, "good"), (2, "bad")] {
        client.save(request(player(id, name))).await.expect("accepted");
        flush(&daemon).await;
    }
    shop_is(&daemon, "no room is left", |shop| shop.pending == 1).await;
    pause(&daemon, "default").await;
    database.stop_postgres();
    let restored = backup.restore_in_place_of(&database);
    restored.execute("alter table players add constraint no_good check (name <> 'good')").await;
    goes_on(&daemon).await;
    daemon.logged("postgres went back in time: what it lost is written again from the journal").await;
    receiver.conduct(Conduct::Answer(200));
    let told = receiver.told_of(2).await;
    let keys: BTreeSet<_> = told.values().filter_map(|message| message["data"]["key"][0].as_str()).collect();
    assert_eq!(keys, BTreeSet::from(["1", "2"]));
    daemon.stop().await;
}
