//! Entries: what one row has to become, step by step. Nearly every object needs one; see [`fold`](super::fold) for the rules.

use crate::save::{Added, Body, ColumnSet, Member, sum_of_amounts};

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
    /// A row that is there is only changed if its version is lower or null. (One that is replaced is changed in any case.)
    pub version: Option<i64>,
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
        Self { replaces, columns, adds: ColumnSet::EMPTY, body, version: None }
    }

    /// The later entry over this one. `added` are the columns that the later adds to; `exists`: an entry before this one has
    /// made sure that there is a row.
    pub(super) fn then(self, later: Self, added: &[Added], exists: bool) -> Laid {
        match (self.version, later.version) {
            (None, None) => {}
            (Some(known), Some(version)) if version <= known => return Laid::Stale(self),
            // The version that the row has is known.
            (Some(_), Some(_)) if self.replaces => {}
            (Some(_), Some(_)) if later.adds.is_empty() && later.columns.covers(&self.columns) => return Laid::One(later),
            _ => return Laid::Two(self, later),
        }
        if self.adds.is_empty() && later.adds.is_empty() {
            let (columns, body) = union(self.columns, &self.body, later.columns, later.body);
            return Laid::One(Self { version: later.version, ..Self::plain(self.replaces, columns, body) });
        }
        match self.summed(&later, added, exists) {
            Some(one) => Laid::One(one),
            None => Laid::Two(self, later),
        }
    }

    /// Both as one, with what is added summed; `None` if that would show.
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
        Some(Self { replaces: self.replaces, columns, adds, body, version: later.version })
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
