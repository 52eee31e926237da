//! Sets of columns, small and fast to compare: the fold asks for every save whether it covers the one before.

/// A column, by its place in its [`Collection`](crate::collections::Collection): stable as long as the process lives.
pub type ColumnIndex = u16;

/// A set of columns of one collection. Tables of up to 64 columns need no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ColumnSet {
    low: u64,
    /// Columns from 64 on, 64 to a word, without trailing zero words.
    #[expect(clippy::box_collection, reason = "a table of over 64 columns is rare: 8 bytes in every object, not 24")]
    high: Option<Box<Vec<u64>>>,
}

impl ColumnSet {
    /// No column.
    pub const EMPTY: Self = Self { low: 0, high: None };

    const WORD: u16 = 64;

    /// Adds a column; false if it was there.
    pub fn insert(&mut self, column: ColumnIndex) -> bool {
        let bit = 1 << (column % Self::WORD);
        let word = self.word_mut(column / Self::WORD);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Whether the column is in the set.
    pub fn contains(&self, column: ColumnIndex) -> bool {
        self.word(usize::from(column / Self::WORD)) & (1 << (column % Self::WORD)) != 0
    }

    /// Whether every column of `other` is in this set.
    pub fn covers(&self, other: &Self) -> bool {
        other.low & !self.low == 0 && (1..other.words()).all(|n| other.word(n) & !self.word(n) == 0)
    }

    /// Whether a column is in both sets.
    pub fn intersects(&self, other: &Self) -> bool {
        self.low & other.low != 0 || (1..other.words()).any(|n| other.word(n) & self.word(n) != 0)
    }

    /// Adds every column of `other`.
    pub fn extend(&mut self, other: &Self) {
        for column in other.iter() {
            self.insert(column);
        }
    }

    /// The columns of this set that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.iter().filter(|&column| !other.contains(column)).collect()
    }

    /// How many columns are in it.
    pub fn len(&self) -> usize {
        (0..self.words()).map(|n| self.word(n).count_ones() as usize).sum()
    }

    /// Whether there is no column in it.
    pub fn is_empty(&self) -> bool {
        self.low == 0 && self.high.is_none()
    }

    /// The columns, rising.
    pub fn iter(&self) -> impl Iterator<Item = ColumnIndex> + '_ {
        (0..self.words()).flat_map(move |n| {
            let word = self.word(n);
            (0..Self::WORD).filter(move |bit| word & (1 << bit) != 0).map(move |bit| n as u16 * Self::WORD + bit)
        })
    }

    fn words(&self) -> usize {
        1 + self.high.as_ref().map_or(0, |high| high.len())
    }

    fn word(&self, n: usize) -> u64 {
        match n {
            0 => self.low,
            _ => self.high.as_ref().and_then(|high| high.get(n - 1)).copied().unwrap_or(0),
        }
    }

    fn word_mut(&mut self, n: u16) -> &mut u64 {
        if n == 0 {
            return &mut self.low;
        }
        let high = self.high.get_or_insert_default();
        let n = usize::from(n);
        if high.len() < n {
            high.resize(n, 0);
        }
        &mut high[n - 1]
    }
}

impl FromIterator<ColumnIndex> for ColumnSet {
    fn from_iter<I: IntoIterator<Item = ColumnIndex>>(columns: I) -> Self {
        let mut set = Self::default();
        for column in columns {
            set.insert(column);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(a in prop::collection::btree_set(0u16..300, 0..20), b in prop::collection::btree_set(0u16..300, 0..20)) {
            let (left, right): (ColumnSet, ColumnSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(left.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(left.covers(&right), b.is_subset(&a));
            prop_assert_eq!(left.is_empty(), a.is_empty());
            let mut both = left.clone();
            both.extend(&right);
            prop_assert_eq!(both.iter().collect::<BTreeSet<_>>(), a.union(&b).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(left == right, a == b);
            prop_assert_eq!(left.without(&right).iter().collect::<BTreeSet<_>>(), &a - &b);
            prop_assert_eq!((left.len(), both.len()), (a.len(), a.union(&b).count()));
        }
    }
}
