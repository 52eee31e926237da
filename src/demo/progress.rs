//! What a person sees meanwhile: lines and a bar, on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// How often there is news.
    pub(super) const INTERVAL: Duration = Duration::from_millis(100);

    /// Draws nothing where standard error is no terminal.
    pub(super) fn new(saves: u64) -> Self {
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:40} {human_pos} of {human_len} saves acknowledged");
        Self(ProgressBar::new(saves).with_style(style.expect("the template is valid")))
    }

    pub(super) fn set(&self, saves: u64) {
        self.0.set_position(saves);
    }

    /// A line that stays.
    pub(super) fn say(&self, what: &str) {
        self.0.suspend(|| eprintln!("{what}"));
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
