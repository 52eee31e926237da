//! What an object of the backlog takes of memory beyond its key and body.
//!
//! The daemon is a process of its own, paused, and weighed by what the kernel says it holds (VmRSS): before and after so many objects
//! are saved, and again after each was saved twice more, which folds and so must add nothing. A second daemon takes the same saves
//! for the few objects that it has already: what grows there is held by the journal, its cache and the streams, not by objects.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::{
    fill::{self, fill},
    load, pause, target,
};
use crate::child::Daemon;

/// Before anything is weighed, so that what a daemon takes once is there: connections, buffers, caches. None of the objects in question.
const WARM_UP_OBJECTS: u64 = 10_000;
/// Each again and again: two of the journal's segments are written before it holds all that it ever does. Fewer if there will be
/// fewer saves than that.
const WARM_UP_SAVES_MAX: u64 = 400_000;
/// More than any run has.
const GENERATION_OBJECTS_MAX: u64 = 10_000_000;
/// Memory that is freed goes back to the system in its own time.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);
const SETTLE_LOOKS_MAX: u32 = 60;
/// Settled is what changes by less than one part in so many.
const SETTLED_PART: u64 = 1_000;

/// A run of `forebay bench memory`.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// Objects.
    pub objects: u64,
}

/// What `forebay bench memory` prints, in this order. Bytes of one object, unless it says otherwise; beyond: less key and body.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryReport {
    objects: u64,
    /// The text of its key and its body, on average.
    key_and_body: f64,
    /// By what the process grew when each was saved once.
    beyond: f64,
    /// The same after each was saved twice more.
    beyond_after_three_saves: f64,
    /// What the daemon itself counts (`backlog.bytes_max`).
    beyond_accounted: f64,
    /// By what another process grew with as many saves that added no object: the part of the above that objects don't take.
    without_objects: f64,
    without_objects_after_three_saves: f64,
    /// Of the whole process.
    resident_bytes_before: u64,
    resident_bytes: u64,
}

/// What a daemon held: in the kernel's view, and in its own.
#[derive(Clone, Copy, Debug)]
struct Weight {
    resident: u64,
    backlog: u64,
    objects: u64,
}

impl MemoryReport {
    /// Each of them before, after one save of each object, and after three; in the second these saves were of other objects.
    fn new(objects: u64, with: [Weight; 3], without: [Weight; 3]) -> Self {
        let each = |before: u64, after: u64| (after as f64 - before as f64) / objects as f64;
        let tenths = |bytes: f64| (bytes * 10.0).round() / 10.0;
        let key_and_body = (0..objects).map(|n| load::bytes(object(n)) as f64).sum::<f64>() / objects as f64;
        let [before, once, thrice] = with;
        Self {
            objects,
            key_and_body: tenths(key_and_body),
            beyond: tenths(each(before.resident, once.resident) - key_and_body),
            beyond_after_three_saves: tenths(each(before.resident, thrice.resident) - key_and_body),
            beyond_accounted: tenths(each(before.backlog, once.backlog) - key_and_body),
            without_objects: tenths(each(without[0].resident, without[1].resident)),
            without_objects_after_three_saves: tenths(each(without[0].resident, without[2].resident)),
            resident_bytes_before: before.resident,
            resident_bytes: once.resident,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        format!(
            "{} objects of {:.1} bytes of key and body: the process grew from {:.1} to {:.1} MiB\n\
             \x20 {:>7.1} bytes each beyond key and body, {:.1} after three saves of each; {:.1} by the daemon's own account\n\
             \x20 {:>7.1} of them, {:.1} after three saves, also when no object is added: the journal, its cache and the streams",
            self.objects,
            self.key_and_body,
            mebibytes(self.resident_bytes_before),
            mebibytes(self.resident_bytes),
            self.beyond,
            self.beyond_after_three_saves,
            self.beyond_accounted,
            self.without_objects,
            self.without_objects_after_three_saves,
        )
    }
}

/// Weighs a daemon before and after it has so many objects in its backlog.
///
/// # Errors
/// No private Postgres, a daemon that doesn't start, or saves that are refused.
pub async fn memory(options: MemoryOptions) -> anyhow::Result<MemoryReport> {
    let objects = options.objects;
    ensure!(objects > 0, "--objects is 0: there would be nothing to weigh");
    let postgres = target::postgres("").await?;
    let with = weigh_three_times(&postgres.url(), objects, object).await?;
    let held = with.map(|weight| weight.objects - WARM_UP_OBJECTS);
    ensure!(held == [0, objects, objects], "instead of {objects} the backlog held {held:?} objects");
    let without = weigh_three_times(&postgres.url(), objects, |n| n % WARM_UP_OBJECTS).await?;
    Ok(MemoryReport::new(objects, with, without))
}

/// Before, after so many saves of the objects with these keys, and after twice as many more.
async fn weigh_three_times(postgres: &str, objects: u64, key: impl Fn(u64) -> u64 + Copy + Send + 'static) -> anyhow::Result<[Weight; 3]> {
    let mut settings = fill::room();
    // A later save of an object folds into the same generation only.
    settings.push(("drain.generation_objects_max", GENERATION_OBJECTS_MAX.to_string()));
    let daemon = Daemon::start_with(postgres, settings).await?;
    // Nothing is drained: every object stays.
    pause(daemon.client()).await?;
    let warm_up = WARM_UP_OBJECTS.max(objects.min(WARM_UP_SAVES_MAX));
    fill(&daemon.address(), warm_up, |n| load::save(n % WARM_UP_OBJECTS, n)).await?;
    let before = weigh(&daemon).await?;
    fill(&daemon.address(), objects, move |n| load::save(key(n), n)).await?;
    let once = weigh(&daemon).await?;
    fill(&daemon.address(), 2 * objects, move |n| load::save(key(n % objects), n + 1)).await?;
    let thrice = weigh(&daemon).await?;
    daemon.kill().await?;
    Ok([before, once, thrice])
}

/// The key of the `n`th object in question.
fn object(n: u64) -> u64 {
    WARM_UP_OBJECTS + n
}

async fn weigh(daemon: &Daemon) -> anyhow::Result<Weight> {
    let status = daemon.client().status().await.context("read the daemon's status")?;
    let backlog = status.lanes.iter().map(|lane| lane.backlog_bytes).sum();
    let objects = status.lanes.iter().map(|lane| lane.backlog_objects).sum();
    Ok(Weight { resident: settled(daemon).await?, backlog, objects })
}

async fn settled(daemon: &Daemon) -> anyhow::Result<u64> {
    let mut before = daemon.resident_bytes()?;
    for _ in 0..SETTLE_LOOKS_MAX {
        tokio::time::sleep(SETTLE_INTERVAL).await;
        let now = daemon.resident_bytes()?;
        if now.abs_diff(before) < before / SETTLED_PART {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_what_the_process_grew_less_key_and_body() {
        let weight = |resident, backlog, objects| Weight { resident, backlog, objects };
        let with = [weight(1_000_000, 4_700_000, 10_000), weight(1_050_500, 4_746_700, 10_100), weight(1_040_500, 4_746_700, 10_100)];
        let without = [weight(1_000_000, 4_700_000, 10_000), weight(999_000, 4_700_000, 10_000), weight(1_003_000, 4_700_000, 10_000)];
        let report = MemoryReport::new(100, with, without);
        assert_eq!(report.key_and_body.to_string(), "305", "five digits and 300 bytes");
        let objects = [report.beyond, report.beyond_after_three_saves, report.beyond_accounted];
        assert_eq!(objects.map(|figure| figure.to_string()), ["200", "100", "162"]);
        let others = [report.without_objects, report.without_objects_after_three_saves];
        assert_eq!(others.map(|figure| figure.to_string()), ["-10", "30"]);
    }
}
