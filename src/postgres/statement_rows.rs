//! How many rows a statement has: as many as take `drain.statement_target`. Pure: what statements took is told, and the next
//! size follows.
//!
//! The rule is a damped proportional one. A statement of `n` rows that took `t` says that `n · target / t` would have taken the
//! target. The size goes there at once if that is less, though by no more than half (one statement may have met a checkpoint or
//! a lock), and by an eighth if it is more. If a statement takes `a + c·n`, each step leads from `n` to `n · target / (a + c·n)`,
//! which rises in `n` with the slope `a / target` where it stands still: a size that is too large comes down to the target and
//! never below it, so nothing swings. Between three quarters of the target and the target it stays. Down fast and up slowly is
//! what lets several writers share a server (Chiu and Jain, 1989).
//!
//! Each statement is held against its own rows, not those of the next: many are under way at once, and what the last of them
//! say of a size that has been corrected since corrects it no second time.

use std::time::Duration;

/// The rows of a lane's next statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatementRows {
    rows: u64,
    target: Duration,
    /// What it had before Postgres was in trouble, while it comes back from there.
    before_trouble: Option<u64>,
}

impl StatementRows {
    /// However slow statements are: with fewer rows, what each costs by itself would count more than what is written.
    pub const MIN: u64 = 100;
    /// However fast they are.
    pub const MAX: u64 = 10_000;
    /// Grows by this part of itself.
    const GROWTH_PART: u64 = 8;
    /// After trouble it comes back by this part with every commit: slowly, because what made it shrink may last.
    const RETURN_PART: u64 = 32;

    /// Begins with so many.
    pub const fn new(rows: u64, target: Duration) -> Self {
        Self { rows, target, before_trouble: None }
    }

    /// How many they are.
    pub fn get(self) -> u64 {
        self.rows
    }

    /// The target is this from now on.
    pub fn aim(&mut self, target: Duration) {
        self.target = target;
    }

    /// A statement of so many rows took so long. One that had few because there were no more says nothing about growth.
    pub fn took(&mut self, rows: u64, time: Duration) {
        let fitting = u128::from(rows) * self.target.as_nanos() / time.as_nanos().max(1);
        let fitting = u64::try_from(fitting).unwrap_or(u64::MAX);
        let (is_full, has_room) = (rows >= self.rows - self.rows / 4, time < self.target * 3 / 4);
        if time > self.target {
            let least = (self.rows / 2).max(Self::MIN);
            self.rows = self.rows.min(fitting.max(least));
            // As many as before would be too slow: there is nothing to come back to.
            self.before_trouble = self.before_trouble.filter(|&before| before < self.rows);
        } else if is_full && has_room && self.before_trouble.is_none() {
            self.rows = (self.rows + self.rows / Self::GROWTH_PART + 1).min(fitting).min(Self::MAX);
        }
    }

    /// Postgres would not take a statement for its size: half, down to a single row.
    pub fn shrink(&mut self) {
        self.before_trouble.get_or_insert(self.rows);
        self.rows = (self.rows / 2).max(1);
    }

    /// A transaction was committed.
    pub fn committed(&mut self) {
        if let Some(before) = self.before_trouble {
            self.rows = (self.rows + before / Self::RETURN_PART + 1).min(before);
            self.before_trouble = Some(before).filter(|&before| self.rows < before);
        }
    }
}

/// As the settings have it by default.
impl Default for StatementRows {
    fn default() -> Self {
        Self::new(1_000, Duration::from_millis(50))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(50);

    /// A server that takes so long for a statement and for each row.
    struct Server {
        statement: Duration,
        row: Duration,
    }

    impl Server {
        fn time(&self, rows: u64) -> Duration {
            self.statement + self.row * u32::try_from(rows).expect("few rows")
        }

        /// The sizes of full statements, one after the other.
        fn write(&self, rows: &mut StatementRows, statements: usize) -> Vec<u64> {
            let mut sizes = Vec::new();
            for _ in 0..statements {
                sizes.push(rows.get());
                rows.took(rows.get(), self.time(rows.get()));
            }
            sizes
        }
    }

    fn server(statement_micros: u64, row_micros: u64) -> Server {
        Server { statement: Duration::from_micros(statement_micros), row: Duration::from_micros(row_micros) }
    }

    #[test]
    fn whatever_a_row_costs_statements_come_to_the_target_and_stay() {
        for (statement, row) in [(0, 8), (0, 20), (0, 100), (0, 400), (1_000, 30), (20_000, 50), (40_000, 10)] {
            let server = server(statement, row);
            for start in [StatementRows::MIN, 1_000, StatementRows::MAX] {
                let mut rows = StatementRows::new(start, TARGET);
                server.write(&mut rows, 60);
                let settled = server.write(&mut rows, 100);
                assert!(settled.iter().all(|size| *size == settled[0]), "{statement} + {row}: {settled:?}");
                let time = server.time(settled[0]);
                assert!(time <= TARGET.mul_f64(1.02) && time >= TARGET.mul_f64(0.74), "{statement} + {row}: {time:?}");
            }
        }
    }

    #[test]
    fn a_size_that_is_too_large_comes_down_fast_and_never_swings() {
        let mut rows = StatementRows::new(StatementRows::MAX, TARGET);
        let sizes = server(5_000, 100).write(&mut rows, 12);
        assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
        assert!(sizes[6] <= 460 && sizes[11] >= 440, "{sizes:?}");
    }

    #[test]
    fn growth_is_slow_and_ends_at_the_bounds() {
        let mut rows = StatementRows::new(1_000, TARGET);
        let sizes = server(0, 1).write(&mut rows, 60);
        assert!(sizes.windows(2).all(|pair| pair[1] <= pair[0] + pair[0] / 8 + 1), "{sizes:?}");
        assert_eq!(rows.get(), StatementRows::MAX);
        server(100_000, 0).write(&mut rows, 20);
        assert_eq!(rows.get(), StatementRows::MIN);
    }

    #[test]
    fn one_slow_statement_costs_no_more_than_half() {
        let mut rows = StatementRows::new(4_000, TARGET);
        rows.took(4_000, Duration::from_secs(20));
        assert_eq!(rows.get(), 2_000);
    }

    #[test]
    fn statements_under_way_correct_a_size_once() {
        let server = server(0, 100);
        let mut rows = StatementRows::new(2_000, TARGET);
        for _ in 0..64 {
            rows.took(2_000, server.time(2_000));
        }
        assert_eq!(rows.get(), 500, "as many as fit, however many say so");
        let mut rows = StatementRows::new(1_000, TARGET);
        for _ in 0..64 {
            rows.took(1_000, Duration::from_millis(1));
        }
        assert!(rows.get() <= 1_500, "they say nothing of a size that none of them had: {}", rows.get());
    }

    #[test]
    fn a_statement_that_had_no_more_to_write_says_nothing_about_growth() {
        let mut rows = StatementRows::new(1_000, TARGET);
        rows.took(700, Duration::from_micros(10));
        assert_eq!(rows.get(), 1_000);
        rows.took(700, TARGET * 2);
        assert_eq!(rows.get(), 500, "but that it is slow says enough");
    }

    #[test]
    fn after_trouble_it_comes_back_with_commits_alone() {
        let mut rows = StatementRows::new(1_000, TARGET);
        (0..4).for_each(|_| rows.shrink());
        assert_eq!(rows.get(), 62, "below the least that slowness alone leads to");
        rows.took(62, Duration::from_micros(10));
        assert_eq!(rows.get(), 62);
        (0..29).for_each(|_| rows.committed());
        assert!(rows.get() < 1_000, "{}", rows.get());
        (0..2).for_each(|_| rows.committed());
        assert_eq!(rows.get(), 1_000);
        rows.took(1_000, Duration::from_millis(10));
        assert!(rows.get() > 1_000, "from there on it grows as ever");
        (0..20).for_each(|_| rows.shrink());
        assert_eq!(rows.get(), 1);
        (0..200).for_each(|_| rows.committed());
        assert!(rows.get() > 1_000);
    }

    #[test]
    fn it_comes_back_no_further_than_the_target_allows() {
        let mut rows = StatementRows::new(1_000, TARGET);
        rows.shrink();
        rows.took(500, TARGET * 2);
        assert_eq!(rows.get(), 250);
        rows.committed();
        rows.took(rows.get(), TARGET * 2);
        assert!(rows.get() < 250, "{}", rows.get());
    }

    #[test]
    fn another_target_is_another_size() {
        let server = server(0, 100);
        let mut rows = StatementRows::new(1_000, TARGET);
        server.write(&mut rows, 30);
        assert_eq!(rows.get(), 500);
        rows.aim(TARGET / 5);
        server.write(&mut rows, 30);
        assert_eq!(rows.get(), 100);
    }
}
