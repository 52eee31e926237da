//! Entries: what one row has to become, step by step. Nearly every object needs one; see [`fold`](super::fold) for the rules.

use super::SEQUENCE_BYTES;
use crate::save::{Added, Body, ColumnSet, Member, Save, Sequence, sum_of_amounts};

/// A step of an object: what one statement does to its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether the row is made anew: columns not named return to their defaults.
    pub replaces: bool,
    /// The columns named, key columns left out.
    pub columns: ColumnSet,
    /// Those of them that are added to, if there is a row. Their members come first in the body.
    pub adds: ColumnSet,
    /// The values.
    pub body: Body,
    /// Of a collection with a version column. (Apart: where there is none it takes no room.)
    pub guard: Option<Box<Guard>>,
}

/// A version that decides whether an entry has an effect, and for which saves it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// A row that is there is only changed if its version is lower or null. (One that is replaced is changed in any case.)
    pub version: i64,
    /// The save whose version it is.
    pub save: Sequence,
    /// The saves that it hides, in order: they share its fate. None if the entry replaces.
    pub folded: Vec<Sequence>,
}

/// What two entries of one object make.
pub(super) enum Laid {
    /// One that does what both do.
    One(Entry),
    /// They stay apart, in order.
    Two(Entry, Entry),
    /// The earlier one: the later can't change the row, whatever Postgres holds.
    Stale(Entry),
}

impl Entry {
    /// An entry that only names columns.
    pub(super) fn plain(replaces: bool, columns: ColumnSet, body: Body) -> Self {
        Self { replaces, columns, adds: ColumnSet::EMPTY, body, guard: None }
    }

    /// What it takes of the limits beside its frame.
    pub(super) fn bytes(&self) -> u64 {
        self.body.as_bytes().len() as u64 + self.guard.as_ref().map_or(0, |guard| guard.bytes())
    }

    /// The later entry over this one. `added` are the columns that the later adds to; `exists`: an entry before this one has
    /// made sure that there is a row.
    pub(super) fn then(self, later: Self, added: &[Added], exists: bool) -> Laid {
        match (&self.guard, &later.guard) {
            (None, None) => {}
            (Some(known), Some(guard)) if guard.version <= known.version => return Laid::Stale(self),
            // The version that the row has is known.
            (Some(_), Some(_)) if self.replaces => {}
            (Some(_), Some(_)) if later.adds.is_empty() && later.columns.covers(&self.columns) => return Laid::One(later.hiding(self)),
            _ => return Laid::Two(self, later),
        }
        if self.adds.is_empty() && later.adds.is_empty() {
            let (columns, body) = union(self.columns, &self.body, later.columns, later.body);
            let guard = later.guard.map(Guard::of_a_replace);
            return Laid::One(Self { guard, ..Self::plain(self.replaces, columns, body) });
        }
        match self.summed(&later, added, exists) {
            Some(one) => Laid::One(Self { guard: later.guard.map(Guard::of_a_replace), ..one }),
            None => Laid::Two(self, later),
        }
    }

    /// In the place of an earlier one, whose saves share its fate from now on.
    fn hiding(mut self, earlier: Self) -> Self {
        if let (Some(guard), Some(hidden)) = (&mut self.guard, earlier.guard) {
            let Guard { save, mut folded, .. } = *hidden;
            folded.push(save);
            folded.append(&mut guard.folded);
            guard.folded = folded;
        }
        self
    }

    /// Both as one, without a guard and with what is added summed; `None` if that would show.
    fn summed(&self, later: &Self, added: &[Added], exists: bool) -> Option<Self> {
        if !(exists || self.columns.covers(&later.adds)) {
            return None;
        }
        let (members, over) = (self.body.members(), later.body.members());
        let (mut first, mut rest) = (Vec::with_capacity(members.len() + over.len()), Vec::with_capacity(members.len()));
        for (n, Member { name, value }) in members.into_iter().enumerate() {
            let is_added = n < self.adds.len();
            let value = match over.iter().position(|other| other.name == name) {
                None => value.to_owned(),
                Some(place) => match added.get(place) {
                    None => continue,
                    Some(_) if is_added => sum_of_amounts(value, over[place].value)?,
                    Some(to) => to.form?.sum(value, over[place].value)?,
                },
            };
            if is_added { first.push((name, value)) } else { rest.push((name, value)) }
        }
        for (place, Member { name, value }) in over.into_iter().enumerate() {
            match added.get(place) {
                None => rest.push((name, value.to_owned())),
                Some(to) if !self.columns.contains(to.column) => first.push((name, value.to_owned())),
                Some(_) => {}
            }
        }
        let bytes_max = self.body.as_bytes().len() + later.body.as_bytes().len();
        let body = Body::of_members(bytes_max, first.into_iter().chain(rest));
        if body.as_bytes().len() > bytes_max {
            // A number that had an exponent is written out: more than admission has taken room for.
            return None;
        }
        let mut adds = self.adds.without(&later.columns.without(&later.adds));
        adds.extend(&later.adds.without(&self.columns));
        let mut columns = self.columns.clone();
        columns.extend(&later.columns);
        Some(Self { replaces: self.replaces, columns, adds, body, guard: None })
    }
}

impl Guard {
    pub(super) fn new(version: i64, save: Sequence) -> Self {
        Self { version, save, folded: Vec::new() }
    }

    /// The saves that have no effect if the row is not changed.
    pub fn saves(&self) -> impl Iterator<Item = Sequence> {
        self.folded.iter().copied().chain([self.save])
    }

    /// Written in any case: nobody will ask what it hides.
    fn of_a_replace(mut self: Box<Self>) -> Box<Self> {
        self.folded = Vec::new();
        self
    }

    fn bytes(&self) -> u64 {
        Save::VERSION_BYTES + SEQUENCE_BYTES * self.folded.len() as u64
    }
}

/// Set + set: all columns of both, the later value wins. A later body that names every column is taken as it is; what the
/// earlier one may hold beyond them is the key.
fn union(mut columns: ColumnSet, body: &Body, later_columns: ColumnSet, later_body: Body) -> (ColumnSet, Body) {
    if later_columns.covers(&columns) {
        return (later_columns, later_body);
    }
    columns.extend(&later_columns);
    (columns, body.overlaid(&later_body))
}
