//! What is remembered of the newest saves of some kind: enough for those who ask soon.

use std::collections::{HashMap, VecDeque};

use crate::save::Sequence;

/// Something about saves, of the last so many that were noted.
#[derive(Debug)]
pub struct Recent<T> {
    known: HashMap<Sequence, T>,
    /// Oldest first.
    noted: VecDeque<Sequence>,
    max: usize,
}

impl<T> Recent<T> {
    /// Remembers so many.
    pub fn new(max: usize) -> Self {
        Self { known: HashMap::new(), noted: VecDeque::new(), max }
    }

    /// Remembers one, and forgets the oldest if there are too many.
    pub fn note(&mut self, sequence: Sequence, what: T) {
        if self.known.insert(sequence, what).is_none() {
            self.noted.push_back(sequence);
        }
        while self.noted.len() > self.max {
            let oldest = self.noted.pop_front().expect("it is not empty");
            self.known.remove(&oldest);
        }
    }

    /// What is remembered of a save.
    pub fn get(&self, sequence: Sequence) -> Option<&T> {
        self.known.get(&sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut recent = Recent::new(2);
        for (n, what) in [(5, "a"), (3, "b"), (5, "c"), (4, "d")] {
            recent.note(Sequence::from_u64(n), what);
        }
        let known = [5, 3, 4].map(|n| recent.get(Sequence::from_u64(n)).copied());
        assert_eq!(known, [None, Some("b"), Some("d")]);
    }
}
