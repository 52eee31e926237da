//! The daemon's core against a Postgres and a journal that fail in every way a seed can think of, under a paused clock.
//!
//! After every commit the tables must be what executing, one by one, the saves up to the position makes that have not
//! failed; and every save that is failed must violate a constraint at its place. So nothing is lost, doubled, reordered or
//! failed without need, whatever happened before. [`campaign`] is all of it at random; the tests here are one thing each.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{BacklogSummary, End, Lane, LaneBacklog, LaneHandle, LaneParts, LaneState, NotFlushed, Ownership, RowRate};
use crate::{
    limits::Limits,
    save::{Accepted, LaneId, Sequence},
    settings::{DrainSettings, Settings},
};

mod acts;
mod campaign;
mod death;
mod idle;
mod journal;
mod pacing;
mod reads;
mod refusals;
mod saves;
mod server;
mod truth;
mod world;

use world::World;

/// One start of the daemon, as far as a lane sees it.
struct Life {
    handle: LaneHandle,
    limits: Limits,
    task: JoinHandle<End>,
}

fn limits() -> Limits {
    let limits = Limits::new(&Settings::default());
    limits.backlog_bytes.set_max(20_000);
    limits.backlog_objects.set_max(60);
    limits
}

impl Life {
    /// Recovers what the journal holds beyond the hint, and starts the lane.
    fn start(world: &World, window: Duration, hint: Sequence) -> Self {
        Self::start_with(world, window, hint, limits(), false)
    }

    fn start_with(world: &World, window: Duration, hint: Sequence, limits: Limits, take_over: bool) -> Self {
        Self::start_set(world, window, hint, limits, take_over, Settings::default().drain)
    }

    /// With settings other than the default, and nothing recovered.
    fn start_under(world: &World, drain: DrainSettings) -> Self {
        Self::start_set(world, Duration::ZERO, Sequence::ZERO, limits(), false, drain)
    }

    fn start_set(world: &World, window: Duration, hint: Sequence, limits: Limits, take_over: bool, drain: DrainSettings) -> Self {
        let ownership = world.start(take_over);
        let generation_objects_max = world.chance().u64(2..12);
        Self::start_as(world, window, hint, limits, ownership, DrainSettings { generation_objects_max, ..drain })
    }

    fn start_as(world: &World, window: Duration, hint: Sequence, limits: Limits, ownership: Ownership, drain: DrainSettings) -> Self {
        let backlog = LaneBacklog::new(drain.generation_objects_max, hint, Arc::clone(&world.lock().reaches), &limits);
        backlog.recover(world.journal_after(hint));
        let row_rate = RowRate::new(Arc::clone(&limits.rows_per_second));
        let (handle, task) = lane(world, LaneId(0), window, (backlog, &limits, row_rate), ownership, drain);
        Self { handle, limits, task }
    }

    /// What admission, the journal and the offer closure do with one call's saves.
    fn save(&self, world: &World, batch: Vec<Accepted>) -> bool {
        let bytes = batch.iter().map(|accepted| accepted.save.bytes()).sum();
        let Ok(bytes) = self.limits.backlog_bytes.permit(bytes) else { return false };
        let Ok(objects) = self.limits.backlog_objects.permit(batch.len() as u64) else { return false };
        bytes.keep();
        objects.keep();
        world.append(&batch);
        self.handle.backlog().offer(batch);
        true
    }

    async fn stop(self, drain: Duration) -> (End, Limits) {
        self.handle.stop(Instant::now() + drain);
        (self.task.await.expect("a lane doesn't panic"), self.limits)
    }

    async fn until(&self, wanted: impl FnMut(&LaneState) -> bool) -> LaneState {
        let mut state = self.handle.state();
        let reached = timeout(Duration::from_secs(3600), state.wait_for(wanted)).await;
        reached.expect("within an hour").expect("the lane lives").clone()
    }
}

/// Starts a lane of the world.
fn lane(
    world: &World,
    id: LaneId,
    window: Duration,
    (backlog, limits, row_rate): (LaneBacklog, &Limits, RowRate),
    ownership: Ownership,
    drain: DrainSettings,
) -> (LaneHandle, JoinHandle<End>) {
    let noting = world.clone();
    let (lane, handle) = Lane::new(LaneParts {
        id,
        name: "default".into(),
        window,
        drain,
        target: world.target(id, ownership.owner, Arc::clone(&limits.failed_saves)),
        ownership,
        backlog,
        failed_saves: Arc::clone(&limits.failed_saves),
        statement_target: Arc::clone(&limits.statement_target),
        row_rate,
        log: world.log(id),
        settle: Box::new(move |lane, position| noting.note(lane, position)),
    });
    (handle, tokio::spawn(lane.run()))
}

#[tokio::test(start_paused = true)]
async fn a_poison_save_fails_alone_and_its_batch_as_a_whole() {
    let world = World::new(1);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    life.handle.pause("a test", None);
    for n in 0..40 {
        let batch = if n == 20 { world.batch_with_poison(3) } else { world.batch_without_poison(1) };
        assert!(life.save(&world, batch));
    }
    assert!(matches!(life.handle.flush(None).await, Err(NotFlushed::Paused(_))));
    life.handle.resume(false);
    life.handle.flush(None).await.expect("flushed");
    world.check_everything();
    let failed = life.handle.status().failed;
    assert_eq!(failed.len(), 3);
    assert!(failed.iter().all(|note| note.sqlstate.as_deref() == Some("23514")));
    assert_eq!((life.limits.failed_saves.used(), life.handle.status().counts.saves_failed), (3, 3));
    assert_eq!(life.handle.status().counts.saves_persisted, 39);
}

#[tokio::test(start_paused = true)]
async fn failed_saves_are_counted_once_when_their_commit_was_in_doubt() {
    let world = World::new(15);
    world.leave_commits_in_doubt();
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    assert!(life.save(&world, world.batch_with_poison(3)));
    life.handle.flush(None).await.expect("flushed");
    world.check_everything();
    assert_eq!((life.limits.failed_saves.used(), life.handle.status().counts.saves_failed), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_lane_halts_where_failed_saves_have_no_room_and_goes_on_when_they_have() {
    let world = World::new(2);
    let limits = limits();
    limits.failed_saves.set_max(2);
    let life = Life::start_with(&world, Duration::ZERO, Sequence::ZERO, limits, false);
    for _ in 0..3 {
        assert!(life.save(&world, world.batch_with_poison(1)));
    }
    let LaneState::Halted(halt) = life.until(|state| matches!(state, LaneState::Halted(_))).await else { unreachable!() };
    assert_eq!(halt.reason, "failed.saves_max is 2 and 2 are in use");
    assert!(matches!(life.handle.flush(None).await, Err(NotFlushed::Halted(_))));
    world.close_a_failed_save();
    life.until(|state| *state == LaneState::Idle).await;
    assert_eq!(life.handle.flush(None).await, Ok(world.last()));
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn a_lane_halts_at_a_broken_schema_and_goes_on_by_itself() {
    let world = World::new(3);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    world.break_schema(Duration::from_secs(100));
    assert!(life.save(&world, world.batch_without_poison(1)));
    let LaneState::Halted(halt) = life.until(|state| matches!(state, LaneState::Halted(_))).await else { unreachable!() };
    assert_eq!((halt.sqlstate.as_deref(), &*halt.remedy), (Some("42703"), "a remedy"));
    life.until(|state| *state == LaneState::Idle).await;
    assert!(world.catalog_was_read(), "the catalog is read before a probe");
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn a_second_daemon_on_the_same_row_fences_the_first() {
    let world = World::new(4);
    let first = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    assert!(first.save(&world, world.batch_without_poison(1)));
    first.until(|state| *state == LaneState::Idle).await;
    world.lose_ledger();
    let stranger = Life::start(&world, Duration::ZERO, world.last());
    assert!(matches!(stranger.task.await, Ok(End::Fenced { .. })));
    let second = Life::start_with(&world, Duration::ZERO, world.last(), limits(), true);
    second.until(|state| *state == LaneState::Idle).await;
    assert!(first.save(&world, world.batch_without_poison(1)));
    assert!(matches!(first.task.await, Ok(End::Fenced { .. })));
    assert_eq!(first.handle.flush(None).await, Err(NotFlushed::Fenced));
}

#[tokio::test(start_paused = true)]
async fn a_missing_row_halts_a_lane_that_had_one() {
    let world = World::new(5);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| *state == LaneState::Idle).await;
    assert_eq!(life.stop(Duration::ZERO).await.0, End::Stopped);
    let row = world.take_row();
    let life = Life::start(&world, Duration::ZERO, world.hint());
    life.until(|state| matches!(state, LaneState::Halted(halt) if halt.reason.contains("is missing"))).await;
    world.put_row(row);
    life.until(|state| *state == LaneState::Idle).await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_halts_where_the_journal_has_forgotten_what_postgres_lost() {
    let world = World::new(6);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    let before = world.take_row();
    world.put_row(before);
    for _ in 0..5 {
        assert!(life.save(&world, world.batch_without_poison(1)));
    }
    life.handle.flush(None).await.expect("flushed");
    world.forget_journal();
    world.put_row(before);
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| matches!(state, LaneState::Halted(halt) if halt.at_gap && halt.reason.contains("no longer holds"))).await;
    assert_eq!(world.row_through(), before.map(|row| row.through), "nothing was applied");
    life.handle.resume(true);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(world.row_through(), before.map(|row| row.through), "nobody has accepted the gap");
    world.lose_what_is_forgotten();
    life.handle.accept_gap();
    life.until(|state| *state == LaneState::Idle).await;
    assert_eq!(world.journal_after(Sequence::ZERO).len(), 1, "one save is left");
    world.check_everything();
    // Once is once: another gap is asked for anew.
    world.forget_journal();
    world.put_row(before);
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| matches!(state, LaneState::Halted(halt) if halt.at_gap)).await;
    assert_eq!(world.row_through(), before.map(|row| row.through), "nobody has accepted this gap");
}

#[tokio::test(start_paused = true)]
async fn saves_gather_for_a_window_that_a_flush_ends() {
    let world = World::new(7);
    let life = Life::start(&world, Duration::from_secs(60), Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    let began = Instant::now();
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| matches!(state, LaneState::Waiting { .. })).await;
    life.handle.flush(None).await.expect("flushed");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(life.save(&world, world.batch_without_poison(1)));
    let mut position = life.handle.position();
    position.wait_for(|position| *position == world.last()).await.expect("the lane lives");
    assert!(began.elapsed() >= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_stop_drains_until_its_deadline_but_not_without_postgres() {
    let world = World::new(8);
    let life = Life::start(&world, Duration::from_secs(60), Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    assert!(life.save(&world, world.batch_without_poison(1)));
    let (end, limits) = life.stop(Duration::from_secs(10)).await;
    assert_eq!((end, limits.backlog_objects.used()), (End::Stopped, 0));
    world.check_everything();

    world.go_away(Duration::from_secs(1_000_000));
    let life = Life::start(&world, Duration::ZERO, world.hint());
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| matches!(state, LaneState::Retrying { attempt: 3.., .. })).await;
    let began = Instant::now();
    assert_eq!(life.stop(Duration::from_secs(10)).await.0, End::Stopped);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_a_hanging_transaction_up_at_its_deadline() {
    let world = World::new(11);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    world.hang();
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| matches!(state, LaneState::Applying { .. })).await;
    let began = Instant::now();
    assert_eq!(life.stop(Duration::from_secs(10)).await.0, End::Stopped);
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_tried_again_shows_as_applying() {
    let world = World::new(16);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    world.lock_tables(Duration::from_secs(1));
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| matches!(state, LaneState::Retrying { .. })).await;
    world.hang();
    // Tries on the way end as before; the one that hangs shows for good.
    sleep(Duration::from_secs(30)).await;
    assert!(matches!(life.handle.status().state, LaneState::Applying { .. }));
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_notices_that_postgres_went_back_and_writes_again() {
    let world = World::new(12);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    for _ in 0..3 {
        assert!(life.save(&world, world.batch_without_poison(2)));
        life.handle.flush(None).await.expect("flushed");
    }
    let mut position = life.handle.position();
    position.mark_unchanged();
    world.go_back();
    position.wait_for(|position| *position < world.last()).await.expect("the lane lives");
    position.wait_for(|position| *position == world.last()).await.expect("the lane lives");
    world.check_everything();
    assert_eq!((life.limits.backlog_objects.used(), life.limits.backlog_bytes.used()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_journal_noted_proves_nothing_before_postgres_says_so() {
    let world = World::new(19);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    for _ in 0..3 {
        assert!(life.save(&world, world.batch_without_poison(1)));
        life.handle.flush(None).await.expect("flushed");
    }
    assert!(life.handle.is_drained());
    assert_eq!(life.stop(Duration::ZERO).await.0, End::Stopped);
    world.go_back();
    world.go_away(Duration::from_secs(3600));
    let life = Life::start(&world, Duration::ZERO, world.last());
    assert!(timeout(Duration::from_secs(60), life.handle.flush(None)).await.is_err(), "postgres said nothing");
    assert!(!life.handle.is_drained());
    world.make_peace();
    life.handle.flush(None).await.expect("flushed");
    assert!(life.handle.is_drained());
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn what_a_lane_holds_counts_as_backlog_until_it_is_settled() {
    let world = World::new(13);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    world.break_schema(Duration::from_secs(1));
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| matches!(state, LaneState::Halted(_))).await;
    let summary = life.handle.status().backlog;
    assert_eq!((summary.saves, summary.footprint.objects, summary.oldest_accepted_at.is_some()), (1, 1, true));
    assert_eq!(summary.footprint.bytes, life.limits.backlog_bytes.used());
    assert_eq!(life.handle.backlog().by_collection().into_values().collect::<Vec<_>>(), [summary.footprint]);
    life.until(|state| *state == LaneState::Idle).await;
    assert_eq!(life.handle.status().backlog.saves, 0);
    assert!(life.handle.backlog().by_collection().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_postgres_turns_out_to_hold_is_no_backlog() {
    let world = World::new(14);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.handle.flush(None).await.expect("flushed");
    // Killed before the journal noted the commit.
    life.task.abort();
    let _ = life.task.await;
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    assert_eq!(life.handle.status().backlog, BacklogSummary { through: world.last(), ..BacklogSummary::default() });
}

#[tokio::test(start_paused = true)]
async fn a_pause_waits_for_the_transaction_of_a_probe_but_not_beyond_a_stop() {
    let world = World::new(17);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    world.break_schema(Duration::from_secs(1));
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.until(|state| matches!(state, LaneState::Halted(_))).await;
    world.hang();
    sleep(Duration::from_secs(60)).await;
    life.handle.pause("a test", None);
    let handle = life.handle.clone();
    assert!(timeout(Duration::from_secs(60), handle.paused()).await.is_err(), "the probe may yet commit");
    life.handle.stop(Instant::now());
    timeout(Duration::from_secs(60), handle.paused()).await.expect("a lane that has ended writes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_only_once_the_lane_has_heard_of_it() {
    let world = World::new(18);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    life.handle.pause("a test", None);
    life.handle.paused().await;
    assert!(matches!(life.handle.status().state, LaneState::Paused { .. }));
    life.handle.resume(false);
    life.handle.paused().await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_right_after_a_resume_waits_instead_of_being_told_of_the_pause() {
    let world = World::new(20);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.until(|state| *state == LaneState::Idle).await;
    life.handle.pause("a test", None);
    life.handle.paused().await;
    assert!(life.save(&world, world.batch_without_poison(1)));
    life.handle.resume(false);
    assert!(matches!(life.handle.status().state, LaneState::Paused { .. }), "the lane has not heard of it");
    assert_eq!(life.handle.flush(None).await, Ok(world.last()));
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_by_itself() {
    let world = World::new(9);
    let life = Life::start(&world, Duration::ZERO, Sequence::ZERO);
    life.handle.pause("maintenance", Some(Duration::from_secs(30)));
    assert!(life.save(&world, world.batch_without_poison(1)));
    let began = Instant::now();
    life.until(|state| matches!(state, LaneState::Paused { .. })).await;
    life.until(|state| *state == LaneState::Idle).await;
    assert!(began.elapsed() >= Duration::from_secs(30));
    world.check_everything();
}

#[tokio::test(start_paused = true)]
async fn an_absent_postgres_is_tried_a_few_times_a_minute_however_much_waits() {
    let world = World::new(10);
    world.go_away(Duration::from_secs(3600));
    let limits = limits();
    limits.all().for_each(|limit| limit.set_max(u64::MAX));
    let life = Life::start_with(&world, Duration::ZERO, Sequence::ZERO, limits, false);
    for _ in 0..1_000 {
        assert!(life.save(&world, world.batch_without_poison(1)));
        sleep(Duration::from_secs(1)).await;
    }
    assert!(world.contacts() < 500, "{} tries in a thousand seconds", world.contacts());
}
