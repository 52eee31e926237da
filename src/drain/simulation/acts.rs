//! What happens to a lane while saves come in.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Life, world::World};

/// Saves, and everything else that may happen, for a while.
pub(super) async fn under_fire(world: &World, life: &Life) {
    let mut chance = world.chance();
    world.lock().trouble = chance.u32(0..50);
    let patience = Duration::from_secs(chance.u64(1..120));
    for _ in 0..chance.u32(5..80) {
        match chance.u8(..40) {
            0 => life.handle.pause("chance", Some(Duration::from_secs(chance.u64(1..20)))),
            1 => life.handle.resume(false),
            2 => world.go_away(Duration::from_millis(chance.u64(0..40_000))),
            3 => world.break_schema(Duration::from_secs(chance.u64(0..60))),
            4 => world.go_back(),
            5 => world.lock().server.disconnect_all(),
            6 => drop(timeout(patience, life.handle.flush(None)).await),
            7 => {
                // Of little, some of it, and all of it.
                life.limits.rows_per_second.set_max([0, 1, 3, 1_000][chance.usize(..4)]);
                life.handle.probe();
            }
            8..16 => sleep(Duration::from_millis(chance.u64(0..1_000))).await,
            _ => {
                if !life.save(world, world.batch()) {
                    // Refused at a limit: the caller comes back later.
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}
