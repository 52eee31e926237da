//! `forebay bench compare`: Forebay beside what its user would pick instead, and beside the limit that gRPC and a synced file set.
//!
//! Every subject is a command (of this program, or `benches/ceiling`) and runs in a process of its own, alone: one after the other, a
//! whole round of all of them, then the next round. What else the machine does meanwhile falls on all alike, and what is compared is
//! what the same round measured. The two tables below say what is measured and what is compared with what.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, ensure};
use procfs::Current;

use self::{
    programs::Programs,
    report::{Figure, Machine, Measured, Runs},
};
use crate::sandbox::Sandbox;

mod programs;
mod report;

pub use report::CompareReport;

/// What is measured: a name that stays, and the command that measures it. Without rows to write it is told how long to run.
const SUBJECTS: &[Subject] = &[
    Subject { name: "ceiling-unary-64", program: Program::Ceiling, arguments: "--sync raw --load unary --callers 64" },
    Subject { name: "ceiling-batch-64", program: Program::Ceiling, arguments: "--sync raw --load batch --callers 64" },
    Subject { name: "ceiling-stream-64", program: Program::Ceiling, arguments: "--sync raw --load stream --callers 64" },
    forebay("unary-64-paused", "save --mode unary --paused"),
    forebay("batch-64-paused", "save --mode batch --paused"),
    forebay("stream-64-paused", "save --mode stream --paused"),
    Subject { name: "redis-64", program: Program::Redis, arguments: "redis --connections 64" },
    Subject { name: "redis-pipelined-64", program: Program::Redis, arguments: "redis --connections 64 --pipeline 100" },
    forebay("unary-64", "save --mode unary"),
    forebay("batch-64", "save --mode batch"),
    forebay("stream-64", "save --mode stream"),
    forebay("unary-64-hot", "save --mode unary --load hot"),
    forebay("stream-64-hot", "save --mode stream --load hot"),
    forebay("direct-1", "direct --connections 1"),
    forebay("direct-8", "direct --connections 8"),
    forebay("direct-64", "direct --connections 64"),
    forebay("direct-64-hot", "direct --connections 64 --load hot"),
    forebay("direct-batched-1", "direct --connections 1 --statement-rows 1000"),
    forebay("direct-batched-8", "direct --connections 8 --statement-rows 1000"),
    forebay("drain", "drain --rows 200000"),
    forebay("unnest", "unnest --rows 200000"),
    forebay("unary-4000-paused", "save --mode unary --paused --callers 4000"),
    forebay("stream-64-paused-1k", "save --mode stream --paused --objects 1000"),
    forebay("stream-64-paused-1m", "save --mode stream --paused --objects 1000000"),
];

/// What is compared with what, and how much of it is asked for: at least the bar, the goal at best.
const RATIOS: &[Ratio] = &[
    per_second("unary-64-paused", "ceiling-unary-64", Some((0.75, 0.9))),
    per_second("batch-64-paused", "ceiling-batch-64", None),
    per_second("stream-64-paused", "ceiling-stream-64", Some((0.4, 0.8))),
    per_second("unary-64-paused", "redis-64", Some((0.33, 0.45))),
    per_second("stream-64-paused", "redis-64", Some((4.0, 8.0))),
    per_second("stream-64-paused", "redis-pipelined-64", None),
    per_second("unary-64", "direct-64", None),
    per_second("batch-64", "direct-batched-8", None),
    per_second("stream-64", "direct-64", Some((5.0, 10.0))),
    per_second("stream-64", "direct-batched-8", None),
    per_second("unary-64-hot", "direct-64-hot", None),
    per_second("stream-64-hot", "direct-64-hot", Some((8.0, 16.0))),
    per_second("drain", "unnest", Some((0.85, 0.95))),
    Ratio { figure: Figure::Cpu, of: "unary-4000-paused", to: Some("unary-64-paused"), bar: Some((2.0, 1.3)) },
    Ratio { figure: Figure::Cpu, of: "stream-64-paused-1m", to: Some("stream-64-paused-1k"), bar: Some((2.0, 1.3)) },
    Ratio { figure: Figure::DiskBytes, of: "stream-64-paused", to: None, bar: Some((3.0, 1.5)) },
];

/// What a subject takes beside the time that it measures: a private Postgres and a daemon start and end.
const AROUND: Duration = Duration::from_secs(4);
/// What a subject takes that has rows to write.
const WITH_ROWS: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Subject {
    name: &'static str,
    program: Program,
    arguments: &'static str,
}

/// Who measures a subject, and what that needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// This program's `bench`.
    Forebay,
    /// The same, with `redis-server`.
    Redis,
    /// `benches/ceiling`.
    Ceiling,
}

const fn forebay(name: &'static str, arguments: &'static str) -> Subject {
    Subject { name, program: Program::Forebay, arguments }
}

impl Subject {
    /// Whether it is told how long to run.
    fn is_timed(&self) -> bool {
        !self.arguments.contains("--rows")
    }

    fn takes(&self, time: Duration) -> Duration {
        if self.is_timed() { time + AROUND } else { WITH_ROWS }
    }
}

/// A figure of one subject, or one as a share of another's in the same round.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    figure: Figure,
    of: &'static str,
    to: Option<&'static str>,
    /// Bar and goal, where there are.
    bar: Option<(f64, f64)>,
}

const fn per_second(of: &'static str, to: &'static str, bar: Option<(f64, f64)>) -> Ratio {
    Ratio { figure: Figure::PerSecond, of, to: Some(to), bar }
}

impl Ratio {
    fn name(&self) -> String {
        let prefix = match self.figure {
            Figure::PerSecond => "",
            Figure::Cpu => "cpu ",
            Figure::DiskBytes => "disk ",
        };
        match self.to {
            Some(to) => format!("{prefix}{}/{to}", self.of),
            None => format!("{prefix}{}", self.of),
        }
    }
}

/// A run of `forebay bench compare`.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// How often each subject is measured.
    pub rounds: u32,
    /// How long, each time.
    pub time: Duration,
    /// The subjects, by name; all if it names none.
    pub only: Vec<String>,
    /// The program of `benches/ceiling`, if it isn't where its build puts it.
    pub ceiling: Option<PathBuf>,
}

/// The names of all subjects.
pub fn subjects() -> impl Iterator<Item = &'static str> {
    SUBJECTS.iter().map(|subject| subject.name)
}

/// Measures every subject in turn, round by round; tells on stderr how far it is.
///
/// # Errors
/// No Postgres to be started, or a subject that fails: what it would leave out would mislead.
pub async fn compare(options: CompareOptions) -> anyhow::Result<CompareReport> {
    ensure!(options.rounds > 0, "--rounds is 0: nothing would be measured");
    let machine = machine()?;
    let programs = Programs::find(options.ceiling)?;
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for subject in SUBJECTS.iter().filter(|subject| is_wanted(subject, &options.only)) {
        match programs.remedy(subject.program) {
            None => present.push(subject),
            Some(remedy) => absent.push(format!("{} is not measured: {remedy}", subject.name)),
        }
    }
    absent.iter().for_each(|absent| eprintln!("{absent}"));
    announce(&present, options.rounds, options.time);
    let mut runs = Runs::default();
    for round in 1..=options.rounds {
        for subject in &present {
            let measured = programs.measure(subject, options.time).await.with_context(|| format!("measure {}", subject.name))?;
            eprintln!("round {round} of {}: {:<20} {:>10.0} a second", options.rounds, subject.name, measured.per_second);
            runs.add(subject.name, measured);
        }
    }
    Ok(CompareReport::new(&runs, machine, absent))
}

fn is_wanted(subject: &Subject, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|name| name == subject.name)
}

fn announce(subjects: &[&Subject], rounds: u32, time: Duration) {
    let round: Duration = subjects.iter().map(|subject| subject.takes(time)).sum();
    let seconds = (round * rounds).as_secs();
    eprintln!("subjects: {}, rounds: {rounds}, takes about {} min {} s", subjects.len(), seconds / 60, seconds % 60);
    if cfg!(debug_assertions) {
        eprintln!("this program was built without optimisation: its figures say nothing about Forebay");
    }
}

fn machine() -> anyhow::Result<Machine> {
    let memory = procfs::Meminfo::current().context("read the machine's memory")?;
    Ok(Machine {
        cores: thread::available_parallelism().context("count the cores")?.get(),
        memory_bytes: memory.mem_total,
        postgres: Sandbox::version()?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_is_one_subjects_and_every_ratio_is_of_subjects() {
        let names: BTreeSet<_> = subjects().collect();
        assert_eq!(names.len(), SUBJECTS.len());
        for ratio in RATIOS {
            assert!(names.contains(ratio.of) && ratio.to.is_none_or(|to| names.contains(to)), "{}", ratio.name());
        }
    }

    #[test]
    fn a_ratio_says_what_it_compares() {
        let names: Vec<_> = RATIOS.iter().map(Ratio::name).collect();
        for name in ["unary-64-paused/redis-64", "cpu unary-4000-paused/unary-64-paused", "disk stream-64-paused"] {
            assert!(names.iter().any(|known| known == name), "{names:?}");
        }
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), RATIOS.len());
    }
}
