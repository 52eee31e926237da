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

#[test]
fn whatever_fails_an_idle_lane_moves_up_and_loses_nothing() {
    for seed in 0..150 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        fastrand::seed(seed);
        runtime.block_on(story(seed));
    }
}

async fn story(seed: u64) {
    let world = World::new(seed);
    let mut chance = world.chance();
    let mut hint = Sequence::ZERO;
    for _ in 0..3 {
        let life = start(&world, hint);
        world.lock().trouble = chance.u32(0..50);
        for _ in 0..40 {
            match chance.u8(..10) {
                0 => world.go_back(),
                1 => world.go_away(Duration::from_secs(chance.u64(..20))),
                2..5 => drop(pass(&world, &life, chance.u64(..16 << 20))),
                5..8 => sleep(Duration::from_secs(chance.u64(..15))).await,
                _ => drop(life.save(&world, world.batch())),
            }
        }
        life.task.abort();
        let _ = life.task.await;
        hint = world.hint();
    }
    world.make_peace();
    let life = start(&world, hint);
    life.handle.backlog().pass(world.last(), 1 << 30);
    moved_up(&world, world.last()).await;
    world.check_everything();
    let (_, limits) = life.stop(Duration::from_secs(1)).await;
    assert_eq!((limits.backlog_bytes.used(), limits.backlog_objects.used()), (0, 0), "seed {seed}");
}
