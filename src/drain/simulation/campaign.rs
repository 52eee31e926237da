//! The core of the daemon as a whole: some lanes, the journal that they share, and a Postgres, over several lives.
//!
//! A daemon dies between any two steps: of a start, of a group that is written, synced, offered and answered, of a lane that reads
//! the journal or talks with Postgres, of the janitor that closes and removes segments. Sometimes the power goes with it. Then the
//! next one must find what was acknowledged and go on from there. What every commit makes of the tables, what every read sees and
//! what every start finds is compared with a model that executes one save after the other.

use std::{fmt, panic::resume_unwind, sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{acts, lane, limits, reads::Reading, world::World};
use crate::{
    drain::{Counts, End, LaneBacklog, LaneHandle, RowRate},
    limits::Limits,
    runs,
    save::Accepted,
    settings::{DrainSettings, Settings},
};

/// One life.
pub(super) struct Daemon {
    lanes: Vec<(LaneHandle, JoinHandle<End>)>,
    pub(super) limits: Limits,
}

impl Daemon {
    /// Recovers what the journal holds beyond the lanes' positions, and starts them. `None`: it died on the way.
    fn start(world: &World) -> Option<Self> {
        let mut chance = world.chance();
        let limits = limits();
        limits.journal_bytes.set_max(1 << chance.u32(12..20));
        if !world.open(&limits) {
            return None;
        }
        let found = world.recover();
        let (row_rate, reaches) = (RowRate::new(Arc::clone(&limits.rows_per_second)), Arc::clone(&world.lock().reaches));
        let generation_objects_max = chance.u64(2..12);
        let mut lanes = Vec::new();
        for (id, after) in world.lanes().zip(world.after()) {
            let backlog = LaneBacklog::new(generation_objects_max, after, Arc::clone(&reaches), &limits);
            let own = found.iter().filter(|accepted| accepted.save.lane == id && accepted.sequence > after);
            backlog.recover(own.cloned().collect());
            lanes.push((id, backlog));
        }
        let last = found.last().map(|accepted| accepted.sequence);
        last.filter(|_| lanes.len() > 1).into_iter().for_each(|last| lanes.iter().for_each(|(_, backlog)| backlog.pass(last, 0)));
        let window = Duration::from_millis(chance.u64(0..3) * 100);
        let drain = DrainSettings { generation_objects_max, ..Settings::default().drain };
        let start = |(id, backlog)| lane(world, id, window, (backlog, &limits, row_rate.clone()), world.own(id, false), drain.clone());
        let lanes = lanes.into_iter().map(start).collect();
        Some(Self { lanes, limits })
    }

    pub(super) fn lanes(&self) -> impl ExactSizeIterator<Item = &LaneHandle> {
        self.lanes.iter().map(|(handle, _)| handle)
    }

    /// What admission and the journal's thread do with calls that come together. `false`: they are refused.
    pub(super) async fn save(&self, world: &World) -> bool {
        let group = world.group();
        let bytes = group.iter().map(|accepted| accepted.save.bytes()).sum();
        let Ok(bytes) = self.limits.backlog_bytes.permit(bytes) else { return false };
        let Ok(objects) = self.limits.backlog_objects.permit(group.len() as u64) else { return false };
        world.write(&group);
        world.step().await;
        world.sync();
        world.step().await;
        bytes.keep();
        objects.keep();
        world.acknowledge();
        self.offer(group);
        true
    }

    fn offer(&self, group: Vec<Accepted>) {
        let last = group[group.len() - 1].sequence;
        let bytes = group.iter().map(|accepted| accepted.save.bytes()).sum();
        for lane in self.lanes() {
            let own: Vec<_> = group.iter().filter(|accepted| accepted.save.lane == lane.id()).cloned().collect();
            if !own.is_empty() {
                lane.backlog().offer(own);
            }
            if self.lanes.len() > 1 {
                lane.backlog().pass(last, bytes);
            }
        }
    }

    /// Told to stop, it does in good time.
    async fn stop(&mut self, world: &World) {
        let drain = Duration::from_millis(world.chance().u64(0..20_000));
        self.lanes().for_each(|lane| lane.stop(Instant::now() + drain));
        while let Some((_, task)) = self.lanes.last_mut() {
            assert_eq!(task.await.unwrap_or_else(|panic| resume_unwind(panic.into_panic())), End::Stopped);
            self.lanes.pop();
        }
    }

    /// It is no more.
    async fn end(self) {
        for (_, task) in self.lanes {
            task.abort();
            match task.await {
                Ok(End::Stopped) => {}
                Ok(end) => panic!("a lane ended by itself: {end:?}"),
                Err(error) if error.is_cancelled() => {}
                Err(error) => resume_unwind(error.into_panic()),
            }
        }
    }
}

/// What happened in all stories.
#[derive(Default)]
struct Tally {
    stories: u64,
    steps: u64,
    lives: u64,
    deaths: u64,
    transactions: u64,
    persisted: u64,
    failed: u64,
    retries: u64,
    halves: u64,
    rebuilds: u64,
    /// Stories whose journal was trimmed while they went on, and those in which something was given up.
    trimmed: u64,
    given_up: u64,
}

impl Tally {
    fn add(&mut self, counts: Counts) {
        self.transactions += counts.transactions;
        self.persisted += counts.saves_persisted;
        self.failed += counts.saves_failed;
        self.retries += counts.retries;
        self.halves += counts.halves;
        self.rebuilds += counts.rebuilds;
    }

    /// Whether something that stories are about has happened in none.
    fn is_dull(&self) -> bool {
        let Self { deaths, persisted, failed, retries, halves, rebuilds, trimmed, given_up, .. } = *self;
        [deaths, persisted, failed, retries, halves, rebuilds, trimmed, given_up].contains(&0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, lives, deaths, transactions, persisted, failed, retries, halves, rebuilds, trimmed, given_up, .. } = self;
        write!(f, "{steps} steps, {lives} lives, {deaths} deaths, {transactions} transactions, {persisted} saves persisted, ")?;
        write!(f, "{failed} failed for cause, {retries} retries, {halves} halves, {rebuilds} rebuilds, {trimmed} journals trimmed, ")?;
        write!(f, "{given_up} gaps accepted")
    }
}

/// Lives under fire, then peace, and everything is where it belongs.
async fn story(seed: u64, tally: &mut Tally) {
    let lanes = 1 + (seed % 3) as usize;
    let world = World::with_lanes(seed, lanes);
    let mut chance = world.chance();
    world.lock().retention = (Duration::from_secs(chance.u64(0..60)), chance.u64(500..20_000));
    for _ in 0..chance.u32(1..8) {
        tally.lives += 1;
        world.live_for(chance.u64(1..700));
        if live(&world, tally).await {
            tally.deaths += 1;
        }
        if chance.bool() {
            world.cut_power();
        }
    }
    tally.trimmed += u64::from(world.has_trimmed());
    peace(&world).await;
    tally.given_up += u64::from(world.has_given_up());
    tally.steps += world.lock().death.steps;
}

/// One life. Whether death ended it.
async fn live(world: &World, tally: &mut Tally) -> bool {
    let Some(mut daemon) = Daemon::start(world) else { return true };
    let mut chance = world.chance();
    let reading = daemon.lanes().next().filter(|_| chance.u8(..3) == 0).map(|lane| Reading::begin(world, lane.id(), lane.backlog()));
    let mut dies = tokio::select! {
        biased;
        () = world.died() => true,
        () = acts::under_fire(world, &daemon) => false,
    };
    if let Some(reading) = reading {
        reading.end().await;
    }
    let handles: Vec<_> = daemon.lanes().cloned().collect();
    if !dies && chance.bool() {
        dies = tokio::select! {
            biased;
            () = world.died() => true,
            () = daemon.stop(world) => false,
        };
    }
    daemon.end().await;
    handles.iter().for_each(|lane| tally.add(lane.status().counts));
    dies
}

async fn peace(world: &World) {
    world.live_on();
    world.make_peace();
    let mut daemon = Daemon::start(world).expect("nothing kills it");
    daemon.limits.rows_per_second.set_max(0);
    for lane in daemon.lanes() {
        let flushed = timeout(Duration::from_secs(3_600), async {
            while lane.flush(None).await.is_err() {
                acts::accept_gap(lane);
                sleep(Duration::from_secs(30)).await;
            }
        });
        flushed.await.expect("nothing stands in the way");
    }
    world.check_everything();
    // Idle lanes move up, and what nobody needs is removed.
    for _ in 0..8 {
        sleep(Duration::from_secs(70)).await;
        assert!(world.tend());
    }
    assert!(world.is_trimmed(), "a drained journal holds nothing");
    daemon.stop(world).await;
    let limits = daemon.limits;
    assert_eq!((limits.backlog_bytes.used(), limits.backlog_objects.used(), limits.journal_bytes.used()), (0, 0, 0));
}

#[test]
fn whatever_fails_and_whenever_it_dies_every_save_is_applied_once_and_in_order_or_failed_for_cause() {
    let mut tally = Tally::default();
    let runs = runs::run("simulation", 120, |seed| {
        // The lane's jitter comes from here.
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(story(seed, &mut tally));
        tally.stories += 1;
    });
    println!("{runs}: {tally}; failed: 0");
    assert!(tally.stories < 100 || !tally.is_dull(), "the stories were dull: {tally}");
}
