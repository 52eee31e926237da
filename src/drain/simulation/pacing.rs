//! Statements come to their target whatever a row costs, and no window has more rows than the rate allows.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{End, LaneState, Life, World, limits};
use crate::{limits::Limits, save::Sequence, settings::Settings};

/// A lane that takes whatever comes, into generations as large as they may be.
fn start(world: &World) -> Life {
    let limits: Limits = limits();
    limits.all().for_each(|limit| limit.set_max(u64::MAX));
    limits.rows_per_second.set_max(0);
    limits.statement_target.set_max(50);
    Life::start_as(world, Duration::ZERO, Sequence::ZERO, limits, world.start(false), Settings::default().drain)
}

/// Saves of so many rows, sealed together.
async fn save(world: &World, life: &Life, rows: usize) {
    life.handle.pause("a test", None);
    life.handle.paused().await;
    for _ in 0..rows {
        assert!(life.save(world, world.batch_without_poison(1)));
    }
    life.handle.resume(false);
}

/// Writes so many rows that take so long each; the sizes of the statements.
async fn write(world: &World, life: &Life, rows: usize, row_time: Duration) -> Vec<u64> {
    let before = world.lock().server.transactions.len();
    world.lock().server.row_time = row_time;
    save(world, life, rows).await;
    life.handle.flush(None).await.expect("flushed");
    world.lock().server.transactions[before..].iter().flat_map(|(_, statements)| statements.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn statements_come_to_the_target_and_stay_whatever_a_row_costs() {
    let world = World::new(41);
    let life = start(&world);
    let micros = Duration::from_micros;
    let first = write(&world, &life, 2_900, micros(100)).await;
    assert_eq!(first, [1_000, 500, 500, 500, 400]);
    let slower = write(&world, &life, 2_000, micros(400)).await;
    assert_eq!(slower[..3], [500, 250, 125], "at once, but never by more than half");
    assert!(slower[2..slower.len() - 1].iter().all(|&rows| rows == 125), "{slower:?}");
    let faster = write(&world, &life, 10_000, micros(50)).await;
    assert!(faster.windows(2).all(|pair| pair[1] <= pair[0] + pair[0] / 8 + 1), "slowly: {faster:?}");
    let settled = &faster[faster.len() - 4..faster.len() - 1];
    assert!(settled.iter().all(|&rows| rows == settled[0] && (750..=1_000).contains(&rows)), "{faster:?}");
    assert_eq!(life.handle.status().statement_rows, settled[0]);
    life.limits.statement_target.set_max(10);
    life.handle.probe();
    let shorter = write(&world, &life, 2_000, micros(50)).await;
    assert_eq!(shorter.iter().rev().nth(1), Some(&200), "another target counts at once: {shorter:?}");
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn little_to_write_leaves_the_size_as_it_is() {
    let world = World::new(42);
    let life = start(&world);
    for _ in 0..20 {
        write(&world, &life, 3, Duration::from_micros(1)).await;
    }
    assert_eq!(life.handle.status().statement_rows, 1_000);
}

fn rows(transactions: &[(Instant, Vec<u64>)]) -> Vec<(Instant, u64)> {
    transactions.iter().map(|(began, statements)| (*began, statements.iter().sum())).collect()
}

/// In any time no more than the rate allows, with what may be saved up, and one transaction; the way to the server takes up to 20 ms.
fn check_rate(begun: &[(Instant, u64)], rate: u64) {
    for (first, &(from, _)) in begun.iter().enumerate() {
        let mut sum = 0;
        for &(to, rows) in &begun[first..] {
            sum += rows;
            let allowed = rate as f64 * ((to - from).as_secs_f64() + 0.2 + 0.02) + rate as f64;
            assert!(sum as f64 <= allowed + 0.1, "{sum} rows within {:?}", to - from);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_never_exceeded_and_a_large_generation_is_cut_to_it() {
    let world = World::new(43);
    let life = start(&world);
    life.limits.rows_per_second.set_max(200);
    save(&world, &life, 1_500).await;
    life.until(|state| matches!(state, LaneState::Waiting { for_rate: true, .. })).await;
    let began = Instant::now();
    life.handle.flush(None).await.expect("a flush waits under it");
    let begun = rows(&world.lock().server.transactions);
    check_rate(&begun, 200);
    assert!(begun.iter().all(|&(_, rows)| rows <= 200), "{begun:?}");
    assert!((Duration::from_secs(6)..Duration::from_secs(8)).contains(&began.elapsed()), "it is used: {:?}", began.elapsed());
    world.check_everything();
    assert_eq!(life.limits.backlog_objects.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rate_set_while_a_generation_is_tried_again_counts_for_it_and_none_lifts_it() {
    let world = World::new(44);
    let life = start(&world);
    world.lock_tables(Duration::from_secs(5));
    save(&world, &life, 1_000).await;
    life.until(|state| matches!(state, LaneState::Retrying { .. })).await;
    life.limits.rows_per_second.set_max(100);
    life.handle.probe();
    life.until(|state| matches!(state, LaneState::Waiting { for_rate: true, .. })).await;
    sleep(Duration::from_secs(3)).await;
    let begun = rows(&world.lock().server.transactions);
    assert!(begun.len() > 1 && begun.iter().all(|&(_, rows)| rows <= 100), "{begun:?}");
    check_rate(&begun, 100);
    life.limits.rows_per_second.set_max(0);
    life.handle.probe();
    let began = Instant::now();
    life.handle.flush(None).await.expect("flushed");
    assert!(began.elapsed() < Duration::from_secs(1), "the rest goes at once");
    let left = 1_000 - begun.iter().map(|(_, rows)| rows).sum::<u64>();
    assert_eq!(rows(&world.lock().server.transactions).last().map(|&(_, rows)| rows), Some(left));
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn a_stop_drains_at_the_rate_until_its_deadline_and_waits_for_none_beyond() {
    let world = World::new(45);
    let life = start(&world);
    life.limits.rows_per_second.set_max(10);
    save(&world, &life, 1_000).await;
    life.until(|state| matches!(state, LaneState::Waiting { for_rate: true, .. })).await;
    let began = Instant::now();
    assert_eq!(life.stop(Duration::from_secs(5)).await.0, End::Stopped);
    assert!(began.elapsed() <= Duration::from_secs(5));
    check_rate(&rows(&world.lock().server.transactions), 10);

    let world = World::new(46);
    let life = start(&world);
    life.limits.rows_per_second.set_max(1);
    assert!(life.save(&world, world.batch_without_poison(1)));
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| matches!(state, LaneState::Waiting { for_rate: true, .. })).await;
    let began = Instant::now();
    assert_eq!(life.stop(Duration::from_millis(100)).await.0, End::Stopped);
    assert_eq!(began.elapsed(), Duration::ZERO, "the next row comes after the deadline");
}
