//! What may be saved, and reading the catalog again before a name is called unknown: a rolling release may have added it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, timeout},
};

use super::control::Control;
use crate::collections::Collections;

/// Shared by all calls.
pub(super) struct Catalog {
    control: Arc<dyn Control>,
    /// When the last reading began.
    last: Mutex<Option<Instant>>,
    waiting: Semaphore,
}

impl Catalog {
    /// From one reading to the next.
    const INTERVAL: Duration = Duration::from_secs(1);
    /// One reading.
    const READ_TIMEOUT: Duration = Duration::from_secs(3);
    /// Calls that wait for a reading; the others judge by what is known.
    const WAITING_MAX: usize = 256;

    pub(super) fn new(control: Arc<dyn Control>) -> Self {
        Self { control, last: Mutex::new(None), waiting: Semaphore::new(Self::WAITING_MAX) }
    }

    pub(super) fn now(&self) -> Arc<Collections> {
        self.control.collections()
    }

    /// What may be saved by a reading that began after this call. All who wait meanwhile share it.
    pub(super) async fn read_again(&self) -> Arc<Collections> {
        let asked = Instant::now();
        let Ok(_waiting) = self.waiting.try_acquire() else { return self.now() };
        let mut last = self.last.lock().await;
        match *last {
            Some(began) if began >= asked => return self.now(),
            Some(began) => tokio::time::sleep_until(began + Self::INTERVAL).await,
            None => {}
        }
        *last = Some(Instant::now());
        match timeout(Self::READ_TIMEOUT, self.control.refresh_collections()).await {
            Ok(collections) => collections,
            Err(_) => self.now(),
        }
    }
}
