//! Runs that the journal has not answered.

use tokio::sync::mpsc;

use super::{Outcome, Run};

/// A run on its way. If it is dropped instead of told, as by a journal whose thread is gone, its outcome is unknown.
pub(super) struct Unanswered {
    run: Option<Run>,
    tell: mpsc::UnboundedSender<Run>,
}

impl Unanswered {
    pub(super) fn new(run: Run, tell: mpsc::UnboundedSender<Run>) -> Self {
        Self { run: Some(run), tell }
    }

    pub(super) fn tell(mut self, outcome: Outcome) {
        if let Some(run) = &mut self.run {
            run.outcome = outcome;
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            // Nobody listens any more when the call was dropped.
            let _ = self.tell.send(run);
        }
    }
}
