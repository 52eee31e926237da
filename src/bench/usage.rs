//! What a measurement costs the machine: processor time, bytes written to disk, memory. Read from `/proc`, before and after.
//!
//! Two parties are told apart: this process (callers, and the daemon where it runs here) and those it started, however deep (the
//! private Postgres with all its backends, or Redis). Nothing that either does is left out.

use std::{collections::HashMap, fs, io};

use anyhow::Context;
use serde::{Deserialize, Serialize};

const SAVES: f64 = 100_000.0;
/// `USER_HZ`: what the kernel tells processes in, whatever it counts in itself; the same on every architecture that we know.
const TICKS_PER_SECOND: f64 = 100.0;

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
        let own = std::process::id();
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
            let seconds = now.cpu_ticks.saturating_sub(before.cpu_ticks) as f64 / TICKS_PER_SECOND;
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
    parent: u32,
    /// Its own, user and system.
    ticks: u64,
    /// Those of its children that have ended.
    collected_ticks: u64,
}

fn processes() -> io::Result<HashMap<u32, Process>> {
    let ids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One that ends meanwhile is no more there to be read.
    Ok(ids.filter_map(|id: u32| Some((id, process(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))).collect())
}

/// From `/proc/PID/stat` (proc(5)); the program's name, in brackets, may hold anything.
fn process(stat: &str) -> Option<Process> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The first of them is the third of the line.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let parent = u32::try_from(number(4)?).ok()?;
    Some(Process { parent, ticks: number(14)? + number(15)?, collected_ticks: number(16)? + number(17)? })
}

fn is_descendant(id: u32, ancestor: u32, processes: &HashMap<u32, Process>) -> bool {
    let parent = |id: &u32| processes.get(id).map(|process| process.parent);
    std::iter::successors(parent(&id), parent).any(|parent| parent == ancestor)
}

/// None if we may not know; nothing was written by one that has ended meanwhile, for its parent has it in its own sum.
fn written_bytes(id: u32) -> Option<u64> {
    match fs::read_to_string(format!("/proc/{id}/io")) {
        Ok(io) => io.lines().find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(_) => Some(0),
    }
}

fn peak_memory_bytes() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read our own memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells no VmHWM")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().context("VmHWM is a number of kB")?;
    Ok(kibibytes * 1_024)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name() {
        let stat = "17 (a b) c) S 4 17 17 0 -1 4194304 9 8 7 6 100 20 3 4 20 0 1 0 555 666";
        assert_eq!(process(stat), Some(Process { parent: 4, ticks: 120, collected_ticks: 7 }));
        assert_eq!(process("17 (cut"), None);
    }

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
        let (processes, written) = (processes().expect("readable"), written_bytes(shell.id()));
        shell.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
        shell.wait().expect("it ends");
        assert!(is_descendant(shell.id(), std::process::id(), &processes));
        assert!(written.is_some_and(|bytes| bytes >= 2 << 20), "{written:?}");
    }
}
