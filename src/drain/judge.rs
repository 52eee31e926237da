//! From a failure to what the lane does next. Pure: chance comes as an argument.

use std::time::Duration;

use crate::postgres::{Action, Failure};

/// What a failure asks for: the rows of the table in `reference/postgres.md`, as far as a lane tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The same again over the same connection.
    Retry(Patience),
    /// A new connection, the position row, then the same again.
    Reconnect(Patience),
    /// COMMIT was sent and its answer is missing: a new connection, and the position row tells.
    InDoubt,
    /// The position row isn't what was compared with: read it.
    Reread,
    /// The tables aren't what they were: read the catalog, fold again.
    Refold,
    /// Fewer rows per statement.
    Shrink,
    /// Rows are at fault by themselves: take them out.
    TakeOut,
    /// A save may be at fault, or several together: halve.
    Halve(Last),
    /// No save is at fault: wait in front of them.
    Halt,
}

/// How often to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    pace: Pace,
    /// `u32::MAX`: for ever.
    tries_max: u32,
    then: Then,
}

/// How long to wait between tries; both with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Up to `drain.retry_wait_min`: for deadlocks and the like, which pass at once.
    Fast,
    /// From `drain.retry_wait_min`, doubling, up to `drain.retry_wait_max`.
    Slow,
}

/// What to do when patience ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It never does.
    Wait,
    Shrink,
    Halve(Last),
    Halt,
}

/// What to do with a single save or batch that can't be halved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// It becomes a failed save.
    Fail,
    /// The lane halts in front of it.
    Halt,
}

impl From<&Failure> for Need {
    fn from(failure: &Failure) -> Self {
        // The lane stands in front of the save, and not of all that came before it.
        if failure.is_about_statement() { Self::Halve(Last::Halt) } else { failure.action.into() }
    }
}

impl From<Action> for Need {
    fn from(action: Action) -> Self {
        let patience = |pace, tries_max, then| Patience { pace, tries_max, then };
        match action {
            Action::Retry => Self::Retry(patience(Pace::Slow, u32::MAX, Then::Wait)),
            Action::RetryThenShrink => Self::Retry(patience(Pace::Fast, 5, Then::Shrink)),
            Action::RetryThenHalt => Self::Retry(patience(Pace::Slow, 5, Then::Halt)),
            Action::RetryThenHalve => Self::Retry(patience(Pace::Slow, 3, Then::Halve(Last::Fail))),
            Action::Unclear => Self::Retry(patience(Pace::Slow, 3, Then::Halve(Last::Halt))),
            Action::Shrink => Self::Shrink,
            Action::Reconnect => Self::Reconnect(patience(Pace::Slow, u32::MAX, Then::Wait)),
            Action::ReconnectThenHalt => Self::Reconnect(patience(Pace::Slow, 3, Then::Halt)),
            Action::InDoubt => Self::InDoubt,
            Action::RowsOwn => Self::TakeOut,
            Action::Halve => Self::Halve(Last::Fail),
            Action::Halt => Self::Halt,
        }
    }
}

/// What failed, as far as it matters to what can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stake {
    /// Nothing that holds saves: there is none to blame.
    None,
    /// Saves of a generation.
    Saves {
        /// One save or one batch.
        single: bool,
        /// Statements have one row as it is.
        one_row: bool,
        /// Rows at fault were already to be taken out.
        careful: bool,
    },
}

/// What a lane does about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same again after a wait.
    Again(Duration),
    /// A new connection after a wait, and the position row first.
    Reconnect(Duration),
    /// The position row first, after a wait.
    Reread(Duration),
    /// The catalog first, after a wait; then the saves are folded again.
    Refold(Duration),
    /// The same again after a wait, with fewer rows per statement.
    Shrink(Duration),
    /// The same again at once, without the rows that are at fault by themselves.
    TakeOut,
    /// The first half of the saves alone.
    Halve,
    /// The save or batch is refused for good.
    Fail,
    /// Stop in front of it, and probe after a wait.
    Halt(Duration),
}

/// Waits between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

/// A halted lane is probed after so long at the least.
const PROBE_WAIT_MIN: Duration = Duration::from_secs(5);
/// And after so long at the most.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often something failed since it last went well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tries {
    /// In a row with the same code: what patience counts.
    pub(super) same: u32,
    /// In all: what waits grow with.
    pub(super) all: u32,
    code: Option<String>,
}

/// A statement of one row that is still too much is tried so often before the lane halts.
const ONE_ROW_TRIES_MAX: u32 = 3;

/// Judges the newest of `tries` failures. `chance` is in 0..1.
pub(super) fn judge(need: Need, tries: &Tries, stake: Stake, waits: Waits, chance: f64) -> Verdict {
    let halt = || Verdict::Halt(probe_wait(tries.all, chance));
    let slowly = || waits.between(Pace::Slow, tries.all, chance);
    let halve = |last| match stake {
        Stake::Saves { single: false, .. } => Verdict::Halve,
        Stake::Saves { single: true, .. } if last == Last::Fail => Verdict::Fail,
        _ => halt(),
    };
    let shrink = || match stake {
        Stake::Saves { one_row: false, .. } => Verdict::Shrink(slowly()),
        _ if tries.same <= ONE_ROW_TRIES_MAX => Verdict::Again(slowly()),
        _ => halt(),
    };
    let patient = |patience: Patience, again: fn(Duration) -> Verdict| match patience.then {
        _ if tries.same <= patience.tries_max => again(waits.between(patience.pace, tries.all, chance)),
        Then::Wait => again(slowly()),
        Then::Shrink => shrink(),
        Then::Halve(last) => halve(last),
        Then::Halt => halt(),
    };
    match need {
        Need::Retry(patience) => patient(patience, Verdict::Again),
        Need::Reconnect(patience) => patient(patience, Verdict::Reconnect),
        Need::InDoubt => Verdict::Reconnect(slowly()),
        Need::Reread if tries.all <= 1 => Verdict::Reread(Duration::ZERO),
        Need::Reread => Verdict::Reread(slowly()),
        Need::Refold if tries.all <= 1 => Verdict::Refold(Duration::ZERO),
        Need::Refold => Verdict::Refold(slowly()),
        Need::Shrink => shrink(),
        Need::TakeOut if matches!(stake, Stake::Saves { single: false, careful: false, .. }) => Verdict::TakeOut,
        Need::TakeOut => halve(Last::Fail),
        Need::Halve(last) => halve(last),
        Need::Halt => halt(),
    }
}

impl Tries {
    /// One more, with this code.
    pub(super) fn count(&mut self, code: Option<&str>) -> &Self {
        self.all = self.all.saturating_add(1);
        self.same = if self.all > 1 && self.code.as_deref() == code { self.same.saturating_add(1) } else { 1 };
        self.code = code.map(str::to_owned);
        self
    }
}

impl Waits {
    /// Full jitter: anything up to a bound that doubles with every try. It spreads many lanes and daemons best.
    fn between(self, pace: Pace, tries: u32, chance: f64) -> Duration {
        let bound = match pace {
            Pace::Fast => self.min,
            Pace::Slow => self.min.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(self.max),
        };
        bound.mul_f64(chance)
    }
}

/// 5 s, doubling up to 30 s; never shorter than 5 s.
fn probe_wait(tries: u32, chance: f64) -> Duration {
    let bound = PROBE_WAIT_MIN.saturating_mul(1 << tries.min(4)).min(PROBE_WAIT_MAX);
    PROBE_WAIT_MIN + (bound - PROBE_WAIT_MIN).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Waits = Waits { min: Duration::from_millis(100), max: Duration::from_secs(10) };

    const MANY: Stake = Stake::Saves { single: false, one_row: false, careful: true };
    const ONE: Stake = Stake::Saves { single: true, one_row: true, careful: false };

    fn verdict(action: Action, tries: u32, stake: Stake) -> Verdict {
        judge(action.into(), &times(tries), stake, WAITS, 0.5)
    }

    fn times(tries: u32) -> Tries {
        Tries { same: tries, all: tries, code: None }
    }

    fn halts(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Halt(_))
    }

    #[test]
    fn patience_ends_in_what_the_table_says() {
        let again = |millis| Verdict::Again(Duration::from_millis(millis));
        assert_eq!(verdict(Action::RetryThenHalt, 1, MANY), again(50));
        assert_eq!(verdict(Action::RetryThenHalt, 3, MANY), again(200));
        assert!(halts(verdict(Action::RetryThenHalt, 6, MANY)));
        assert_eq!(verdict(Action::Retry, 1_000_000, MANY), again(5_000));
        assert_eq!(verdict(Action::Unclear, 3, MANY), again(200));
        assert_eq!(verdict(Action::Unclear, 4, MANY), Verdict::Halve);
        assert!(halts(verdict(Action::Unclear, 4, ONE)), "a code that nobody knows is never poison");
        assert_eq!(verdict(Action::RetryThenHalve, 4, ONE), Verdict::Fail);
        assert_eq!(verdict(Action::RetryThenShrink, 5, MANY), again(50));
        assert_eq!(verdict(Action::RetryThenShrink, 6, MANY), Verdict::Shrink(Duration::from_millis(1_600)));
        assert_eq!(verdict(Action::Shrink, 3, ONE), again(200));
        assert!(halts(verdict(Action::Shrink, 4, ONE)), "a slow database is not poison");
        assert!(halts(verdict(Action::ReconnectThenHalt, 4, MANY)));
    }

    #[test]
    fn a_single_save_is_never_halved_and_nothing_else_ever_fails() {
        for action in [Action::Halve, Action::RowsOwn] {
            assert_eq!(verdict(action, 1, MANY), Verdict::Halve);
            assert_eq!(verdict(action, 1, ONE), Verdict::Fail);
            assert!(halts(verdict(action, 1, Stake::None)));
        }
        assert!(halts(verdict(Action::Halt, 1, MANY)) && halts(verdict(Action::Halt, 1, ONE)));
    }

    #[test]
    fn rows_at_fault_by_themselves_are_taken_out_once() {
        let hasty = Stake::Saves { single: false, one_row: false, careful: false };
        assert_eq!(verdict(Action::RowsOwn, 1, hasty), Verdict::TakeOut);
        assert_eq!(verdict(Action::RowsOwn, 2, MANY), Verdict::Halve);
        assert_eq!(verdict(Action::Halve, 1, hasty), Verdict::Halve);
    }

    #[test]
    fn patience_counts_failures_of_one_kind_in_a_row() {
        let mut tries = Tries::default();
        for (code, same, all) in [(Some("40001"), 1, 1), (Some("40001"), 2, 2), (None, 1, 3), (None, 2, 4), (Some("40001"), 1, 5)] {
            tries.count(code);
            assert_eq!((tries.same, tries.all), (same, all));
        }
    }

    #[test]
    fn waits_stay_within_their_bounds_for_ever() {
        for tries in [1, 2, 10, 40, u32::MAX] {
            for chance in [0.0, 0.999_999] {
                let judged = |action: Action| judge(action.into(), &times(tries), ONE, WAITS, chance);
                match judged(Action::Reconnect) {
                    Verdict::Reconnect(wait) => assert!(wait <= WAITS.max),
                    other => panic!("{other:?}"),
                }
                match judged(Action::Halt) {
                    Verdict::Halt(wait) => assert!((PROBE_WAIT_MIN..=PROBE_WAIT_MAX).contains(&wait), "{wait:?}"),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}
