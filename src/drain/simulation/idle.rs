//! A lane beside others that have saves when it has none: its position moves up, whatever fails.

use std::time::Duration;

use tokio::time::sleep;

use super::{Life, World};
use crate::{
    drain::LaneState,
    limits::{Limit, LimitKind, Limits},
    save::Sequence,
};

fn start(world: &World, hint: Sequence) -> Life {
    let limits = Limits { journal_bytes: Limit::new(LimitKind::Amount, "journal.bytes_max", 1 << 30), ..super::limits() };
    let life = Life::start_with(world, Duration::ZERO, hint, limits, false);
    life.handle.backlog().pass(world.last(), 0);
    life
}

/// Another lane is given a save: this one's backlog only hears of it, as the journal's thread tells it.
fn pass(world: &World, life: &Life, bytes: u64) -> Sequence {
    let last = world.number_for_another_lane();
    life.handle.backlog().pass(last, bytes);
    last
}

async fn moved_up(world: &World, to: Sequence) {
    // Trouble waits up to ten seconds between tries, a halted lane up to thirty.
    for _ in 0..600 {
        if world.row_through() == Some(to) {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
    panic!("the row says {:?}, never {to}", world.row_through());
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_moves_up_now_and_then_and_at_once_when_much_has_passed() {
    let world = World::new(31);
    let life = start(&world, Sequence::ZERO);
    assert!(life.save(&world, world.batch_without_poison(1)));
    let own = life.handle.flush(None).await.expect("flushed");
    let mut last = own;
    for _ in 0..9 {
        last = pass(&world, &life, 100);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.row_through(), Some(own), "not for every save of another lane");
    }
    assert_eq!(*life.handle.state().borrow(), LaneState::Idle, "it waits for nothing");
    moved_up(&world, last).await;
    let transactions = life.handle.status().counts.transactions;
    assert_eq!(transactions, 2, "one save, one move");
    sleep(Duration::from_secs(1_000)).await;
    assert_eq!(life.handle.status().counts.transactions, transactions, "without saves of others it stays");
    let last = pass(&world, &life, 1 << 30);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.row_through(), Some(last), "what is kept for it counts to a limit");
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.handle.flush(None).await.expect("flushed");
    assert_eq!(life.handle.status().counts.rebuilds, 0, "its next generation begins where it moved to");
    world.check_everything();
    assert_eq!(life.stop(Duration::from_secs(1)).await.1.backlog_bytes.used(), 0);
}
