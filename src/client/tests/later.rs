//! The queue of saves that nobody waits for.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tracing::{Level, Metadata, span};

use super::*;

async fn queue(fake: &Fake, options: LaterOptions) -> SaveLater {
    client(fake.address).await.save_later(options)
}

fn accepted(fake: &Fake) -> usize {
    fake.state().accepted.len()
}

async fn sent(fake: &Fake, saves: usize) {
    while accepted(fake) < saves {
        tokio::task::yield_now().await;
    }
}

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_is_put_in_is_saved_in_order_when_it_is_closed() {
    let fake = Fake::start().await;
    let later = queue(&fake, LaterOptions::default()).await;
    for n in 1..=1_000 {
        later.send(player(n)).await.expect("taken");
    }
    assert!(later.close(SOON).await.is_empty());
    assert_eq!(fake.state().accepted, (1..=1_000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_queue_gives_the_save_back_or_waits() {
    let fake = Fake::start().await;
    fake.state().answer_saves_max = Some(0);
    let later = queue(&fake, LaterOptions::default().durability(Durability::Persisted).queue_max(2, 1 << 20)).await;
    later.try_send(player(1)).expect("room");
    later.send(player(2)).await.expect("room");
    let full = later.try_send(player(3)).expect_err("full");
    assert!(matches!(full.error, Error::Busy(_)), "{full}");
    assert_eq!((full.offset, full.save), (None, player(3)));
    assert!(tokio::time::timeout(100 * MS, later.send(player(3))).await.is_err(), "it waits");
    assert_eq!(later.waiting(), 2);
    sent(&fake, 2).await;
    let back = later.close(100 * MS).await;
    assert!(back.iter().all(|back| matches!(back.error, Error::OutcomeUnknown(_))), "{back:?}");
    assert_eq!(back.into_iter().map(|back| back.save).collect::<Vec<_>>(), [player(1), player(2)]);
}

#[tokio::test]
async fn what_no_message_can_hold_is_given_back() {
    let fake = Fake::start().await;
    let client = Client::builder(fake.address.to_string()).message_bytes_max(1_000).connect().await.expect("the fake listens");
    let later = client.save_later(LaterOptions::default());
    let large = Save::set("players", ["1"], vec![b' '; 2_000]);
    for error in [later.send(large.clone()).await.expect_err("too large"), later.try_send(large.clone()).expect_err("too large")] {
        assert!(matches!(error.error, Error::Refused(_)), "{error}");
        assert_eq!(error.save, large);
    }
}

#[tokio::test]
async fn refused_and_failed_saves_are_told_apart_and_given_back() {
    let fake = Fake::start().await;
    fake.state().refused_keys = vec!["2".to_owned()];
    fake.state().failing_keys = vec!["3".to_owned()];
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let options = LaterOptions::default().durability(Durability::Persisted).callback("orders");
    for options in [options.clone(), options.on_not_saved(move |not_saved| listener.lock().expect("no holder panics").push(not_saved))] {
        let later = queue(&fake, options).await;
        for n in 1..=4 {
            later.send(player(n)).await.expect("taken");
        }
        let mut not_saved = later.close(SOON).await;
        not_saved.append(&mut told.lock().expect("no holder panics"));
        assert_eq!(not_saved.iter().map(|one| one.save.key()[0].as_str()).collect::<Vec<_>>(), ["2", "3"]);
        assert!(matches!(not_saved[0].error, Error::Refused(_)), "{}", not_saved[0]);
        assert!(matches!(&not_saved[1].error, Error::Failed(failed) if failed.ticket.as_str() == "ticket-3"), "{}", not_saved[1]);
    }
    let opened = fake.state().stream_opened.clone();
    assert_eq!((opened.durability(), opened.callback.as_str()), (crate::proto::Durability::Persisted, "orders"));
}

#[tokio::test]
async fn a_queue_rides_out_a_restart() {
    let fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    let later = client(wire.address).await.save_later(LaterOptions::default());
    later.send(player(1)).await.expect("taken");
    sent(&fake, 1).await;
    let fake = fake.restart_behind(&wire).await;
    later.send(player(2)).await.expect("taken, whoever listens");
    assert!(later.close(SOON).await.is_empty());
    assert_eq!(fake.state().accepted, ["1", "2"]);
}

#[tokio::test]
async fn a_queue_whose_daemon_stays_away_ends_and_gives_everything_back() {
    let fake = Fake::start().await;
    let retry = RetryPolicy { total_max: 200 * MS, ..RetryPolicy::default() };
    let client = Client::builder(fake.address.to_string()).retry(retry).connect().await.expect("the fake listens");
    fake.state().errors = VecDeque::from_iter((0..100).map(|_| error(Code::Unavailable, "STARTING", None)));
    let later = client.save_later(LaterOptions::default().queue_max(1, 1 << 20));
    later.send(player(1)).await.expect("taken");
    let ended = later.send(player(2)).await.expect_err("it has waited for room until the queue ended");
    assert!(matches!(ended.error, Error::Unavailable(_)), "{ended}");
    let back = later.close(SOON).await;
    assert!(matches!(back[..], [NotSaved { error: Error::Unavailable(_), .. }]), "never sent: {back:?}");
    assert_eq!(back[0].save, player(1));
}

#[tokio::test]
async fn refusals_that_nobody_takes_end_the_queue_and_are_not_lost() {
    let fake = Fake::start().await;
    fake.state().refused_keys = (1..=5_000).map(|n| n.to_string()).collect();
    let later = queue(&fake, LaterOptions::default()).await;
    let mut refused = 0;
    for n in 1..=5_000 {
        refused += usize::from(later.send(player(n)).await.is_err());
    }
    assert_eq!(later.close(SOON).await.len() + refused, 5_000);
}

#[tokio::test]
async fn a_listener_that_panics_ends_the_queue() {
    let fake = Fake::start().await;
    fake.state().refused_keys = vec!["1".to_owned()];
    let later = queue(&fake, LaterOptions::default().queue_max(1, 1 << 20).on_not_saved(|_| panic!("as told"))).await;
    later.send(player(1)).await.expect("taken");
    let ended = later.send(player(2)).await.expect_err("the queue has ended");
    assert!(matches!(ended.error, Error::Unavailable(_)), "{ended}");
}

/// Counts warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Relaxed);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_queue_dropped_with_something_in_it_is_loud() {
    let fake = Fake::start().await;
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let later = queue(&fake, LaterOptions::default()).await;
    later.send(player(1)).await.expect("taken");
    assert!(later.close(SOON).await.is_empty());
    drop(queue(&fake, LaterOptions::default()).await);
    assert_eq!(warnings.0.load(Relaxed), 0, "nothing was lost");
    fake.state().answer_saves_max = Some(0);
    let later = queue(&fake, LaterOptions::default()).await;
    later.send(player(1)).await.expect("taken");
    drop(later);
    assert_eq!(warnings.0.load(Relaxed), 1);
}
