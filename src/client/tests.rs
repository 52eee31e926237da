use std::{
    collections::{BTreeSet, VecDeque},
    time::SystemTime,
};

use tokio_stream::StreamExt;
use tonic::Code;

use super::{
    fake::{Fake, Wire, error},
    *,
};

mod later;
mod reads;
mod tickets;
mod watches;

const MS: Duration = Duration::from_millis(1);

async fn client(address: std::net::SocketAddr) -> Client {
    Client::connect(address.to_string()).await.expect("the fake listens")
}

fn player(n: u32) -> Save {
    Save::set("players", [n.to_string()], r#"{"name":"Ann"}"#)
}

#[tokio::test]
async fn every_call_has_a_deadline_and_returns_its_tickets() {
    let fake = Fake::start().await;
    let client = client(fake.address).await;
    assert_eq!(client.save(player(1)).await.expect("accepted").as_str(), "ticket-1");
    let tickets = client.save_batch([player(2), player(3)], true).await.expect("accepted");
    assert_eq!(tickets.iter().map(Ticket::as_str).collect::<Vec<_>>(), ["ticket-2", "ticket-3"]);
    assert_eq!(client.flush(&["players"], 500 * MS).await.expect("flushed"), 7);
    assert_eq!(fake.state().deadlines, [true; 3]);
}

#[tokio::test]
async fn limits_and_a_starting_daemon_are_tried_again_with_pushback() {
    let fake = Fake::start().await;
    let mut pushed_back = error(Code::ResourceExhausted, "LIMIT_REACHED", None);
    pushed_back.metadata_mut().insert("grpc-retry-pushback-ms", "150".parse().expect("ascii"));
    let told = error(Code::ResourceExhausted, "LIMIT_REACHED", Some(150 * MS));
    fake.state().errors = VecDeque::from([error(Code::Unavailable, "STARTING", None), pushed_back, told]);
    let start = std::time::Instant::now();
    client(fake.address).await.save(player(1)).await.expect("accepted in the end");
    assert!(start.elapsed() >= 300 * MS, "both pushbacks are waited for");
    assert_eq!(fake.state().unary_calls, 4);
}

#[tokio::test]
async fn refusals_and_unknown_outcomes_are_not_tried_again() {
    let fake = Fake::start().await;
    let client = client(fake.address).await;
    fake.state().errors = VecDeque::from([error(Code::InvalidArgument, "INVALID_SAVE", None)]);
    assert!(matches!(client.save(player(1)).await, Err(Error::Refused(_))));
    fake.state().errors = VecDeque::from([error(Code::Internal, "OUTCOME_UNKNOWN", None)]);
    assert!(matches!(client.save(player(1)).await, Err(Error::OutcomeUnknown(_))));
    assert_eq!(fake.state().unary_calls, 2);
}

#[tokio::test]
async fn unknown_outcomes_are_repeated_on_demand() {
    let fake = Fake::start().await;
    fake.state().errors = VecDeque::from([error(Code::Internal, "OUTCOME_UNKNOWN", None)]);
    let retry = RetryPolicy { repeat_unknown: true, ..RetryPolicy::default() };
    let client = Client::builder(fake.address.to_string()).retry(retry).connect().await.expect("the fake listens");
    client.save(player(1)).await.expect("accepted the second time");
}

#[tokio::test]
async fn a_save_with_a_request_id_is_repeated_until_its_outcome_is_known() {
    let fake = Fake::start().await;
    fake.state().errors.extend([Status::internal("lost"), Status::internal("lost")]);
    let client = client(fake.address).await;
    let once = |id: &str| SaveOptions { request_id: id.to_owned(), ..SaveOptions::default() };
    client.save_with(player(1), once("id")).await.expect("the third attempt");
    fake.state().errors.push_back(Status::internal("lost"));
    client.save_batch_with([player(2)], once("other")).await.expect("the second attempt");
    assert_eq!(fake.state().request_ids, ["id", "id", "id", "other", "other"]);
}

#[tokio::test]
async fn a_call_gives_up_in_time_with_the_last_error() {
    let fake = Fake::start().await;
    fake.state().errors = (0..100).map(|_| error(Code::Unavailable, "STARTING", None)).collect();
    let retry = RetryPolicy { total_max: 300 * MS, ..RetryPolicy::default() };
    let client = Client::builder(fake.address.to_string()).retry(retry).connect().await.expect("the fake listens");
    let error = client.save(player(1)).await.expect_err("it never starts");
    assert!(matches!(&error, Error::Unavailable(answer) if answer.reason == "STARTING"), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_told_at_once_and_a_wrong_address_too() {
    let (address, _) = Fake::start().await.stop().await;
    assert!(matches!(Client::connect(address.to_string()).await, Err(Error::Unavailable(_))));
    assert!(matches!(Client::connect("not an address").await, Err(Error::Refused(_))));
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_before_it_is_sent() {
    let fake = Fake::start().await;
    let client = Client::builder(fake.address.to_string()).message_bytes_max(1_000).connect().await.expect("the fake listens");
    let large = Save::set("players", ["1"], vec![b' '; 2_000]);
    assert!(matches!(client.save(large.clone()).await, Err(Error::Refused(_))));
    assert!(matches!(client.save_stream().send(large).await, Err(Error::Refused(_))));
    assert_eq!(fake.state().unary_calls, 0);
}

#[tokio::test]
async fn a_cut_connection_makes_the_outcome_unknown_and_the_next_call_connects_again() {
    let fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    let client = client(wire.address).await;
    fake.state().mute = true;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.save(player(1)).await }
    });
    while fake.state().accepted.is_empty() {
        tokio::task::yield_now().await;
    }
    wire.cut();
    assert!(matches!(call.await.expect("no panic"), Err(Error::OutcomeUnknown(_))));
    fake.state().mute = false;
    client.save(player(2)).await.expect("accepted on a new connection");
    assert_eq!(fake.state().accepted, ["1", "2"]);
}

/// 50 graceful restarts in a row, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_fail_no_call_and_double_no_save() {
    let mut fake = Fake::start_to_restart().await;
    let client = Client::builder(fake.address.to_string()).connections(2).connect().await.expect("the fake listens");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let (client, stopped) = (client.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut saved = Vec::new();
                for n in 0.. {
                    if *stopped.borrow() {
                        break;
                    }
                    let key = caller * 10_000_000 + n;
                    client.save(player(key)).await.unwrap_or_else(|error| panic!("save {key}: {error} {:?}", error.answer()));
                    saved.push(key.to_string());
                }
                saved
            })
        })
        .collect();
    for _ in 0..50 {
        let before = fake.state().accepted.len();
        // A connection that breaks before its handshake is over can't tell what became of its calls.
        while fake.state().accepted.len() < before + 50 || fake.state().peers.len() < 2 {
            tokio::task::yield_now().await;
        }
        let (address, state) = fake.stop().await;
        fake = Fake::start_on(address, state).await;
    }
    stop.send(true).expect("callers listen");
    let mut saved = Vec::new();
    for caller in callers {
        saved.extend(caller.await.expect("no call fails"));
    }
    let accepted = fake.state().accepted.clone();
    assert_eq!(accepted.len(), saved.len(), "none is accepted twice");
    assert_eq!(BTreeSet::from_iter(accepted), BTreeSet::from_iter(saved));
}
