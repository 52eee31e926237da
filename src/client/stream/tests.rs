use std::collections::VecDeque;

use tonic::Code;

use super::*;
use crate::client::{
    RetryPolicy,
    fake::{Fake, Wire, error},
};

const MS: Duration = Duration::from_millis(1);

async fn client(address: std::net::SocketAddr) -> Client {
    Client::connect(address.to_string()).await.expect("the fake listens")
}

fn numbered(n: u64) -> Save {
    Save::set("t", [n.to_string()], "{}")
}

fn keys(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn saves_arrive_once_and_in_order() {
    let fake = Fake::start().await;
    let stream = client(fake.address).await.save_stream();
    for n in 1..=10_000 {
        assert_eq!(stream.send(numbered(n)).await.expect("room"), n);
    }
    stream.acknowledged(10_000).await.expect("acknowledged");
    assert_eq!(stream.acknowledged_through(), 10_000);
    let finished = stream.finish().await.expect("finished");
    assert_eq!((finished.through, finished.not_saved.len()), (10_000, 0));
    assert_eq!(fake.state().accepted, keys(1..=10_000));
}

#[tokio::test]
async fn a_stream_of_nothing_finishes() {
    let fake = Fake::start().await;
    let finished = client(fake.address).await.save_stream().finish().await.expect("finished");
    assert_eq!(finished.through, 0);
}

#[tokio::test]
async fn the_window_holds_the_sender_back() {
    let fake = Fake::start().await;
    fake.state().answer_saves_max = Some(0);
    let options = StreamOptions { unacknowledged_max: 10, ..StreamOptions::default() };
    let stream = client(fake.address).await.save_stream_with(options);
    for n in 1..=10 {
        stream.send(numbered(n)).await.expect("room");
    }
    let eleventh = timeout_of(stream.send(numbered(11))).await;
    assert!(eleventh.is_none(), "no answer, no room");
}

/// What comes within a tenth of a second.
async fn timeout_of<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(100), future).await.ok()
}

#[tokio::test]
async fn refused_saves_are_reported_by_offset_and_the_others_go_on() {
    let fake = Fake::start().await;
    fake.state().refused_keys = keys([3, 4]);
    let stream = client(fake.address).await.save_stream();
    let mut tracked = None;
    for n in 1..=5 {
        match n {
            4 => tracked = Some(stream.send_tracked(numbered(n)).await.expect("room")),
            _ => drop(stream.send(numbered(n)).await.expect("room")),
        }
    }
    let answer = tracked.expect("the fourth").wait().await;
    assert!(matches!(answer, Err(Error::Refused(_))));
    let finished = stream.finish().await.expect("finished");
    assert_eq!(finished.not_saved.iter().map(|refused| refused.offset).collect::<Vec<_>>(), [Some(3)]);
    assert_eq!(fake.state().accepted, keys([1, 2, 5]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_lose_and_double_nothing() {
    let fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    let stream = client(wire.address).await.save_stream();
    for n in 1..=30_000 {
        stream.send(numbered(n)).await.expect("room");
        if n % 3_000 == 0 {
            wire.cut();
        }
    }
    stream.finish().await.expect("finished");
    assert_eq!(fake.state().accepted, keys(1..=30_000));
    assert!(fake.state().stream_calls >= 5, "{} calls", fake.state().stream_calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_lose_and_double_nothing() {
    let mut fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    let client = client(wire.address).await;
    let sender = tokio::spawn(async move {
        let stream = client.save_stream();
        for n in 1..=20_000 {
            stream.send(numbered(n)).await.expect("room");
        }
        stream.finish().await.expect("finished")
    });
    for part in 1..=5 {
        while fake.state().accepted.len() < part * 3_000 {
            tokio::task::yield_now().await;
        }
        fake = fake.restart_behind(&wire).await;
    }
    assert_eq!(sender.await.expect("no panic").through, 20_000);
    assert_eq!(fake.state().accepted, keys(1..=20_000));
}

#[tokio::test]
async fn a_refusal_whose_answer_was_lost_is_told_after_the_resume() {
    let fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    fake.state().refused_keys = keys([2]);
    fake.state().answer_saves_max = Some(0);
    let stream = client(wire.address).await.save_stream();
    for n in 1..=3 {
        stream.send(numbered(n)).await.expect("room");
    }
    while fake.state().accepted.len() < 2 {
        tokio::task::yield_now().await;
    }
    fake.state().answer_saves_max = None;
    wire.cut();
    let finished = stream.finish().await.expect("finished");
    assert_eq!(finished.not_saved.iter().map(|refused| refused.offset).collect::<Vec<_>>(), [Some(2)]);
    assert_eq!(fake.state().accepted, keys([1, 3]));
}

/// An accepted save is answered only when it is persisted: so it is sent again, and recognised.
#[tokio::test]
async fn a_failure_whose_answer_was_lost_is_told_after_the_resume() {
    let fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    fake.state().failing_keys = keys([2]);
    fake.state().answer_saves_max = Some(0);
    let options = StreamOptions { durability: Durability::Persisted, ..StreamOptions::default() };
    let stream = client(wire.address).await.save_stream_with(options);
    for n in 1..=3 {
        stream.send(numbered(n)).await.expect("room");
    }
    while fake.state().accepted.len() < 3 {
        tokio::task::yield_now().await;
    }
    fake.state().answer_saves_max = None;
    wire.cut();
    let finished = stream.finish().await.expect("finished");
    let [NotSaved { offset: Some(2), error: Error::Failed(failed), .. }] = &finished.not_saved[..] else { panic!("{finished:?}") };
    assert_eq!(failed.ticket.as_str(), "ticket-2");
    assert_eq!(fake.state().accepted, keys(1..=3));
}

#[tokio::test]
async fn an_idle_stream_outlives_more_restarts_than_its_patience() {
    let mut fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    let retry = RetryPolicy { total_max: 500 * MS, ..RetryPolicy::default() };
    let client = Client::builder(wire.address.to_string()).retry(retry).connect().await.expect("the fake listens");
    let stream = client.save_stream();
    for opened in 1..=4 {
        while fake.state().stream_calls < opened {
            tokio::task::yield_now().await;
        }
        // Longer in all than the policy tries.
        tokio::time::sleep(200 * MS).await;
        fake = fake.restart_behind(&wire).await;
    }
    stream.send(numbered(1)).await.expect("it has not ended");
    stream.finish().await.expect("finished");
}

#[tokio::test]
async fn a_forgotten_stream_sends_sets_again() {
    let fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    fake.state().answer_saves_max = Some(2);
    let stream = client(wire.address).await.save_stream();
    for n in 1..=2 {
        stream.send_tracked(numbered(n)).await.expect("room").wait().await.expect("accepted");
    }
    stream.send(numbered(3)).await.expect("room");
    while fake.state().accepted.len() < 3 {
        tokio::task::yield_now().await;
    }
    fake.state().streams.clear();
    fake.state().answer_saves_max = None;
    wire.cut();
    stream.finish().await.expect("finished");
    assert_eq!(fake.state().accepted, keys([1, 2, 3, 3]));
}

#[tokio::test]
async fn a_forgotten_stream_does_not_count_an_append_twice() {
    let fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    fake.state().answer_saves_max = Some(0);
    let stream = client(wire.address).await.save_stream();
    let waiting = stream.send_tracked(Save::append("log", "{}")).await.expect("room");
    while fake.state().accepted.is_empty() {
        tokio::task::yield_now().await;
    }
    fake.state().streams.clear();
    wire.cut();
    assert!(matches!(waiting.wait().await, Err(Error::OutcomeUnknown(_))));
    assert!(stream.send(numbered(2)).await.is_err());
    assert!(matches!(stream.finish().await, Err(Error::OutcomeUnknown(_))));
    assert_eq!(fake.state().accepted.len(), 1);
}

#[tokio::test]
async fn a_daemon_that_stays_away_ends_the_stream_in_time() {
    let fake = Fake::start().await;
    let retry = RetryPolicy { total_max: Duration::from_millis(200), ..RetryPolicy::default() };
    let client = Client::builder(fake.address.to_string()).retry(retry).connect().await.expect("the fake listens");
    fake.state().errors = VecDeque::from_iter((0..100).map(|_| error(Code::Unavailable, "STARTING", None)));
    let stream = client.save_stream();
    let waiting = stream.send_tracked(numbered(1)).await.expect("room");
    assert!(matches!(waiting.wait().await, Err(Error::OutcomeUnknown(_))));
    assert!(matches!(stream.send(numbered(2)).await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_stream_taken_over_is_not_taken_back() {
    let fake = Fake::start().await;
    fake.state().errors = VecDeque::from([error(Code::Aborted, "STREAM_TAKEN_OVER", None)]);
    let stream = client(fake.address).await.save_stream();
    assert!(stream.finish().await.is_err());
    assert_eq!(fake.state().stream_calls, 1);
}
