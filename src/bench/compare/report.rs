//! From what each round measured to medians, ratios and tables. Pure.
//!
//! A ratio is the median of what it was in each round, not one of medians: both sides then had the same machine. Beside it stands the
//! worst round.

use std::{collections::BTreeMap, fmt::Write};

use serde::{Deserialize, Serialize};

use super::{RATIOS, Ratio, SUBJECTS};
use crate::bench::usage::Cost;

/// What a subject prints.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Measured {
    /// Saves, or rows.
    #[serde(alias = "saves_per_second", alias = "rows_per_second")]
    pub(super) per_second: f64,
    /// Of a call; none for streams.
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    /// Calls that failed, where a subject goes on after one.
    #[serde(default)]
    pub(super) errors: u64,
    /// The ceiling tells none.
    #[serde(flatten)]
    cost: Cost,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Saves or rows: the more the better. The other figures: the less.
    PerSecond,
    /// Of this process, for each save.
    Cpu,
    /// Of this process, for each byte saved.
    DiskBytes,
}

impl Figure {
    fn of(self, measured: &Measured) -> Option<f64> {
        match self {
            Self::PerSecond => Some(measured.per_second),
            Self::Cpu => measured.cost.cpu_seconds_per_100k,
            Self::DiskBytes => measured.cost.disk_bytes_per_byte,
        }
    }

    fn worst(self, values: &[f64]) -> Option<f64> {
        let values = values.iter().copied();
        if self == Self::PerSecond { values.reduce(f64::min) } else { values.reduce(f64::max) }
    }

    fn bound(self) -> &'static str {
        if self == Self::PerSecond { "at least" } else { "at most" }
    }
}

/// What every round measured, by the subject's name.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeMap<&'static str, Vec<Measured>>);

impl Runs {
    pub(super) fn add(&mut self, subject: &'static str, measured: Measured) {
        self.0.entry(subject).or_default().push(measured);
    }

    /// One value a round; none if a subject is missing or doesn't tell.
    fn ratio(&self, ratio: &Ratio) -> Vec<f64> {
        let figures = |name| self.0.get(name).into_iter().flatten().filter_map(|measured| ratio.figure.of(measured));
        match ratio.to {
            None => figures(ratio.of).collect(),
            Some(to) => figures(ratio.of).zip(figures(to)).map(|(of, to)| of / to).filter(|ratio| ratio.is_finite()).collect(),
        }
    }
}

/// The machine that measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) memory_bytes: u64,
    /// The version of its server.
    pub(super) postgres: String,
}

/// What `forebay bench compare` prints. As JSON: the fields up to `machine`, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct CompareReport {
    rows: Vec<Row>,
    /// Medians.
    ratios: BTreeMap<String, f64>,
    /// Of the same, the worst round.
    worst: BTreeMap<String, f64>,
    machine: Machine,
    /// What could not be measured, and what to do about it.
    #[serde(skip)]
    absent: Vec<String>,
}

/// One subject. All but the runs are medians over them.
#[derive(Clone, Debug, Serialize)]
struct Row {
    name: &'static str,
    per_second: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    #[serde(flatten)]
    cost: Cost,
    /// Saves or rows a second, round by round.
    runs: Vec<f64>,
}

impl Row {
    fn new(name: &'static str, runs: &[Measured]) -> Option<Self> {
        let of = |figure: fn(&Measured) -> Option<f64>| median(runs.iter().filter_map(figure));
        Some(Self {
            name,
            per_second: of(|run| Some(run.per_second))?,
            p50_us: of(|run| run.p50_us),
            p99_us: of(|run| run.p99_us),
            cost: Cost {
                cpu_seconds_per_100k: of(|run| run.cost.cpu_seconds_per_100k),
                server_cpu_seconds_per_100k: of(|run| run.cost.server_cpu_seconds_per_100k),
                disk_bytes_per_byte: of(|run| run.cost.disk_bytes_per_byte),
                peak_memory_bytes: of(|run| run.cost.peak_memory_bytes.map(|bytes| bytes as f64)).map(|bytes| bytes as u64),
            },
            runs: runs.iter().map(|run| run.per_second).collect(),
        })
    }

    fn line(&self) -> String {
        let worst = Figure::PerSecond.worst(&self.runs);
        let memory = self.cost.peak_memory_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
        format!(
            "{:<20} {:>10.0} {} {} {} {} {} {} {}",
            self.name,
            self.per_second,
            cell(worst, 10, 0),
            cell(self.p50_us, 8, 0),
            cell(self.p99_us, 8, 0),
            cell(self.cost.cpu_seconds_per_100k, 7, 2),
            cell(self.cost.server_cpu_seconds_per_100k, 7, 2),
            cell(self.cost.disk_bytes_per_byte, 10, 2),
            cell(memory, 9, 0),
        )
    }
}

const ROWS_HEAD: &str = "
                                                              CPU s/100k                 peak
subject              per second      worst   p50 us   p99 us     own  server bytes/byte       MiB
";
const ROWS_FOOT: &str = "
per second: saves acknowledged (drain, unnest: rows written), median and worst round. own: this process, callers included; server: the
Postgres or Redis beside it. CPU: seconds for 100,000 saves. bytes/byte: written to disk, by both, for a byte
of key and body.
";
const RATIOS_HEAD: &str = "
ratio                                            median    worst   asked for (goal)
";

impl CompareReport {
    pub(super) fn new(runs: &Runs, machine: Machine, absent: Vec<String>) -> Self {
        let rows = SUBJECTS.iter().filter_map(|subject| Row::new(subject.name, runs.0.get(subject.name)?)).collect();
        let (mut ratios, mut worst) = (BTreeMap::new(), BTreeMap::new());
        for ratio in RATIOS {
            let rounds = runs.ratio(ratio);
            ratios.extend(median(rounds.iter().copied()).map(|median| (ratio.name(), rounded(median))));
            worst.extend(ratio.figure.worst(&rounds).map(|worst| (ratio.name(), rounded(worst))));
        }
        Self { rows, ratios, worst, machine, absent }
    }

    /// For people, as two tables.
    pub fn text(&self) -> String {
        let Machine { cores, memory_bytes, postgres } = &self.machine;
        let mut text = format!("{cores} cores, {} MiB of memory, {postgres}\n", memory_bytes >> 20);
        self.absent.iter().for_each(|absent| text = format!("{text}{absent}\n"));
        text.push_str(ROWS_HEAD);
        self.rows.iter().for_each(|row| text = format!("{text}{}\n", row.line().trim_end()));
        text.push_str(ROWS_FOOT);
        if !self.ratios.is_empty() {
            text.push_str(RATIOS_HEAD);
        }
        for ratio in RATIOS {
            let name = ratio.name();
            let Some((median, worst)) = self.ratios.get(&name).zip(self.worst.get(&name)) else { continue };
            let asked = ratio.bar.map_or_else(String::new, |(bar, goal)| format!("   {} {bar} ({goal})", ratio.figure.bound()));
            let _ = writeln!(text, "{name:<45} {median:>9.2} {worst:>8.2}{asked}");
        }
        text
    }
}

fn cell(value: Option<f64>, width: usize, digits: usize) -> String {
    value.map_or_else(|| format!("{:>width$}", "-"), |value| format!("{value:>width$.digits$}"))
}

/// Of an even number: the mean of the two in the middle. None of nothing.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(f64::midpoint(values[last / 2], values[last.div_ceil(2)]))
}

/// To three digits after the point.
fn rounded(ratio: f64) -> f64 {
    (ratio * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests;
