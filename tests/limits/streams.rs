//! Limits on save streams: how many there are, how many are remembered, and how a stream behaves at a limit.

use forebay::proto::{
    SaveStreamRequest, SaveStreamResponse, StreamRefused, save_service_client::SaveServiceClient, save_stream_response::Event,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::*;
use crate::support::HANG;

/// An open save stream.
pub(super) struct Talk {
    tell: mpsc::Sender<SaveStreamRequest>,
    answers: Streaming<SaveStreamResponse>,
}

impl Talk {
    pub(super) async fn begin(mut client: SaveServiceClient<Channel>, first: SaveStreamRequest) -> Result<Self, Status> {
        let (tell, requests) = mpsc::channel(64);
        tell.send(first).await.expect("there is room");
        let answers = client.save_stream(ReceiverStream::new(requests)).await?.into_inner();
        Ok(Self { tell, answers })
    }

    pub(super) async fn send(&self, request: SaveStreamRequest) {
        self.tell.send(request).await.expect("the stream is open");
    }

    async fn event(&mut self) -> Result<Event, Status> {
        let answer = tokio::time::timeout(HANG, self.answers.message()).await.expect("there is an answer")?;
        Ok(answer.expect("the stream goes on").event.expect("an answer tells something"))
    }

    /// Waits until everything up to this offset is acknowledged.
    pub(super) async fn acknowledged(&mut self, through: u64) {
        loop {
            match self.event().await.expect("the stream goes on") {
                Event::Acknowledged(told) if told.through == through => return,
                Event::Acknowledged(told) => assert!(told.through < through, "{told:?}"),
                other => panic!("expected an acknowledgement, not {other:?}"),
            }
        }
    }
}

/// One message with saves of these numbers, which are their offsets too.
pub(super) fn saves(numbers: std::ops::RangeInclusive<u64>) -> SaveStreamRequest {
    SaveStreamRequest { offset: *numbers.start(), saves: numbers.map(|n| save(n, 10)).collect(), ..SaveStreamRequest::default() }
}

fn named(n: u128) -> SaveStreamRequest {
    SaveStreamRequest { stream_id: uuid::Uuid::from_u128(n).to_string(), ..saves(1..=1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn save_streams_are_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("grpc.save_streams_max", "2").start().await;
    let client = daemon.client().await;
    let (mut one, other) =
        (Talk::begin(client.clone(), saves(1..=1)).await.expect("open"), Talk::begin(client.clone(), saves(2..=2)).await.expect("open"));
    one.acknowledged(1).await;
    let refused = Talk::begin(client.clone(), saves(3..=3)).await.err().expect("refused");
    refused_by(&refused, "grpc.save_streams_max");
    client.clone().save(request(save(4, 10))).await.expect("single saves have room of their own");
    drop(other);
    used(&daemon, "grpc.save_streams_max", 1).await;
    Talk::begin(client, saves(3..=3)).await.expect("there is room again").acknowledged(3).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn remembered_streams_are_limited_by_what_the_journal_keeps() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("request_ids.count_max", "2").set("journal.retention", "0 ms");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    pause(&daemon).await;
    for n in 1..=2 {
        let mut talk = Talk::begin(client.clone(), named(n)).await.expect("open");
        assert!(matches!(talk.event().await, Ok(Event::Opened(_))));
        talk.acknowledged(1).await;
    }
    let mut third = Talk::begin(client.clone(), named(3)).await.expect("open");
    refused_by(&third.event().await.expect_err("refused"), "request_ids.count_max");
    assert_eq!(shown(&daemon, "request_ids.count_max").await.used, 2);
    Talk::begin(client.clone(), named(1)).await.expect("open").event().await.expect("who is remembered comes back");
    Talk::begin(client.clone(), saves(1..=1)).await.expect("open").acknowledged(1).await;
    resume(&daemon).await;
    eventually("the journal gives up what it kept of a stream", || async {
        Talk::begin(client.clone(), named(3)).await.expect("open").event().await.ok()
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_of_a_stream_is_taken_than_may_be_unacknowledged() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("grpc.stream_unacknowledged_max", "4").start().await;
    let mut talk = Talk::begin(daemon.client().await, saves(1..=100)).await.expect("open");
    talk.acknowledged(100).await;
    assert_eq!(shown(&daemon, "grpc.stream_unacknowledged_max").await.used, 4);
    let group = shown(&daemon, "journal.group_saves_max").await.used;
    assert!(group <= 4, "{group} saves of the stream were in the journal at once");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_finds_no_room_is_refused_save_by_save_and_goes_on() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("backlog.objects_max", "10").set("grpc.batch_saves_max", "10");
    let daemon = setup.start().await;
    pause(&daemon).await;
    let mut talk = Talk::begin(daemon.client().await, saves(1..=10)).await.expect("open");
    talk.acknowledged(10).await;
    talk.send(saves(11..=13)).await;
    for offset in 11..=13 {
        let Event::Refused(refused) = talk.event().await.expect("the stream goes on") else { panic!("it is refused") };
        assert_eq!(refused.offset, offset);
        refused_by_limit(&refused, "backlog.objects_max");
    }
    resume(&daemon).await;
    used(&daemon, "backlog.objects_max", 0).await;
    talk.send(saves(21..=25)).await;
    talk.acknowledged(25).await;
    daemon.stop().await;
}

/// A refusal inside of a stream carries what the status of a call would.
fn refused_by_limit(refused: &StreamRefused, limit: &str) {
    assert_eq!(Code::from(refused.code), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message.contains(limit) && refused.message.contains("try again later, or raise it"), "{refused:?}");
    let info = refused.details.iter().find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo")).expect("ErrorInfo");
    let info = tonic_types::pb::ErrorInfo::decode(&*info.value).expect("ErrorInfo");
    assert_eq!(info.metadata.get("limit").map(String::as_str), Some(limit), "{info:?}");
}
