//! Open loop: calls are due at a steady rate, whether earlier ones are answered or not.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

/// When each call of one caller is due. Ends with the run.
///
/// A thread tells the callers: the runtime's timer is no finer than a millisecond, as long as what is measured. What waits for
/// a busy caller is at most what the run has calls.
#[derive(Debug)]
pub(crate) struct Pace(mpsc::UnboundedReceiver<Instant>);

impl Pace {
    /// Spreads calls over callers: `rate` of them a second in all.
    pub(crate) fn spread(rate: f64, callers: usize, start: Instant, end: Instant) -> Vec<Self> {
        let (tell, paces): (Vec<_>, Vec<_>) = (0..callers).map(|_| mpsc::unbounded_channel()).map(|(tx, rx)| (tx, Self(rx))).unzip();
        thread::spawn(move || {
            for (n, caller) in tell.iter().cycle().enumerate() {
                let due = start + Duration::from_secs_f64(n as f64 / rate);
                if due >= end || tell.iter().all(mpsc::UnboundedSender::is_closed) {
                    break;
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
                // A caller that has given up leaves its calls to nobody.
                let _ = caller.send(due);
            }
        });
        paces
    }

    /// Waits for the next call; when it was due.
    pub(crate) async fn next(&mut self) -> Option<Instant> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_due_in_turn_and_end_with_the_run() {
        let start = Instant::now();
        let mut paces = Pace::spread(1_000.0, 2, start, start + Duration::from_millis(5));
        let mut due = Vec::new();
        for pace in &mut paces {
            while let Some(instant) = pace.next().await {
                due.push((instant - start).as_millis());
            }
        }
        assert_eq!(due, [0, 2, 4, 1, 3]);
    }
}
