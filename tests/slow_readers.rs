//! A client that sends saves and doesn't read its acknowledgements: it is held back, others are served, and nothing of it is
//! lost.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use forebay::proto::{
    FlushRequest, GetStatusRequest, SaveStreamRequest, SaveStreamResponse, save_service_client::SaveServiceClient,
    save_stream_response::Event,
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use crate::support::{
    Daemon, Database, Setup, directory, eventually,
    saves::{request, set},
};

const SCHEMA: &str = "create table players (id bigint primary key, name text)";
/// What the client wants to send: far more than may be on its way, in number and in bytes.
const SAVES: u64 = 40_000;
const SAVE_BYTES: usize = 3_000;
const OBJECTS: u64 = 500;
/// What a client takes unread, in acknowledgements.
const UNREAD_BYTES: u32 = 64 << 10;
/// What may be taken at most: the client's window holds some 2,500 acknowledgements with their tickets, and 4,096 saves
/// may be unacknowledged.
const TAKEN_MAX: u64 = SAVES / 4;

/// A stream whose answers nobody reads.
struct Unread {
    sent: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    answers: Streaming<SaveStreamResponse>,
}

impl Unread {
    /// Opens it and lets it send until it is held back.
    async fn open(daemon: &Daemon) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", daemon.grpc().await)).expect("an address");
        let endpoint = endpoint.initial_stream_window_size(UNREAD_BYTES);
        let mut client = SaveServiceClient::new(endpoint.connect().await.expect("the daemon listens"));
        let (tell, requests) = mpsc::channel(1);
        let answers = client.save_stream(ReceiverStream::new(requests)).await.expect("it opens").into_inner();
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let sender = tokio::spawn(async move {
            let filler = "x".repeat(SAVE_BYTES);
            for offset in 0..SAVES {
                let saves = vec![set("players", &[&(offset % OBJECTS).to_string()], json!({"name": filler}))];
                let message = SaveStreamRequest { offset, saves, want_tickets: offset == 0, ..SaveStreamRequest::default() };
                if tell.send(message).await.is_err() {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let unread = Self { sent, sender, answers };
        unread.is_held_back(daemon).await;
        unread
    }

    /// Until others have many saves acknowledged, and it none taken.
    async fn is_held_back(&self, daemon: &Daemon) {
        let other = daemon.client().await;
        eventually("the client that doesn't read is held back", || {
            let (mut other, before) = (other.clone(), self.sent.load(Ordering::Relaxed));
            async move {
                for n in 0..200_u32 {
                    other.save(request(set("players", &["-1"], json!({"name": n.to_string()})))).await.expect("others are served");
                }
                (before > 0 && self.sent.load(Ordering::Relaxed) == before).then_some(())
            }
        })
        .await;
        let sent = self.sent.load(Ordering::Relaxed);
        assert!(sent < TAKEN_MAX, "{sent} of {SAVES} saves were taken, whose acknowledgements nobody reads");
    }

    /// The acknowledgements up to the last, and their tickets.
    async fn read_on(&mut self) -> usize {
        let (mut through, mut tickets) = (None, 0);
        while through != Some(SAVES - 1) {
            let answer = self.answers.message().await.expect("it goes on").expect("it goes on");
            let Some(Event::Acknowledged(acknowledged)) = answer.event else { panic!("not acknowledged: {answer:?}") };
            assert!(through < Some(acknowledged.through), "{through:?} before {}", acknowledged.through);
            through = Some(acknowledged.through);
            tickets += acknowledged.tickets.len();
        }
        tickets
    }
}

/// What is taken of a limit.
async fn used(daemon: &Daemon, limit: &str) -> u64 {
    let status = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("a status").into_inner();
    let limits = status.status.expect("a status").limits;
    limits.into_iter().find(|one| one.name == limit).unwrap_or_else(|| panic!("there is no limit {limit}")).used
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_held_back_and_gets_every_acknowledgement_when_it_does() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut unread = Unread::open(&daemon).await;
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
    for limit in ["journal.inbox_bytes_max", "backlog.bytes_max"] {
        assert_eq!(used(&daemon, limit).await, 0, "what is held back holds no {limit}");
    }
    assert_eq!(unread.read_on().await, usize::try_from(SAVES).expect("it fits"), "one ticket a save");
    unread.sender.await.expect("everything was sent");
    assert!(unread.answers.message().await.expect("it ends well").is_none());
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players where id >= 0").await, OBJECTS);
    assert_eq!(daemon.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_does_not_hold_up_a_stop() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).expect_in_log("calls were still open at the end of the stop and are cut");
    let daemon = setup.start().await;
    let unread = Unread::open(&daemon).await;
    let ended = daemon.stop().await;
    assert_eq!(ended.code, Some(0), "{:#?}", ended.log);
    assert_eq!(ended.last()["saves_left"], 0, "what was accepted of it is drained");
    unread.sender.abort();
}
