//! Which arrival rate to try next, and when to stop. Pure: the same answers lead along the same rates.
//!
//! The rate doubles until a step breaks, or halves until one holds; then the gap between the highest that held and the lowest that
//! broke is cut, at its geometric middle, a few times. One step may hold by luck, near the edge above all: the capacity is the
//! highest rate that held **twice**. A rate that breaks at its second try is given up for the next lower one that held.

const GROWTH: f64 = 2.0;
/// Leave a gap of 2^(1/16), 4 %: less than two runs on one machine differ by.
const CUTS: u32 = 4;
/// Arrivals per second: what doesn't hold this has no capacity worth a number.
const RATE_MIN: f64 = 1.0;

/// The state of a search. Its end is certain: each phase has a bounded number of steps.
#[derive(Debug)]
pub(super) struct Search {
    first: f64,
    max: f64,
    /// Held once, ascending.
    held: Vec<f64>,
    /// The lowest that broke.
    broke: Option<f64>,
    cuts: u32,
    capacity: Option<f64>,
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// To find whether the rate holds.
    Try(f64),
    /// To see it hold again.
    Confirm(f64),
}

impl Search {
    /// Begins at one rate, or at the highest, if that is lower, and never goes above the highest.
    pub(super) fn new(first: f64, max: f64) -> Self {
        Self { first: first.min(max), max, held: Vec::new(), broke: None, cuts: 0, capacity: None }
    }

    /// The rate of the next step; none: the search is over.
    pub(super) fn next(&self) -> Option<f64> {
        self.step().map(|(Step::Try(rate) | Step::Confirm(rate))| rate)
    }

    /// Whether the step of the last [`Self::next`] held.
    pub(super) fn tell(&mut self, held: bool) {
        let Some(step) = self.step() else { return };
        match (step, held) {
            (Step::Confirm(rate), true) => self.capacity = Some(rate),
            (Step::Confirm(rate), false) => {
                self.held.pop();
                self.broke = Some(rate);
            }
            (Step::Try(rate), held) => {
                self.cuts += u32::from(!self.held.is_empty() && self.broke.is_some());
                match held {
                    true => self.held.push(rate),
                    false => self.broke = Some(rate),
                }
            }
        }
    }

    /// The highest rate that held twice.
    pub(super) fn capacity(&self) -> Option<f64> {
        self.capacity
    }

    fn step(&self) -> Option<Step> {
        if self.capacity.is_some() {
            return None;
        }
        match (self.held.last().copied(), self.broke) {
            (None, None) => Some(Step::Try(self.first)),
            (Some(held), None) if held < self.max => Some(Step::Try((held * GROWTH).min(self.max))),
            (None, Some(broke)) => Some(broke / GROWTH).filter(|&rate| rate >= RATE_MIN).map(Step::Try),
            (Some(held), Some(broke)) if self.cuts < CUTS => Some(Step::Try((held * broke).sqrt())),
            (Some(held), _) => Some(Step::Confirm(held)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches against a server; the capacity and the rates that were tried.
    fn search(mut search: Search, mut holds: impl FnMut(f64) -> bool) -> (Option<f64>, Vec<f64>) {
        let mut tried = Vec::new();
        while let Some(rate) = search.next() {
            tried.push(rate);
            search.tell(holds(rate));
        }
        (search.capacity(), tried)
    }

    /// The 95th percentile of the sojourn time of an M/M/1 queue, in seconds: -ln(0.05) / (service rate - arrival rate).
    fn p95(service_rate: f64, rate: f64) -> f64 {
        if rate < service_rate { 20_f64.ln() / (service_rate - rate) } else { f64::INFINITY }
    }

    #[test]
    fn the_capacity_of_a_model_server_is_found_to_a_twentieth() {
        for service_rate in [300.0, 4_321.0, 25_000.0, 170_000.0] {
            let truth = service_rate - 20_f64.ln() / 0.02;
            let (capacity, tried) = search(Search::new(200.0, 1e7), |rate| p95(service_rate, rate) <= 0.02);
            let capacity = capacity.expect("it has one");
            assert!(capacity <= truth && capacity > truth / 1.05, "{capacity} of {truth}");
            assert_eq!(tried.iter().filter(|&&rate| rate == capacity).count(), 2, "held twice: {tried:?}");
            assert!(tried.len() < 24, "{tried:?}");
        }
    }

    #[test]
    fn the_rate_doubles_then_the_gap_is_cut() {
        let (capacity, tried) = search(Search::new(100.0, 1e7), |rate| rate < 410.0);
        let rounded: Vec<_> = tried.iter().map(|rate| rate.round()).collect();
        assert_eq!(rounded, [100.0, 200.0, 400.0, 800.0, 566.0, 476.0, 436.0, 418.0, 400.0]);
        assert_eq!(capacity, Some(400.0));
    }

    #[test]
    fn a_rate_that_held_by_luck_is_given_up_for_the_next_lower() {
        let mut lucky = true;
        let holds = |rate: f64| rate < 390.0 || (rate < 410.0 && std::mem::take(&mut lucky));
        let (capacity, tried) = search(Search::new(100.0, 400.0), holds);
        let rounded: Vec<_> = tried.iter().map(|rate| rate.round()).collect();
        assert_eq!(rounded, [100.0, 200.0, 400.0, 400.0, 283.0, 336.0, 367.0, 383.0, 383.0]);
        assert_eq!(capacity, tried.last().copied());
    }

    #[test]
    fn a_slow_server_is_found_below_the_first_rate() {
        let (capacity, tried) = search(Search::new(200.0, 1e7), |rate| rate < 30.0);
        assert_eq!(&tried[..4], [200.0, 100.0, 50.0, 25.0]);
        assert!(capacity.is_some_and(|capacity| (28.0..30.0).contains(&capacity)), "{capacity:?}");
    }

    #[test]
    fn what_holds_nothing_has_no_capacity() {
        let (capacity, tried) = search(Search::new(16.0, 1e7), |_| false);
        assert_eq!((capacity, tried), (None, vec![16.0, 8.0, 4.0, 2.0, 1.0]));
    }

    #[test]
    fn the_highest_rate_is_never_passed() {
        let (capacity, tried) = search(Search::new(2_000.0, 300.0), |_| true);
        assert_eq!((capacity, tried), (Some(300.0), vec![300.0, 300.0]));
        let (capacity, tried) = search(Search::new(200.0, 300.0), |_| true);
        assert_eq!((capacity, tried), (Some(300.0), vec![200.0, 300.0, 300.0]));
    }
}
