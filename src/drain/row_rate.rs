//! How many rows a second the lanes may write, all together: `drain.rows_per_second_max`.
//!
//! A token bucket that may be overdrawn: a transaction begins when nothing is owed and is paid for by the pause after it. So a
//! pause lies between transactions, never inside one, where locks would be held for as long. In any time `t` no more than
//! `rate · (t + 0.2 s)` rows are begun and the last transaction, which has as many as a second allows ([`Allowance::objects_max`])
//! or is a single atomic batch. Tries that Postgres rolled back count: it has had the work.
//!
//! The lanes take turns: the more of the others wrote longer ago, the later a lane may begin, by [`TURN`] for each. So none is
//! kept out, nobody queues, and a lane that is paused or halted holds up no other.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::{limits::Limit, save::LaneId};

/// The rate of all lanes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RowRate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: Arc<Limit>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Rows that may be written at once; below zero, rows that are owed.
    level: f64,
    /// When that was.
    at: Instant,
    /// The lanes that have asked: who wrote longest ago comes first.
    turns: Vec<LaneId>,
    /// Rows of the current second, and of the one before.
    seconds: [u64; 2],
    second: Instant,
}

/// What a lane may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Objects of one transaction.
    pub(super) objects_max: u64,
    /// Nothing is begun before.
    pub(super) from: Instant,
}

/// By so much later than one that wrote longer ago.
const TURN: Duration = Duration::from_millis(5);
/// What may be saved up, so that neither turns nor timers cost rows: more than the turns of all lanes.
const SAVED: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);

impl RowRate {
    /// As this limit has it, now and whenever it is changed; 0 is none.
    pub fn new(limit: Arc<Limit>) -> Self {
        let now = Instant::now();
        let inner = Inner { level: 0.0, at: now, turns: Vec::new(), seconds: [0, 0], second: now };
        Self(Arc::new(Shared { limit, inner: Mutex::new(inner) }))
    }

    /// What this lane may write.
    pub(super) fn allows(&self, lane: LaneId, now: Instant) -> Allowance {
        match self.0.limit.max() {
            0 => Allowance { objects_max: u64::MAX, from: now },
            rate => self.with_inner(|inner| Allowance { objects_max: rate, from: now + inner.wait(lane, rate as f64, now) }),
        }
    }

    /// A transaction of so many rows begins, unless another lane has been faster.
    pub(super) fn begin(&self, lane: LaneId, rows: u64, now: Instant) -> bool {
        let rate = self.0.limit.max();
        self.with_inner(|inner| {
            let may = rate == 0 || inner.wait(lane, rate as f64, now).is_zero();
            if may {
                inner.take(lane, rows, rate > 0, now);
            }
            may
        })
    }

    /// Shows as what is used of the limit how many rows were begun in the last second.
    pub fn measure(&self, now: Instant) {
        let rows = self.with_inner(|inner| {
            inner.turn_second(now);
            inner.seconds[1]
        });
        self.0.limit.set_used(rows);
    }

    fn with_inner<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.inner.lock().expect("counting doesn't panic"))
    }
}

impl Inner {
    /// How long the lane has to wait.
    fn wait(&mut self, lane: LaneId, rate: f64, now: Instant) -> Duration {
        self.level = (self.level + rate * now.saturating_duration_since(self.at).as_secs_f64()).min(rate * SAVED.as_secs_f64());
        self.at = now;
        let turn = TURN.as_secs_f64() * self.others_before(lane) as f64;
        Duration::from_secs_f64((turn - self.level / rate).max(0.0))
    }

    /// How many lanes wrote longer ago. One that never did comes first.
    fn others_before(&mut self, lane: LaneId) -> usize {
        self.turns.iter().position(|&other| other == lane).unwrap_or_else(|| {
            self.turns.insert(0, lane);
            0
        })
    }

    fn take(&mut self, lane: LaneId, rows: u64, is_limited: bool, now: Instant) {
        // What was written without a limit is owed to none that comes later.
        (self.level, self.at) = (if is_limited { self.level - rows as f64 } else { 0.0 }, now);
        self.turns.retain(|&other| other != lane);
        self.turns.push(lane);
        self.turn_second(now);
        self.seconds[0] += rows;
    }

    fn turn_second(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.second);
        if elapsed >= SECOND {
            self.seconds = [0, if elapsed < 2 * SECOND { self.seconds[0] } else { 0 }];
            self.second = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LimitKind;

    fn rate(max: u64) -> (RowRate, Arc<Limit>) {
        let limit = Limit::new(LimitKind::Rate, "drain.rows_per_second_max", max);
        (RowRate::new(Arc::clone(&limit)), limit)
    }

    /// Lanes that always have as much to write as they may, for so long, in steps of a millisecond: when each began how much.
    fn drive(rate: &RowRate, lanes: u16, time: Duration) -> Vec<(Instant, LaneId, u64)> {
        let (mut begun, mut now) = (Vec::new(), Instant::now());
        let end = now + time;
        while now < end {
            for lane in (0..lanes).map(LaneId) {
                let Allowance { objects_max, from } = rate.allows(lane, now);
                if from <= now {
                    assert!(rate.begin(lane, objects_max, now));
                    begun.push((now, lane, objects_max));
                }
            }
            now += Duration::from_millis(1);
        }
        begun
    }

    #[test]
    fn no_window_has_more_rows_than_the_rate_and_one_transaction() {
        for lanes in [1, 2, 5, 32] {
            let begun = drive(&rate(1_000).0, lanes, Duration::from_secs(120));
            for (first, &(from, ..)) in begun.iter().enumerate() {
                let mut rows = 0;
                for &(to, _, more) in &begun[first..] {
                    rows += more;
                    let allowed = 1_000.0 * ((to - from) + SAVED).as_secs_f64() + 1_000.0;
                    assert!(rows as f64 <= allowed + 0.1, "{rows} rows in {:?} by {lanes} lanes", to - from);
                }
            }
            assert!(begun.len() >= 119, "the rate is used: {} seconds of 120 by {lanes} lanes", begun.len());
        }
    }

    #[test]
    fn lanes_take_turns() {
        let begun = drive(&rate(1_000).0, 4, Duration::from_secs(100));
        for lane in (0..4).map(LaneId) {
            let turns = begun.iter().filter(|(_, who, _)| *who == lane).count();
            assert!((24..=27).contains(&turns), "{lane:?} had {turns}");
        }
    }

    #[test]
    fn a_lane_that_stays_away_costs_the_others_nothing() {
        let (rate, _) = rate(1_000);
        assert!(rate.begin(LaneId(1), 1, Instant::now()));
        assert!(drive(&rate, 1, Duration::from_secs(50)).len() >= 49);
    }

    #[tokio::test(start_paused = true)]
    async fn another_rate_counts_at_once_and_none_lifts_what_is_owed() {
        let (rate, limit) = rate(10);
        let now = Instant::now();
        assert!(rate.begin(LaneId(0), 1_000, now), "a batch that can't be divided");
        let waits = || rate.allows(LaneId(0), now).from - now;
        assert_eq!(waits(), Duration::from_secs(100));
        limit.set_max(100);
        assert_eq!(waits(), Duration::from_secs(10));
        assert!(!rate.begin(LaneId(0), 1, now));
        limit.set_max(0);
        assert_eq!(rate.allows(LaneId(0), now), Allowance { objects_max: u64::MAX, from: now });
        assert!(rate.begin(LaneId(0), 1_000_000, now));
        limit.set_max(10);
        assert_eq!(waits(), Duration::ZERO, "what was written without a limit is owed to nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_used_of_it_are_the_rows_of_the_last_second() {
        let (rate, limit) = rate(0);
        let now = Instant::now();
        assert!(rate.begin(LaneId(0), 30, now) && rate.begin(LaneId(1), 12, now));
        rate.measure(now + SECOND);
        assert_eq!(limit.used(), 42);
        rate.measure(now + 3 * SECOND);
        assert_eq!(limit.used(), 0);
    }
}
