//! What the HTTP port shows: from the first moment on, long before there is anything to measure.

use std::sync::{Arc, Mutex, PoisonError};

use super::{control::Controls, core::Core, observe::observation};
use crate::{
    grpc::Health,
    http::{Pages, TicketPage},
    metrics::{Metrics, Observation},
    outcomes::{Named, State},
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
        let (page, tickets, health) = (self.clone(), self.clone(), health.clone());
        Pages {
            ticket: Box::new(move |ticket| tickets.ticket(ticket)),
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

    fn ticket(&self, text: &str) -> TicketPage {
        let Some(Shown { controls, .. }) = self.lock().clone() else {
            return TicketPage::Untold("the journal is being recovered, or the daemon stops".to_owned());
        };
        match controls.tickets.read(text) {
            Named::Save(ticket) => match controls.outcomes.state(ticket) {
                Ok(state) => TicketPage::State(state, controls.outcomes.estimated_wait(ticket).filter(|_| !state.is_final())),
                Err(why) => TicketPage::Untold(why.to_string()),
            },
            Named::Elsewhere => TicketPage::State(State::Unknown, None),
            Named::Nothing => TicketPage::NotFound,
        }
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
