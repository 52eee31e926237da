//! What happens to a daemon while saves come in.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{campaign::Daemon, world::World};
use crate::drain::{LaneHandle, LaneState};

/// Saves, and everything else that may happen, for a while.
pub(super) async fn under_fire(world: &World, daemon: &Daemon) {
    let mut chance = world.chance();
    world.lock().trouble = chance.u32(0..50);
    let patience = Duration::from_secs(chance.u64(1..120));
    for _ in 0..chance.u32(5..200) {
        let lane = chance.choice(daemon.lanes()).expect("there is a lane");
        match chance.u8(..48) {
            0 => lane.pause("chance", Some(Duration::from_secs(chance.u64(1..20)))),
            1 => lane.resume(false),
            2 => world.go_away(Duration::from_millis(chance.u64(0..40_000))),
            3 => world.break_schema(Duration::from_secs(chance.u64(0..60))),
            4 => world.go_back(),
            5 => world.lock().server.disconnect_all(),
            6 => drop(timeout(patience, lane.flush(None)).await),
            7 => {
                // Of little, some of it, and all of it.
                daemon.limits.rows_per_second.set_max([0, 1, 3, 1_000][chance.usize(..4)]);
                daemon.lanes().for_each(LaneHandle::probe);
            }
            8 => daemon.lanes().for_each(accept_gap),
            9..14 => {
                world.tend();
                world.step().await;
            }
            14..20 => sleep(Duration::from_millis(chance.u64(0..1_000))).await,
            _ => {
                if !daemon.save(world).await {
                    // Refused at a limit: the caller comes back later.
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// A person gives up what Postgres has lost and the journal no longer holds.
pub(super) fn accept_gap(lane: &LaneHandle) {
    if matches!(&*lane.state().borrow(), LaneState::Halted(halt) if halt.at_gap) {
        lane.accept_gap();
    }
}
