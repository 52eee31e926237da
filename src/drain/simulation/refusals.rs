//! What a lane does in front of saves that Postgres refuses though nothing is wrong with them, and after a rewind.

use super::*;
use crate::{postgres::Action, settings::OnRewind};

const DROPPED: (&str, Action) = ("42703", Action::Halt);
const ORPHANED: (&str, Action) = ("23503", Action::Halve);

fn settings() -> DrainSettings {
    Settings::default().drain
}

/// Three sound saves, three that name what is refused, three sound ones, all of one generation.
async fn mixed(world: &World, life: &Life, code: &str) {
    life.until(|state| *state == LaneState::Idle).await;
    life.handle.pause("a test", None);
    for n in 0..9 {
        let batch = if (3..6).contains(&n) { world.named(code) } else { world.batch_without_poison(1) };
        assert!(life.save(world, batch));
    }
    life.handle.resume(false);
}

async fn halted(life: &Life) -> super::super::Halt {
    let LaneState::Halted(halt) = life.until(|state| matches!(state, LaneState::Halted(_))).await else { unreachable!() };
    halt
}

#[tokio::test(start_paused = true)]
async fn a_lane_halts_in_front_of_the_save_that_the_tables_no_longer_fit() {
    let world = World::new(21);
    world.refuse(Some(DROPPED));
    let life = Life::start_under(&world, settings());
    mixed(&world, &life, "42703").await;
    let halt = halted(&life).await;
    assert_eq!((halt.collection.as_deref(), halt.sqlstate.as_deref()), (Some("log"), Some("42703")));
    assert_eq!(life.handle.status().counts.saves_persisted, 3, "what came before it is in Postgres");
    world.refuse(None);
    life.handle.flush(None).await.expect_err("it is halted until the next probe");
    life.until(|state| *state == LaneState::Idle).await;
    world.check_everything();
    assert_eq!(life.handle.status().counts.saves_failed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_person_may_make_failed_saves_of_what_stands_in_front() {
    let world = World::new(22);
    world.refuse(Some(DROPPED));
    let life = Life::start_under(&world, settings());
    mixed(&world, &life, "42703").await;
    halted(&life).await;
    let began = Instant::now();
    life.handle.resume(true);
    life.until(|state| *state == LaneState::Idle).await;
    assert!(began.elapsed() < Duration::from_secs(60), "those that follow for the same reason don't wait again");
    world.check_everything();
    let counts = life.handle.status().counts;
    assert_eq!((counts.saves_failed, counts.saves_persisted), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_front_for_too_long_fails_and_the_next_reason_waits_again() {
    let world = World::new(23);
    world.refuse(Some(DROPPED));
    let life = Life::start_under(&world, DrainSettings { halt_wait: Duration::from_secs(300), ..settings() });
    let began = Instant::now();
    mixed(&world, &life, "42703").await;
    halted(&life).await;
    life.until(|state| *state == LaneState::Idle).await;
    assert!((300..400).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(life.handle.status().counts.saves_failed, 3);
    // The collection was taken since: what is refused now is news.
    let again = Instant::now();
    assert!(life.save(&world, world.named("42703")));
    halted(&life).await;
    life.until(|state| *state == LaneState::Idle).await;
    assert!(again.elapsed() >= Duration::from_secs(300));
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn an_orphan_waits_for_its_parent_if_told_to() {
    let world = World::new(24);
    world.refuse(Some(ORPHANED));
    let life = Life::start_under(&world, DrainSettings { relational_retry: Duration::from_secs(60), ..settings() });
    assert!(life.save(&world, world.named("23503")));
    sleep(Duration::from_secs(30)).await;
    world.refuse(None);
    life.until(|state| *state == LaneState::Idle).await;
    assert_eq!(life.handle.status().counts.saves_failed, 0);
    world.refuse(Some(("42P99", Action::Halve)));
    let began = Instant::now();
    assert!(life.save(&world, world.named("42P99")));
    life.handle.flush(None).await.expect("flushed");
    assert!(began.elapsed() < Duration::from_secs(30), "other reasons don't wait");
    assert_eq!(life.handle.status().counts.saves_failed, 1);
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn an_orphan_whose_parent_never_comes_fails() {
    let world = World::new(25);
    world.refuse(Some(ORPHANED));
    let life = Life::start_under(&world, DrainSettings { relational_retry: Duration::from_secs(60), ..settings() });
    let began = Instant::now();
    assert!(life.save(&world, world.named("23503")));
    life.handle.flush(None).await.expect("flushed");
    assert!((60..90).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(life.handle.status().counts.saves_failed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_ends_every_session_is_found_and_fails_alone() {
    let world = World::new(27);
    world.refuse(Some(("XX000", Action::RetryThenHalve)));
    world.make_refusals_fatal();
    // No wait in which the loss is noticed by the way.
    let at_once = DrainSettings { retry_wait_min: Duration::ZERO, retry_wait_max: Duration::ZERO, ..settings() };
    let life = Life::start_under(&world, at_once);
    mixed(&world, &life, "XX000").await;
    timeout(Duration::from_secs(3_600), life.handle.flush(None)).await.expect("it is found").expect("flushed");
    let counts = life.handle.status().counts;
    assert_eq!((counts.saves_failed, counts.saves_persisted), (3, 6));
    world.refuse(Some(("55000", Action::RetryThenHalt)));
    assert!(life.save(&world, world.named("55000")));
    assert_eq!(halted(&life).await.sqlstate.as_deref(), Some("55000"));
    world.refuse(None);
    life.until(|state| *state == LaneState::Idle).await;
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn a_rewind_waits_for_a_person_if_told_to() {
    let world = World::new(26);
    let life = Life::start_under(&world, DrainSettings { on_rewind: OnRewind::Halt, ..settings() });
    for _ in 0..5 {
        assert!(life.save(&world, world.batch_without_poison(1)));
        life.handle.flush(None).await.expect("flushed");
    }
    let before = world.row_through();
    world.go_back();
    let back = world.row_through();
    assert!(back < before);
    let halt = halted(&life).await;
    assert!(halt.reason.contains("went back in time"), "{halt:?}");
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(world.row_through(), back, "nothing is written before somebody agrees");
    life.handle.probe();
    life.handle.accept_gap();
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(world.row_through(), back, "a raised limit is no agreement");
    life.handle.resume(false);
    life.until(|state| *state == LaneState::Idle).await;
    world.check_everything();
    // Once is once: another rewind, to the same place, is asked for anew. (A state of before the first may be as new as this one.)
    while world.row_through() >= before {
        world.go_back();
    }
    halted(&life).await;
}

/// Saves of several segments are drained, Postgres loses some of them, and the lane halts; retention is long over.
async fn lost_and_halted(world: &World, drain: DrainSettings, lose: impl FnOnce()) -> Life {
    world.lock().retention = (Duration::from_secs(600), 1_000);
    let life = Life::start_under(world, drain);
    for _ in 0..8 {
        assert!(life.save(world, world.batch_without_poison(2)));
        life.handle.flush(None).await.expect("flushed");
    }
    lose();
    halted(&life).await;
    for _ in 0..8 {
        sleep(Duration::from_secs(601)).await;
        assert!(world.tend());
    }
    life
}

#[tokio::test(start_paused = true)]
async fn what_postgres_lost_stays_in_the_journal_while_a_person_is_asked() {
    let world = World::new(28);
    let life = lost_and_halted(&world, DrainSettings { on_rewind: OnRewind::Halt, ..settings() }, || world.go_back()).await;
    life.handle.resume(false);
    life.until(|state| *state == LaneState::Idle).await;
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn all_of_it_stays_while_the_position_row_is_missing() {
    let world = World::new(29);
    let lose = || {
        world.put_row(None);
        world.lock().server.disconnect_all();
    };
    let life = lost_and_halted(&world, settings(), lose).await;
    assert!(matches!(&*life.handle.state().borrow(), LaneState::Halted(halt) if halt.reason.contains("is missing")));
    assert!(!world.has_trimmed());
}
