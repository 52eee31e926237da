//! Watching outcomes over whatever ends the call.

use super::*;
use crate::{
    client::fake::error_with,
    proto::{self, WatchOutcomesResponse, watch_outcomes_response::Event},
};

fn event(event: Event) -> Result<WatchOutcomesResponse, Status> {
    Ok(WatchOutcomesResponse { event: Some(event) })
}

fn watermark(token: &str) -> Result<WatchOutcomesResponse, Status> {
    event(Event::Watermark(proto::Watermark { resume_token: token.to_owned() }))
}

fn failed(ticket: &str) -> Result<WatchOutcomesResponse, Status> {
    let failure = Some(proto::Failure { sqlstate: "23503".to_owned(), ..Default::default() });
    let (ticket, collection, key) = (ticket.to_owned(), "players".to_owned(), vec!["1".to_owned()]);
    event(Event::Failed(proto::FailedOutcome { ticket, collection, key, failure }))
}

fn mark(token: &str) -> Outcome {
    Outcome::Watermark(Watermark::from(token.to_owned()))
}

#[tokio::test]
async fn a_watch_tells_what_becomes_final_and_goes_on_after_a_break() {
    let fake = Fake::start().await;
    let superseded = proto::SupersededOutcome { ticket: "03".to_owned(), collection: "players".to_owned() };
    let script = vec![
        watermark("02"),
        failed("02"),
        Ok(WatchOutcomesResponse::default()),
        event(Event::Superseded(superseded)),
        watermark("05"),
        Err(error(Code::Unavailable, "STOPPING", None)),
    ];
    fake.state().watches = VecDeque::from([script, vec![watermark("07")]]);
    let mut watch = client(fake.address).await.watch(&["players"], Some(Watermark::from("01".to_owned())));
    assert_eq!(watch.next().await.expect("told"), mark("02"));
    let Outcome::Failed { ticket, key, failure, .. } = watch.next().await.expect("told") else { panic!("it failed") };
    assert_eq!((ticket.as_str(), key, failure.sqlstate.as_str()), ("02", vec!["1".to_owned()], "23503"));
    let superseded = Outcome::Superseded { ticket: Ticket::from("03".to_owned()), collection: "players".to_owned() };
    assert_eq!(watch.next().await.expect("told"), superseded);
    assert_eq!(watch.next().await.expect("told"), mark("05"));
    assert_eq!(watch.next().await.expect("told"), mark("07"));
    assert_eq!(fake.state().resumed_from, ["01", "05"]);
    assert!(watch.watermark().covers(&ticket) && !watch.watermark().covers(&Ticket::from("07".to_owned())));
}

#[tokio::test]
async fn a_watch_that_was_too_slow_goes_on_where_the_daemon_says() {
    let fake = Fake::start().await;
    let slow = error_with(Code::ResourceExhausted, "WATCHER_TOO_SLOW", &[("resume_token", "04")]);
    fake.state().watches = VecDeque::from([vec![watermark("02"), Err(slow)], vec![watermark("06")]]);
    let mut watch = client(fake.address).await.watch(&[], None);
    assert_eq!(watch.next().await.expect("told"), mark("02"));
    assert_eq!(watch.next().await.expect("told"), mark("06"));
    assert_eq!(fake.state().resumed_from, ["", "04"]);
}

#[tokio::test]
async fn a_postgres_that_went_back_in_time_is_told() {
    let fake = Fake::start().await;
    let rewound = error_with(Code::Aborted, "POSTGRES_REWOUND", &[("resume_token", "01")]);
    fake.state().watches = VecDeque::from([vec![watermark("05"), Err(rewound)], vec![watermark("01")]]);
    let outcomes = client(fake.address).await.watch(&[], None).into_stream();
    let outcomes: Vec<_> = outcomes.take(3).map(|outcome| outcome.expect("told")).collect().await;
    assert_eq!(outcomes, [mark("05"), Outcome::Rewound(Watermark::from("01".to_owned())), mark("01")]);
    assert_eq!(fake.state().resumed_from, ["", "01"]);
}

#[tokio::test]
async fn a_watch_gives_up_in_time_and_can_be_taken_up_again() {
    let fake = Fake::start().await;
    fake.state().watches = VecDeque::from([vec![Err(error(Code::NotFound, "INVALID_REQUEST", None))], vec![watermark("02")]]);
    let retry = RetryPolicy { total_max: 200 * MS, ..RetryPolicy::default() };
    let client = Client::builder(fake.address.to_string()).retry(retry).connect().await.expect("the fake listens");
    let mut watch = client.watch(&["plyers"], None);
    assert!(matches!(watch.next().await, Err(Error::Refused(_))), "there is no such collection");
    fake.state().errors = VecDeque::from_iter((0..100).map(|_| error(Code::Unavailable, "STARTING", None)));
    assert!(matches!(watch.next().await, Err(Error::Unavailable(_))));
    fake.state().errors.clear();
    assert_eq!(watch.next().await.expect("told"), mark("02"));
}
