//! What a daemon takes of its machine when nothing is left to do, and whether that grows.
//!
//! Nothing is asked of time: what is compared is the end of a series of samples with its beginning.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use forebay::proto::{GetStatusRequest, LimitKind, admin_service_client::AdminServiceClient};
use tonic::transport::Channel;

use crate::{
    campaigns::postgres::run::Run,
    support::{HANG, eventually},
};

/// Settings that bound what a daemon keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) segment_bytes: u64,
    pub(super) retention_bytes: u64,
    pub(super) failed_closed: u64,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
struct Measure {
    what: &'static str,
    /// A new daemon begins anew. What isn't is of the journal, whoever writes it.
    of_a_life: bool,
    /// Samples before the first that counts.
    warm_up: usize,
    /// By so much the end of a series may exceed its beginning.
    slack: u64,
}

impl Measure {
    fn is_exceeded(&self, first: u64, last: u64) -> bool {
        last > first + self.slack
    }
}

/// Memory and segments grow until as much is retained as may be. From there on a sample's memory is up to 60 MiB above the least,
/// by what the last transactions were made of and what the allocator has not given back yet, and medians differ by a few: 16 MiB is
/// a body kept of each save, or 150 KiB of each fault, in a life of 200 faults. A segment that is opened ahead, or not closed yet,
/// takes a few descriptors, and the room of a segment; a call to the ledger may find no idle thread. The ledger's file grows by 8 MiB
/// at once: that once.
const MEASURES: [Measure; 5] = [
    Measure { what: "KiB of memory", of_a_life: true, warm_up: 30, slack: 16 << 10 },
    Measure { what: "threads", of_a_life: true, warm_up: 0, slack: 8 },
    Measure { what: "descriptors", of_a_life: true, warm_up: 0, slack: 8 },
    Measure { what: "KiB of segments", of_a_life: false, warm_up: 30, slack: 16 << 10 },
    Measure { what: "KiB of the ledger", of_a_life: false, warm_up: 0, slack: 8 << 10 },
];

/// Limits on what is kept when there is nothing to do; of all others everything is given back by then.
const KEEPING: [&str; 5] =
    ["journal.bytes_max", "journal.retention_bytes_max", "postgres.readers", "failed.saves_max", "request_ids.count_max"];
/// By so much the files of the store grow.
const STORE_UNIT: u64 = 8 << 20;
/// The one over which we look.
const CONNECTIONS: (&str, u64) = ("grpc.connections_max", 1);

/// One of each measure.
type Sample = [u64; MEASURES.len()];

/// All samples of a run, by lives.
pub(super) struct Samples {
    kept: Kept,
    lives: Vec<Vec<Sample>>,
}

impl Samples {
    pub(super) fn new(kept: Kept) -> Self {
        Self { kept, lives: vec![Vec::new()] }
    }

    /// Another daemon has begun.
    pub(super) fn begin_life(&mut self) {
        self.lives.push(Vec::new());
    }

    /// One more, once everything is given back that was used.
    pub(super) async fn take(&mut self, run: &Run) {
        self.rest(run).await;
        let sample = measure(run.daemon().pid(), &run.home.journal());
        println!("soak: {}", describe(&sample));
        self.lives.last_mut().expect("one has begun").push(sample);
    }

    /// How many there are; panics if something grows.
    pub(super) fn judge(&self) -> u64 {
        let mut grown = Vec::new();
        for (n, measure) in MEASURES.iter().enumerate() {
            for series in self.series(n) {
                let Some((first, last)) = ends(measure, &series) else { continue };
                let found = format!("{} samples: from {first} to {last} {}", series.len(), measure.what);
                println!("soak: {found}");
                grown.extend(measure.is_exceeded(first, last).then_some(found));
            }
        }
        assert!(grown.is_empty(), "it grows: {grown:#?}");
        self.lives.iter().flatten().count() as u64
    }

    /// Of one measure: a series for each life, or one for all.
    fn series(&self, measure: usize) -> Vec<Vec<u64>> {
        let lives = self.lives.iter().map(|life| life.iter().map(|sample| sample[measure]).collect());
        if MEASURES[measure].of_a_life { lives.collect() } else { vec![lives.collect::<Vec<Vec<_>>>().concat()] }
    }

    /// Waits until nothing is left to do.
    async fn rest(&self, run: &Run) {
        let mut admin = run.daemon().admin().await;
        let waiting = async {
            while !self.unrest(run, &mut admin).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(HANG, waiting).await.is_err() {
            panic!("never given back: {:?}", self.unrest(run, &mut admin).await);
        }
    }

    /// What is used although there is nothing to do.
    async fn unrest(&self, run: &Run, admin: &mut AdminServiceClient<Channel>) -> Vec<String> {
        let status = admin.get_status(GetStatusRequest::default()).await.expect("a status").into_inner().status.expect("a status");
        let amounts = status.limits.into_iter().filter(|limit| limit.kind() == LimitKind::Amount);
        let used = amounts.filter(|limit| match &*limit.name {
            name if KEEPING.contains(&name) => limit.used > limit.max,
            name => limit.used > if name == CONNECTIONS.0 { CONNECTIONS.1 } else { 0 },
        });
        let mut unrest: Vec<_> = used.map(|limit| format!("{} of {}", limit.used, limit.name)).collect();
        // As much as may be retained, with what the store adds to it; the room taken for the segment that is written, and the next.
        let room = (2 * self.kept.segment_bytes).next_multiple_of(STORE_UNIT) + STORE_UNIT;
        let disk_max = self.kept.retention_bytes * 3 / 2 + 2 * room;
        let disk = disk_bytes(&run.home.journal().join("segments"));
        unrest.extend((disk > disk_max).then(|| format!("{disk} bytes of segments, of at most {disk_max}")));
        unrest
    }

    /// Waits until no more closed failed saves are kept than may be, after some were closed.
    pub(super) async fn closed_are_forgotten(&self, run: &Run) {
        const CLOSED: &str = "select count(*) from forebay.failed_save where closed_at is not null";
        eventually("closed failed saves are forgotten", || async {
            (run.database.number(CLOSED).await <= self.kept.failed_closed).then_some(())
        })
        .await;
    }
}

/// The medians of the first and of the last third of what counts of a series, if there is enough of it.
fn ends(measure: &Measure, series: &[u64]) -> Option<(u64, u64)> {
    let counted = series.get(measure.warm_up..)?;
    let third = counted.len() / 3;
    (third > 0).then(|| (median(&counted[..third]), median(&counted[counted.len() - third..])))
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

fn measure(pid: u32, journal: &Path) -> Sample {
    // Of memory what isn't read from files: pages of the program come as it needs them.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count() as u64;
    let [segments, ledger] = ["segments", "ledger"].map(|part| disk_bytes(&journal.join(part)) >> 10);
    [field(&status, "RssAnon:"), field(&status, "Threads:"), descriptors, segments, ledger]
}

/// A number of `/proc/PID/status`.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel knows it");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// What a directory takes on disk. Files may go while they are counted.
fn disk_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let is = entry.metadata().ok()?;
        Some(if is.is_dir() { disk_bytes(&entry.path()) } else { is.blocks() * 512 })
    });
    sizes.sum()
}

fn describe(sample: &Sample) -> String {
    MEASURES.iter().zip(sample).map(|(measure, value)| format!("{value} {}", measure.what)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURE: Measure = Measure { what: "things", of_a_life: true, warm_up: 5, slack: 10 };

    fn grows(series: impl IntoIterator<Item = u64>) -> bool {
        ends(&MEASURE, &series.into_iter().collect::<Vec<_>>()).is_some_and(|(first, last)| MEASURE.is_exceeded(first, last))
    }

    #[test]
    fn what_goes_up_and_down_or_has_warmed_up_does_not_grow() {
        assert!(!grows((0..60).map(|n| 100 + 30 * (n % 7))));
        assert!(!grows((0..5).map(|n| n * 100).chain([500; 30])));
        assert!(!grows((0..60).map(|n| if n % 10 == 9 { 5_000 } else { 100 })), "few are high");
        assert!(!grows((0..7).map(|n| n * 1_000)), "too few to tell");
    }

    #[test]
    fn what_grows_with_every_fault_or_once_for_all_grows() {
        assert!(grows(100..160));
        assert!(grows((0..60).map(|n| 100 + n + 30 * (n % 7))));
        assert!(grows((0..60).map(|n| if n < 40 { 100 } else { 120 })));
        assert!(grows((0..8).map(|n| n * 100)), "one sample is a third");
    }

    #[test]
    fn of_the_journal_all_lives_are_one_series() {
        let mut samples = Samples::new(Kept { segment_bytes: 0, retention_bytes: 0, failed_closed: 0 });
        for life in 0..4 {
            samples.begin_life();
            samples.lives[life + 1] = vec![[life as u64; MEASURES.len()]; 2];
        }
        assert_eq!(samples.series(0), [vec![], vec![0, 0], vec![1, 1], vec![2, 2], vec![3, 3]]);
        assert_eq!(samples.series(4), [[0, 0, 1, 1, 2, 2, 3, 3]]);
    }
}
