//! What the system calls say: every acknowledgement comes after an fdatasync of the journal that covers it, and there is
//! one fdatasync a group.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    Database, Setup, directory,
    saves::{request, set},
    strace,
};

const SCHEMA: &str = "create table players (id bigint primary key, name text)";

/// Every fdatasync returns so much later: an acknowledgement that didn't wait for it would come sooner.
const SYNC_DELAY: Duration = Duration::from_millis(40);

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_waits_for_the_sync_of_its_group() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let trace = journal.path().join("trace");
    let setup = Setup::new(&journal.path().join("journal"), &database.url());
    let daemon = strace::with_slow_syncs(&setup, SYNC_DELAY, &trace).await;
    let mut client = daemon.client().await;
    let before = segment_syncs(&trace);
    let saves = 25;
    for n in 0..saves {
        let start = Instant::now();
        client.save(request(set("players", &[&n.to_string()], json!({"name": "x"})))).await.expect("accepted");
        assert!(start.elapsed() >= SYNC_DELAY, "acknowledged {:?} after the call, before the sync returned", start.elapsed());
    }
    let alone = segment_syncs(&trace) - before;
    assert_eq!(alone, saves, "saves one after the other are groups of one, with one fdatasync each");
    let calls: Vec<_> = (0..200_u32)
        .map(|n| {
            let mut client = client.clone();
            tokio::spawn(async move { client.save(request(set("players", &[&n.to_string()], json!({"name": "y"})))).await })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("accepted");
    }
    let together = segment_syncs(&trace) - before - alone;
    assert!((1..=20).contains(&together), "200 saves at once took {together} syncs");
    daemon.stop().await;
}

/// Finished fdatasyncs of a segment's log, as far as the trace says.
fn segment_syncs(trace: &Path) -> usize {
    let text = fs::read_to_string(trace).expect("strace writes the trace");
    text.lines().filter(|line| line.contains("fdatasync(") && line.contains("/segments/") && line.contains("/db>")).count()
}
