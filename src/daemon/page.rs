//! What the HTTP port shows: from the first moment on, long before there is anything to measure.

use std::sync::{Arc, Mutex, PoisonError};

use super::{control::Controls, core::Core, observe::observation};
use crate::{
    grpc::Health,
    http::Pages,
    metrics::{Metrics, Observation},
};

/// What is shown, once there is something.
#[derive(Clone, Default)]
pub(super) struct Page(Arc<Mutex<Option<Shown>>>);

#[derive(Clone)]
struct Shown {
    metrics: Metrics,
    controls: Arc<Controls>,
    health: Health,
}

impl Page {
    /// The pages, which change with what is shown.
    pub(super) fn pages(&self, health: &Health) -> Pages {
        let (page, health) = (self.clone(), health.clone());
        Pages {
            metrics: Box::new(move || page.render()),
            ready: Box::new(move || match health.is_serving() {
                true => Ok(()),
                false => Err("the journal is being recovered, or the daemon stops".to_owned()),
            }),
        }
    }

    /// From now on the daemon is shown.
    pub(super) fn show(&self, core: &Core, health: &Health) {
        let shown = Shown { metrics: core.observer.0.clone(), controls: Arc::clone(&core.controls), health: health.clone() };
        *self.lock() = Some(shown);
    }

    /// The daemon's parts are about to end.
    pub(super) fn hide(&self) {
        *self.lock() = None;
    }

    fn render(&self) -> String {
        let shown = self.lock().clone();
        match shown {
            Some(Shown { metrics, controls, health }) => metrics.render(&observation(&controls, &health)),
            None => Metrics::new(&[]).render(&Observation::default()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Shown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
