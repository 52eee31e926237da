//! The oracle: random runs through Forebay end as promised in P2, measured against Postgres itself.
//!
//! - *Accepted mode*: operations are executed directly in one database; those that it takes are sent through Forebay to another. All of
//!   them end PERSISTED, and all tables are identical (append tables in the order of insertion).
//! - *Refusal mode*: everything is sent, and the result is judged by the words of P2 (`judge`).
//!
//! One run of ten is disturbed: Postgres stops as in a crash and comes back, the daemon is killed and started again, with saves in flight.
//!
//! The first runs that differ are made smaller as long as they differ, and shown with their operations and rows.
//!
//! `tests/oracle` runs campaigns and replays seeds. Its variables: `FOREBAY_SEED` (the first seed), `FOREBAY_ORACLE_RUNS` and
//! `FOREBAY_ORACLE_WITH` (knobs, separated by commas, instead of those of CI).

use tokio_postgres::Client;

use crate::support::{Database, runs, seed};

use self::{
    behind::{Behind, Ended},
    generator::{Knobs, Plan, plan},
    operations::Step,
};

mod behind;
mod compare;
mod direct;
mod generator;
mod judge;
mod operations;
mod schema;
mod sender;
mod shrink;

/// What the runs of CI hold.
const CI: Knobs = Knobs { acting: true, batches: true, adds: true, lanes: true, unfit: false };

/// More reports would hide each other: the other seeds are listed only.
const REPORTS_MAX: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Accepted,
    Refusal,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_takes_ends_as_written_directly() {
    campaign(Mode::Accepted, CI).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_refuses_fails_as_written_directly() {
    campaign(Mode::Refusal, Knobs { unfit: true, ..CI }).await;
}

/// Runs of consecutive seeds; panics if one differs.
async fn campaign(mode: Mode, knobs: Knobs) {
    let first = seed(&format!("oracle, {mode:?}"));
    let runs = runs("FOREBAY_ORACLE_RUNS", 20);
    let mut arena = Arena::new(mode, with(knobs)).await;
    let mut differing = Vec::new();
    for seed in (0..runs).map(|n| first.wrapping_add(n)) {
        if let Some(report) = arena.run(seed, differing.len() < REPORTS_MAX).await {
            println!("{report}");
            differing.push(seed);
        }
    }
    let Arena { sent, drawn, refused, .. } = arena;
    println!("oracle, {mode:?}: {runs} runs, {drawn} operations drawn, {sent} sent, {refused} failed; {} runs differ", differing.len());
    assert!(differing.is_empty(), "{} of {runs} runs differ: {differing:?}", differing.len());
}

/// The knobs that `FOREBAY_ORACLE_WITH` names, else these.
fn with(knobs: Knobs) -> Knobs {
    std::env::var_os("FOREBAY_ORACLE_WITH").map_or(knobs, |names| Knobs::named(names.to_str().expect("it is text")))
}

/// The databases of a campaign, and what it counts.
struct Arena {
    mode: Mode,
    knobs: Knobs,
    reference: Client,
    behind: Database,
    /// In a server of its own, from the first disturbed run on.
    disturbed: Option<Database>,
    drawn: usize,
    sent: usize,
    refused: usize,
}

/// One way to the end of a list of steps.
struct Trial {
    /// What was sent.
    steps: Vec<Step>,
    /// How many operations failed.
    refused: usize,
    /// How it differs from what was promised.
    wrong: Option<String>,
}

impl Arena {
    async fn new(mode: Mode, knobs: Knobs) -> Self {
        let tables = schema::tables(knobs.acting);
        let reference = Database::with(&format!("{tables} {}", schema::relaxed(knobs.acting))).await.client().await;
        let behind = Database::with(&tables).await;
        Self { mode, knobs, reference, behind, disturbed: None, drawn: 0, sent: 0, refused: 0 }
    }

    /// One run; how it differs, if it does, `in_full` or in short.
    async fn run(&mut self, seed: u64, in_full: bool) -> Option<String> {
        let plan = plan(seed, self.knobs);
        println!("oracle, {:?}: seed {seed}", self.mode);
        if plan.disturbed && self.disturbed.is_none() {
            self.disturbed = Some(Database::alone(&schema::tables(self.knobs.acting)).await);
        }
        let database = if plan.disturbed { self.disturbed.as_mut().expect("it was made") } else { &mut self.behind };
        let mut behind = Behind::start(database, &plan).await;
        let mut trial = attempt(self.mode, &self.reference, &mut behind, &plan.steps).await;
        self.drawn += plan.steps.iter().map(|step| step.operations().len()).sum::<usize>();
        self.sent += trial.steps.iter().map(|step| step.operations().len()).sum::<usize>();
        self.refused += trial.refused;
        // The time of a kill doesn't come again.
        if trial.wrong.is_some() && in_full && !plan.disturbed {
            trial = shrink::smallest(self.mode, &self.reference, &mut behind, trial).await;
        }
        behind.stop().await;
        let wrong = trial.wrong?;
        Some(if in_full { report(self.mode, self.knobs, &plan, &trial.steps, &wrong) } else { format!("seed {seed} differs:\n{wrong}") })
    }
}

/// Sends the steps through Forebay and holds the end to the promise.
async fn attempt(mode: Mode, reference: &Client, behind: &mut Behind<'_>, steps: &[Step]) -> Trial {
    match mode {
        Mode::Accepted => {
            direct::run(reference, &schema::reset("public")).await;
            let outcomes = direct::outcomes(reference, steps).await;
            let steps: Vec<_> = steps.iter().zip(outcomes).filter(|(_, refusal)| refusal.is_none()).map(|(step, _)| step.clone()).collect();
            let directly = compare::rows(reference).await;
            let ended = behind.execute(&steps).await;
            let failed = why_failed(&steps, &ended);
            let wrong = failed.or_else(|| compare::difference(&directly, &ended.rows));
            Trial { steps, refused: ended.failures.iter().flatten().count(), wrong }
        }
        Mode::Refusal => {
            let ended = behind.execute(steps).await;
            let wrong = judge::judge(reference, steps, &ended).await;
            Trial { steps: steps.to_vec(), refused: ended.failures.iter().flatten().count(), wrong }
        }
    }
}

/// The first operation that failed though Postgres had taken it directly.
fn why_failed(steps: &[Step], ended: &Ended) -> Option<String> {
    let mut outcomes = steps.iter().flat_map(Step::operations).zip(&ended.failures);
    outcomes
        .find_map(|(operation, failure)| Some(format!("    {operation}\n    taken directly, ended FAILED with {}\n", failure.as_ref()?)))
}

/// A run that differs, with the way to see it again.
fn report(mode: Mode, knobs: Knobs, plan: &Plan, steps: &[Step], wrong: &str) -> String {
    let Plan { seed, lanes, window, generation_objects_max, .. } = plan;
    let steps: String = steps.iter().map(|step| format!("    {step}\n")).collect();
    let (mode, knobs, lanes) = (format!("{mode:?}").to_lowercase(), knobs.names(), if *lanes { "two lanes" } else { "one lane" });
    format!(
        "seed {seed} differs ({lanes}, window {window}, generations of {generation_objects_max}); \
         again: tests/oracle --mode {mode} --with {knobs:?} --seed {seed} --runs 1\n  sent:\n{steps}  wrong:\n{wrong}"
    )
}
