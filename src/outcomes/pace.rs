//! How fast a lane settles saves, and when it came where. Pure: time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use crate::save::Sequence;

/// A lane's last steps.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    steps: VecDeque<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    position: Sequence,
    /// Saves that were settled in this run when it came there.
    saves: u64,
    at: SystemTime,
}

impl Pace {
    /// Steps that are remembered: minutes of a busy lane.
    pub const STEPS_MAX: usize = 4_096;
    /// The pace is that of so long.
    pub const SPAN: Duration = Duration::from_secs(10);

    /// The lane has come here, after settling so many saves in this run.
    pub fn step(&mut self, position: Sequence, saves: u64, at: SystemTime) {
        // Postgres went back in time: what was settled isn't any more.
        while self.steps.back().is_some_and(|last| last.position >= position) {
            self.steps.pop_back();
        }
        self.steps.push_back(Step { position, saves, at });
        if self.steps.len() > Self::STEPS_MAX {
            self.steps.pop_front();
        }
    }

    /// When a save was settled; `None` if that was before the oldest step.
    pub fn settled_at(&self, sequence: Sequence) -> Option<SystemTime> {
        let step = self.steps.partition_point(|step| step.position < sequence);
        // What the first one settled may have been settled long before.
        if step == 0 { None } else { self.steps.get(step).map(|step| step.at) }
    }

    /// How long so many saves take; `None` if there is no pace to go by.
    pub fn time_for(&self, saves: u64, now: SystemTime) -> Option<Duration> {
        let since = now.checked_sub(Self::SPAN)?;
        let first = self.steps.iter().find(|step| step.at >= since)?;
        let last = self.steps.back()?;
        let (settled, took) = (last.saves.checked_sub(first.saves)?, now.duration_since(first.at).ok()?);
        if settled == 0 {
            return None;
        }
        Duration::try_from_secs_f64(took.as_secs_f64() * saves as f64 / settled as f64).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + seconds)
    }

    fn seq(n: u64) -> Sequence {
        Sequence::from_u64(n)
    }

    #[test]
    fn a_save_was_settled_by_the_first_step_that_covers_it() {
        let mut pace = Pace::default();
        [(10, 5, 0), (20, 9, 1), (40, 12, 2)].into_iter().for_each(|(position, saves, time)| pace.step(seq(position), saves, at(time)));
        let settled = [10, 11, 20, 21, 41].map(|n| pace.settled_at(seq(n)));
        assert_eq!(settled, [None, Some(at(1)), Some(at(1)), Some(at(2)), None]);
        pace.step(seq(15), 12, at(3));
        assert_eq!([15, 16].map(|n| pace.settled_at(seq(n))), [Some(at(3)), None], "what was taken back isn't settled");
    }

    #[test]
    fn the_pace_is_that_of_the_last_seconds() {
        let mut pace = Pace::default();
        assert_eq!(pace.time_for(5, at(0)), None);
        [(10, 1_000, 0), (20, 1_000, 20), (30, 1_100, 24)].into_iter().for_each(|(p, saves, time)| pace.step(seq(p), saves, at(time)));
        assert_eq!(pace.time_for(50, at(25)), Some(Duration::from_millis(2_500)));
        assert_eq!(pace.time_for(50, at(60)), None, "nothing was settled of late");
    }

    #[test]
    fn steps_are_bounded() {
        let mut pace = Pace::default();
        (0..10_000).for_each(|n| pace.step(seq(n), n, at(n)));
        assert_eq!(pace.steps.len(), Pace::STEPS_MAX);
    }
}
