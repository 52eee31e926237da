//! What a measurement costs the machine: processor time, bytes written to disk, memory. Read from `/proc`, before and after.
//!
//! Two parties are told apart: this process (callers, and the daemon where it runs here) and those it started, however deep (the
//! private Postgres with all its backends, or Redis). Nothing that either does is left out.

use std::collections::HashMap;

use anyhow::Context;
use procfs::{ProcError, ProcResult, process::Stat};
use serde::{Deserialize, Serialize};

const SAVES: f64 = 100_000.0;

/// What a measurement cost. Nothing where it isn't known: the daemon is another's, or the system doesn't tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Processor time of this process, user and system, for 100,000 saves (drain: rows): the callers' and, where it is Forebay
    /// that is measured, the daemon's.
    pub(super) cpu_seconds_per_100k: Option<f64>,
    /// The same of the processes that it started: Postgres or Redis. The system counts in ticks of 10 ms.
    pub(super) server_cpu_seconds_per_100k: Option<f64>,
    /// Bytes that this process caused to be written to disk, for a byte of key and body saved: the journal.
    pub(super) disk_bytes_per_byte: Option<f64>,
    /// The same of the processes that it started: WAL, tables and indexes, or the append-only file.
    pub(super) server_disk_bytes_per_byte: Option<f64>,
    /// The most memory that this process held at once, from its start to the end of the measurement.
    pub(super) peak_memory_bytes: Option<u64>,
}

/// What has been used up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// By all threads of this process, those that ended included.
    own: Tally,
    /// By its descendants. One that ended is in the sums of its parent once that has collected it, as the postmaster and this
    /// process do: the kernel adds up processor time and bytes alike.
    servers: Tally,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Tally {
    cpu_ticks: u64,
    /// `write_bytes`: pages made dirty for a block device, so what is overwritten before it gets there counts once. Unknown where
    /// we may not look into another user's process.
    disk_bytes: Option<u64>,
}

impl Usage {
    pub(super) fn now() -> anyhow::Result<Self> {
        let own = process_id(std::process::id())?;
        let processes = processes().context("list processes")?;
        let itself = processes.get(&own).context("this process is in /proc")?;
        let mut servers = Tally { cpu_ticks: itself.collected_ticks, disk_bytes: Some(0) };
        for (&id, process) in &processes {
            if is_descendant(id, own, &processes) {
                servers.cpu_ticks += process.ticks + process.collected_ticks;
                servers.disk_bytes = servers.disk_bytes.zip(written_bytes(id)).map(|(sum, bytes)| sum + bytes);
            }
        }
        Ok(Self { own: Tally { cpu_ticks: itself.ticks, disk_bytes: written_bytes(own) }, servers })
    }

    /// What was used from then to now, for so many saves of so many bytes in all.
    pub(super) fn cost_since(&self, before: &Self, saves: u64, bytes: f64) -> anyhow::Result<Cost> {
        let cpu = |now: Tally, before: Tally| {
            let seconds = now.cpu_ticks.saturating_sub(before.cpu_ticks) as f64 / procfs::ticks_per_second() as f64;
            rounded(seconds / saves as f64 * SAVES)
        };
        let disk = |now: Tally, before: Tally| {
            let written = now.disk_bytes?.saturating_sub(before.disk_bytes?);
            rounded(written as f64 / bytes)
        };
        Ok(Cost {
            cpu_seconds_per_100k: cpu(self.own, before.own),
            server_cpu_seconds_per_100k: cpu(self.servers, before.servers),
            disk_bytes_per_byte: disk(self.own, before.own),
            server_disk_bytes_per_byte: disk(self.servers, before.servers),
            peak_memory_bytes: Some(peak_memory_bytes()?),
        })
    }
}

/// To three digits after the point; nothing if nothing was saved.
fn rounded(value: f64) -> Option<f64> {
    value.is_finite().then(|| (value * 1_000.0).round() / 1_000.0)
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    parent: i32,
    /// Its own, user and system.
    ticks: u64,
    /// Those of its children that have ended.
    collected_ticks: u64,
}

/// As the kernel numbers processes; the standard library has them unsigned.
fn process_id(id: u32) -> anyhow::Result<i32> {
    id.try_into().context("the id of a process is above any that the kernel gives")
}

fn processes() -> ProcResult<HashMap<i32, Process>> {
    // One that ends meanwhile is no more there to be read.
    let stats = procfs::process::all_processes()?.filter_map(|process| process.ok()?.stat().ok());
    Ok(stats.map(|stat| (stat.pid, Process::from(stat))).collect())
}

impl From<Stat> for Process {
    fn from(stat: Stat) -> Self {
        let collected = u64::try_from(stat.cutime + stat.cstime).unwrap_or(0);
        Self { parent: stat.ppid, ticks: stat.utime + stat.stime, collected_ticks: collected }
    }
}

fn is_descendant(id: i32, ancestor: i32, processes: &HashMap<i32, Process>) -> bool {
    let parent = |id: &i32| processes.get(id).map(|process| process.parent);
    std::iter::successors(parent(&id), parent).any(|parent| parent == ancestor)
}

/// None if we may not know; nothing was written by one that has ended meanwhile, for its parent has it in its own sum.
fn written_bytes(id: i32) -> Option<u64> {
    match procfs::process::Process::new(id).and_then(|process| process.io()) {
        Ok(io) => Some(io.write_bytes),
        Err(ProcError::PermissionDenied(_)) => None,
        Err(_) => Some(0),
    }
}

fn peak_memory_bytes() -> anyhow::Result<u64> {
    let status = procfs::process::Process::myself().and_then(|process| process.status()).context("read our own memory")?;
    Ok(status.vmhwm.context("the kernel tells no VmHWM")? * 1_024)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn descendants_are_found_however_deep() {
        let of = |parent| Process { parent, ticks: 0, collected_ticks: 0 };
        let processes = HashMap::from([(1, of(0)), (5, of(1)), (6, of(5)), (7, of(6)), (8, of(1))]);
        let found: Vec<_> = [1, 5, 6, 7, 8].into_iter().filter(|&id| is_descendant(id, 5, &processes)).collect();
        assert_eq!(found, [6, 7]);
    }

    #[test]
    fn a_cost_is_the_difference_for_each_save_and_byte() {
        let usage = |cpu_ticks, bytes| Usage {
            own: Tally { cpu_ticks, disk_bytes: Some(bytes) },
            servers: Tally { cpu_ticks: 2 * cpu_ticks, disk_bytes: None },
        };
        let cost = usage(300, 5_000).cost_since(&usage(100, 1_000), 50_000, 2_000.0).expect("memory is told");
        assert_eq!((cost.cpu_seconds_per_100k, cost.server_cpu_seconds_per_100k), (Some(4.0), Some(8.0)));
        assert_eq!((cost.disk_bytes_per_byte, cost.server_disk_bytes_per_byte), (Some(2.0), None));
        assert!(cost.peak_memory_bytes.is_some_and(|bytes| bytes > 1_000_000));
        assert_eq!(usage(9, 9).cost_since(&usage(0, 0), 0, 0.0).expect("memory is told").cpu_seconds_per_100k, None);
    }

    /// It waits to be read while two children of its own have written and ended, one of them a child of a child.
    #[test]
    fn what_ended_processes_have_written_is_in_the_sum_of_their_parent() {
        let directory = tempfile::tempdir_in(".").expect("a directory");
        let write = |name: &str| format!("dd if=/dev/zero of={name} bs=1M count=1 2>/dev/null");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("{}; ({}; true); echo done; read line", write("a"), write("b"))]).current_dir(&directory);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        shell.stdout.as_mut().expect("piped").read_exact(&mut [0; 5]).expect("it says done");
        let id = process_id(shell.id()).expect("an id");
        let (processes, written) = (processes().expect("readable"), written_bytes(id));
        shell.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
        shell.wait().expect("it ends");
        let own = process_id(std::process::id()).expect("an id");
        assert!(is_descendant(id, own, &processes));
        assert!(written.is_some_and(|bytes| bytes >= 2 << 20), "{written:?}");
    }
}
