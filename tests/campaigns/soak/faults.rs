//! What clients, operators, the clock and the machine do to a daemon.

use std::time::Duration;

use forebay::proto::{Durability, SaveRequest, SaveStreamRequest, WatchOutcomesRequest, save_service_client::SaveServiceClient};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    campaigns::{
        clock::{self, Clock},
        postgres::{road::Condition, run::Run},
    },
    support::{
        lanes,
        saves::{request, set},
    },
};

/// Of callers that don't wait for an answer, so that nobody knows what ought to be there.
pub(super) const SCHEMA: &str = "create table abandoned (id text primary key, number bigint not null)";
/// Its rows.
const OBJECTS: u64 = 100;

/// A fault that isn't one of Postgres.
#[derive(Clone, Copy, Debug)]
pub(super) enum Own {
    /// SIGKILL while clients save as fast as they can; then another start.
    Kill,
    /// SIGTERM in the same way.
    Stop,
    /// An operator lets nothing be written for a while.
    Pause,
    /// Clients save as fast as they can.
    Burst,
    /// Callers go away before they are answered.
    Abandon,
    /// The system's clock is set.
    Clock,
}

impl Own {
    /// Those that leave the daemon running.
    pub(super) const IN_A_LIFE: [Self; 4] = [Self::Pause, Self::Burst, Self::Abandon, Self::Clock];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::Stop => "stops",
            Self::Pause => "pauses",
            Self::Burst => "bursts",
            Self::Abandon => "crowds of callers that went away",
            Self::Clock => "steps of the clock",
        }
    }
}

pub(super) async fn strike(own: Own, run: &mut Run, clock: &Clock) {
    match own {
        Own::Kill | Own::Stop => end_a_life(own, run, clock).await,
        Own::Pause => {
            lanes::pause(run.daemon()).await;
            run.pass_time(200..2_000).await;
            lanes::resume(run.daemon()).await;
        }
        Own::Burst => {
            run.load.set_in_haste(true);
            run.pass_time(200..2_000).await;
            run.load.set_in_haste(false);
        }
        Own::Abandon => abandon(run).await,
        Own::Clock => clock.set_ahead(run.random.i64(-clock::DAY..=clock::DAY)),
    }
}

/// Often without Postgres, or while nothing is written to it. The next daemon starts as things are.
async fn end_a_life(how: Own, run: &mut Run, clock: &Clock) {
    let mut saving = JoinSet::new();
    for client in run.load.stop().await {
        saving.spawn(client.save_until_it_ends(run.daemon().client().await));
    }
    let trouble = run.random.u8(..5);
    match trouble {
        0 => run.database.stop_postgres(),
        1 => run.road().set_condition(Condition::Blocked),
        2 => lanes::pause(run.daemon()).await,
        _ => {}
    }
    run.pass_time(20..600).await;
    let daemon = run.ends();
    let (ended, code) = if matches!(how, Own::Kill) { (daemon.kill().await, None) } else { (daemon.stop().await, Some(0)) };
    run.home.keep_log(&ended);
    assert_eq!(ended.code, code, "{how:?}");
    let clients = saving.join_all().await;
    run.starts(clock.start(&run.setup)).await;
    match trouble {
        0 => run.database.start_postgres(),
        1 => run.road().set_condition(Condition::Clear),
        _ => {}
    }
    run.load_with(clients).await;
}

/// A crowd comes, asks, and is gone: some with their connections, some without.
async fn abandon(run: &mut Run) {
    let (shared, mut callers) = (run.daemon().channel().await, JoinSet::new());
    for number in 0..run.random.u64(10..100) {
        let channel = if run.random.bool() { shared.clone() } else { run.daemon().channel().await };
        callers.spawn(call(SaveServiceClient::new(channel), run.random.u8(..4), number));
    }
    run.pass_time(0..500).await;
    callers.abort_all();
    while let Some(ended) = callers.join_next().await {
        assert!(ended.is_err_and(|error| error.is_cancelled()), "nobody is told that there is no more to wait for");
    }
}

/// Asks for something that doesn't end before the caller does.
async fn call(mut client: SaveServiceClient<Channel>, what: u8, number: u64) {
    let save = set("abandoned", &[&(number % OBJECTS).to_string()], json!({"number": number}));
    match what {
        // Of these calls some are answered; the connection stays.
        0 => loop {
            let call = SaveRequest { durability: Durability::Persisted.into(), ..request(save.clone()) };
            drop(client.save(call).await);
            tokio::task::consume_budget().await;
        },
        1 => {
            // Ends with the caller: of a stream that goes on nobody tells the daemon that its answers are no longer wanted.
            let (tell, messages) = mpsc::channel(1);
            let _unread = client.save_stream(ReceiverStream::new(messages)).await;
            let mut message = SaveStreamRequest { saves: vec![save], ..SaveStreamRequest::default() };
            // Until the daemon has ended the stream.
            while tell.send(message.clone()).await.is_ok() {
                message.offset += 1;
            }
            std::future::pending().await
        }
        2 => {
            let _unread = client.watch_outcomes(WatchOutcomesRequest::default()).await;
            std::future::pending().await
        }
        _ => tokio::time::sleep(Duration::MAX).await,
    }
}
