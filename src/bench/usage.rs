//! What a measurement costs the machine: processor time, bytes written to disk, memory. Read from `/proc`, before and after.
//!
//! Two parties are told apart by their processor time: this process (callers, and the daemon where it runs here) and those it
//! started, however deep (the private Postgres with all its backends, or Redis). Nothing that either does is left out. Bytes are
//! what reached the disks, by whomever: what the kernel counts for a process is whole folios made dirty, and a folio of a log that
//! is synced after each small write may be hundreds of KiB.

use std::{collections::HashMap, os::unix::fs::MetadataExt, path::Path};

use anyhow::Context;
use procfs::{DiskStat, ProcResult, process::Stat};
use rustix::fs::{major, minor};
use serde::{Deserialize, Serialize};

const SAVES: f64 = 100_000.0;
/// In which the kernel counts, whatever those of the disk are.
const SECTOR_BYTES: u64 = 512;

/// What a measurement cost. Nothing where it isn't known: the daemon is another's, or the system doesn't tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Processor time of this process, user and system, for 100,000 saves (drain: rows): the callers' and, where it is Forebay
    /// that is measured, the daemon's.
    pub(super) cpu_seconds_per_100k: Option<f64>,
    /// The same of the processes that it started: Postgres or Redis. The system counts in ticks of 10 ms.
    pub(super) server_cpu_seconds_per_100k: Option<f64>,
    /// Bytes written to the disks of the working directory and the temporary one, for a byte of key and body saved: journal, WAL,
    /// tables and indexes, an append-only file, what the file system keeps of them; and whatever else writes there meanwhile.
    /// Unknown where one of them isn't on a block device of its own (tmpfs, btrfs).
    pub(super) disk_bytes_per_byte: Option<f64>,
    /// The most memory that this process held at once, from its start to the end of the measurement.
    pub(super) peak_memory_bytes: Option<u64>,
}

/// What has been used up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// Ticks of all threads of this process, those that ended included.
    own_cpu: u64,
    /// Of its descendants. One that ended is in the sum of its parent once that has collected it, as the postmaster and this
    /// process do.
    server_cpu: u64,
    /// Written to the disks.
    disk_bytes: Option<u64>,
}

impl Usage {
    pub(super) fn now() -> anyhow::Result<Self> {
        let own = process_id(std::process::id())?;
        let processes = processes().context("list processes")?;
        let itself = processes.get(&own).context("this process is in /proc")?;
        let servers = processes.iter().filter(|&(&id, _)| is_descendant(id, own, &processes));
        let server_cpu = itself.collected_ticks + servers.map(|(_, process)| process.ticks + process.collected_ticks).sum::<u64>();
        Ok(Self { own_cpu: itself.ticks, server_cpu, disk_bytes: disk_bytes() })
    }

    /// What was used from then to now, for so many saves of so many bytes in all.
    pub(super) fn cost_since(&self, before: &Self, saves: u64, bytes: f64) -> anyhow::Result<Cost> {
        let cpu = |now: u64, before: u64| {
            let seconds = now.saturating_sub(before) as f64 / procfs::ticks_per_second() as f64;
            rounded(seconds / saves as f64 * SAVES)
        };
        let written = self.disk_bytes.zip(before.disk_bytes).map(|(now, before)| now.saturating_sub(before));
        Ok(Cost {
            cpu_seconds_per_100k: cpu(self.own_cpu, before.own_cpu),
            server_cpu_seconds_per_100k: cpu(self.server_cpu, before.server_cpu),
            disk_bytes_per_byte: written.and_then(|written| rounded(written as f64 / bytes)),
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

/// Written since the machine started to the disks that measurements write to: each once.
fn disk_bytes() -> Option<u64> {
    let device = |directory: &Path| directory.metadata().ok().map(|metadata| (major(metadata.dev()), minor(metadata.dev())));
    let (here, temporary) = (device(Path::new("."))?, device(&std::env::temp_dir())?);
    let disks = procfs::diskstats().ok()?;
    let written = |device| disks.iter().find(|disk| disk_device(disk) == device).map(|disk| disk.sectors_written * SECTOR_BYTES);
    let other = if temporary == here { 0 } else { written(temporary)? };
    Some(written(here)? + other)
}

fn disk_device(disk: &DiskStat) -> (u32, u32) {
    (disk.major.cast_unsigned(), disk.minor.cast_unsigned())
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
        let usage = |ticks, bytes| Usage { own_cpu: ticks, server_cpu: 2 * ticks, disk_bytes: bytes };
        let cost = usage(300, Some(5_000)).cost_since(&usage(100, Some(1_000)), 50_000, 2_000.0).expect("memory is told");
        assert_eq!((cost.cpu_seconds_per_100k, cost.server_cpu_seconds_per_100k), (Some(4.0), Some(8.0)));
        assert_eq!(cost.disk_bytes_per_byte, Some(2.0));
        assert!(cost.peak_memory_bytes.is_some_and(|bytes| bytes > 1_000_000));
        let nothing = usage(9, None).cost_since(&usage(0, Some(0)), 0, 0.0).expect("memory is told");
        assert_eq!((nothing.cpu_seconds_per_100k, nothing.disk_bytes_per_byte), (None, None));
    }

    #[test]
    fn what_is_synced_has_reached_a_disk_unless_disks_are_unknown() {
        let before = disk_bytes();
        let mut file = tempfile::tempfile_in(".").expect("a file");
        file.write_all(&vec![7; 4 << 20]).expect("written");
        file.sync_all().expect("synced");
        let after = disk_bytes();
        assert!(after.zip(before).is_none_or(|(after, before)| after - before >= 4 << 20), "{before:?} {after:?}");
        assert_eq!(after.is_some(), before.is_some());
    }

    /// A shell has waited for a child that burnt processor time; it is still there to be read.
    #[test]
    fn what_ended_processes_took_is_in_the_sum_of_their_parent() {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; true); echo done; read line"]);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        shell.stdout.as_mut().expect("piped").read_exact(&mut [0; 5]).expect("it says done");
        let (own, id) = (process_id(std::process::id()).expect("an id"), process_id(shell.id()).expect("an id"));
        let processes = processes().expect("readable");
        shell.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
        shell.wait().expect("it ends");
        assert!(is_descendant(id, own, &processes));
        assert!(processes[&id].collected_ticks > 0);
    }
}
