//! Soak: everything at random, for as long as told, and whether anything grows that should not: the daemon's memory, threads and
//! descriptors, its journal and ledger on disk, its failed saves and sessions in Postgres, and what is used of its limits (P7).
//!
//! One journal and one database. Daemon follows daemon: each is killed or stopped under load when its life is over, and every other
//! life is long enough for its end to be held against its beginning. One fault follows the other: those of [`postgres`], and the
//! [`faults`] of clients, operators and the clock. After each of them everything is written and judged; then, when nothing is left
//! to do, a [`samples::Sample`] is taken.
//!
//! Neither the clients' log nor what the checker reads grows with the time: clients wait between their calls, which makes a few
//! hundred saves a second, and every [`FORGET_EVERY`] faults what was judged is forgotten.

use std::{ops::RangeInclusive, time::Instant};

use fastrand::Rng;

use self::{
    faults::Own,
    samples::{Kept, Samples},
};
use super::{
    campaign::{self, Counts},
    clock::Clock,
    postgres::{self, KINDS, run::Run},
};

mod faults;
mod samples;

/// Faults of a run that is not told how long it is to take: a short life with its end, and the beginning of a long one.
const FAULTS_SHORT: u64 = 5;
/// Faults of a short life, of which every other one is.
const LIFE_SHORT: u64 = 3;
/// Of a long one: some minutes.
const LIFE_LONG: RangeInclusive<u64> = 100..=300;
/// So many faults are judged together.
const FORGET_EVERY: u64 = 10;

/// What bounds the journal, beside what is not written yet. It is enough to write again what a stale standby lacks.
const KEPT: Kept = Kept { segment_bytes: 2 << 20, retention_bytes: 16 << 20, failed_closed: 5 };

#[tokio::test(flavor = "multi_thread")]
async fn memory_disk_and_descriptors_stay_flat_whatever_happens() {
    let minutes = campaign::time().map_or(1, |time| time.as_secs() / 60);
    let again = |seed| format!("--seed {seed} --minutes {minutes}");
    campaign::run_named("soak", 1, 1, again, |seed| async move { Soak::new(seed).await.complete().await }).await;
}

/// A run.
struct Soak {
    run: Run,
    clock: Clock,
    /// None: after so many faults.
    end: Option<Instant>,
    faults: u64,
    samples: Samples,
}

impl Soak {
    async fn new(seed: u64) -> Self {
        let end = campaign::time().map(|time| Instant::now() + time);
        let mut run = Run::prepared("soak", seed, |setup| {
            setup
                .set("journal.segment_bytes", &KEPT.segment_bytes.to_string())
                .set("journal.retention_bytes_max", &KEPT.retention_bytes.to_string())
                .set("journal.retention", "1 min")
                .set("failed.closed_kept", &KEPT.failed_closed.to_string())
                .expect_in_log("torn")
        })
        .await;
        run.database.execute(faults::SCHEMA).await;
        let clock = Clock::new(run.home.0.join("clock"));
        run.starts(clock.start(&run.setup)).await;
        Self { run, clock, end, faults: 0, samples: Samples::new(KEPT) }
    }

    async fn complete(mut self) -> Counts {
        let mut lives = 1;
        while self.live(lives % 2 == 0).await {
            lives += 1;
            let own = if self.run.random.bool() { Own::Kill } else { Own::Stop };
            self.suffer(Fault::Own(own)).await;
            self.samples.begin_life();
        }
        let mut counts = self.run.complete().await;
        counts.insert("lives", lives);
        counts.insert("samples", self.samples.judge());
        counts
    }

    /// Fault after fault; gives whether another life is to follow.
    async fn live(&mut self, is_long: bool) -> bool {
        let all = if is_long { self.run.random.u64(LIFE_LONG) } else { LIFE_SHORT };
        for _ in 0..all {
            if self.is_over() {
                return false;
            }
            let fault = draw(&mut self.run.random);
            self.suffer(fault).await;
            self.samples.take(&self.run).await;
        }
        !self.is_over()
    }

    fn is_over(&self) -> bool {
        self.end.map_or(self.faults >= FAULTS_SHORT, |end| Instant::now() >= end)
    }

    async fn suffer(&mut self, fault: Fault) {
        self.faults += 1;
        println!("soak: {}: {fault:?}", self.faults);
        self.run.begin().await;
        match fault {
            Fault::Postgres(kind) => postgres::strike(kind, &mut self.run).await,
            Fault::Own(own) => faults::strike(own, &mut self.run, &self.clock).await,
        }
        self.run.end(fault.name()).await;
        if self.faults.is_multiple_of(FORGET_EVERY) {
            self.forget().await;
        }
    }

    async fn forget(&mut self) {
        if self.run.forget().await > 0 {
            self.samples.closed_are_forgotten(&self.run).await;
        }
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Postgres(postgres::Kind),
    Own(Own),
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Postgres(kind) => KINDS.iter().find(|(known, _)| *known == kind).expect("all are known").1,
            Self::Own(own) => own.name(),
        }
    }
}

/// Nothing that ends the daemon.
fn draw(random: &mut Rng) -> Fault {
    if random.bool() {
        Fault::Postgres(KINDS[random.usize(..KINDS.len())].0)
    } else {
        Fault::Own(Own::IN_A_LIFE[random.usize(..Own::IN_A_LIFE.len())])
    }
}
