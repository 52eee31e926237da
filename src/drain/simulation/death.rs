//! When the daemon dies: between any two steps.

use std::{future::pending, sync::Arc};

use tokio::{sync::Notify, task::yield_now};

use super::world::World;

/// Counts steps; the daemon dies at the last one that it is given.
#[derive(Default)]
pub(super) struct Death {
    pub(super) steps: u64,
    left: Option<u64>,
    came: Arc<Notify>,
}

impl Death {
    /// Whether it comes at this step; then it has come for every later one.
    pub(super) fn comes(&mut self) -> bool {
        self.steps += 1;
        self.left = self.left.map(|left| left.saturating_sub(1));
        let comes = self.left == Some(0);
        if comes {
            self.came.notify_one();
        }
        comes
    }
}

impl World {
    /// The daemon dies after so many steps.
    pub(super) fn live_for(&self, steps: u64) {
        let death = &mut self.lock().death;
        *death = Death { steps: death.steps, left: Some(steps), came: Arc::default() };
    }

    /// Whatever happens, it lives.
    pub(super) fn live_on(&self) {
        let death = &mut self.lock().death;
        *death = Death { steps: death.steps, ..Death::default() };
    }

    /// Whether the daemon dies between the step before and the next one.
    pub(super) fn dies(&self) -> bool {
        self.lock().death.comes()
    }

    /// Between any two steps the daemon may die: from here it never comes back then. And others may go first.
    pub(super) async fn step(&self) {
        if self.dies() {
            return pending().await;
        }
        let others_first = self.lock().chance.u8(..4) == 0;
        if others_first {
            yield_now().await;
        }
    }

    /// Returns when the daemon has died.
    pub(super) async fn died(&self) {
        let came = Arc::clone(&self.lock().death.came);
        came.notified().await;
    }
}
