//! Which tables a save can change beside its own row: what the referential actions of foreign keys do, from table to table.
//! Pure. The backlog asks it where a fold must be cut.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Collection, ForeignKey, Reaction};
use crate::save::{Change, CollectionId, ColumnSet, Save};

/// What saves reach, by collection. Collections that are not in it reach nothing.
///
/// Made anew with every catalog that differs: what was folded by another one (told by its address) is folded again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaches(BTreeMap<CollectionId, Reach>);

/// What saves of one collection reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reach {
    /// Tables whose rows a delete changes.
    by_delete: BTreeSet<CollectionId>,
    /// Columns that others reference with an action on update.
    acting: ColumnSet,
    /// Tables whose rows a change of such a column changes.
    by_update: BTreeSet<CollectionId>,
    /// Whether deletes do nothing but cascade: then their order doesn't show.
    pure_cascade: bool,
    /// What follows a change of such a column follows the next one too: of several changes only the last counts.
    follows: bool,
}

impl Reaches {
    /// The tables whose rows this save can change beside its own; `None` if there are none.
    pub fn of(&self, save: &Save) -> Option<&BTreeSet<CollectionId>> {
        let reach = self.0.get(&save.collection)?;
        let reached = match save.change {
            Change::Delete => &reach.by_delete,
            Change::Set(_) if save.columns.intersects(&reach.acting) => &reach.by_update,
            Change::Set(_) | Change::Append(_) => return None,
        };
        (!reached.is_empty()).then_some(reached)
    }

    /// Whether a row of this collection must really be deleted and inserted where it is: to update it instead would leave out
    /// what the delete does to others, or do what the insert would not.
    pub fn forbids_replace(&self, collection: CollectionId) -> bool {
        self.0.contains_key(&collection)
    }

    /// Whether deletes of this collection may come in any order among themselves.
    pub fn deletes_commute(&self, collection: CollectionId) -> bool {
        self.0.get(&collection).is_none_or(|reach| reach.pure_cascade)
    }

    /// Whether two changes of these columns of one object may not become one: what the first did to others would not show.
    pub fn forbids_union(&self, collection: CollectionId, earlier: &ColumnSet, later: &ColumnSet) -> bool {
        self.0.get(&collection).is_some_and(|reach| !reach.follows && earlier.intersects(&reach.acting) && later.intersects(&reach.acting))
    }
}

/// What the foreign keys of a catalog make of its collections.
pub(super) fn reaches<'a>(list: impl Iterator<Item = &'a Collection>, foreign_keys: &[ForeignKey]) -> Reaches {
    let collections: Vec<_> = list.collect();
    let ids = collections.iter().map(|c| (Table(&c.schema, &c.table), c.id)).collect();
    let mut referencing: HashMap<_, Vec<_>> = HashMap::new();
    for key in foreign_keys {
        referencing.entry(Table(&key.to.0, &key.to.1)).or_default().push(key);
    }
    let spreading = Spreading { ids, referencing };
    let reach = |collection: &&Collection| {
        let reach = spreading.reach(collection);
        (reach != Reach::default()).then_some((collection.id, reach))
    };
    Reaches(collections.iter().filter_map(reach).collect())
}

/// Schema and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Table<'a>(&'a str, &'a str);

/// What happens to rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event<'a> {
    Delete,
    Update(&'a str),
}

/// Follows events along the foreign keys, also through tables that are no collections.
struct Spreading<'a> {
    ids: HashMap<Table<'a>, CollectionId>,
    referencing: HashMap<Table<'a>, Vec<&'a ForeignKey>>,
}

impl<'a> Spreading<'a> {
    fn reach(&self, collection: &'a Collection) -> Reach {
        let table = Table(&collection.schema, &collection.table);
        let (by_delete, pure_cascade) = self.from([(table, Event::Delete)]);
        let mut reach = Reach { pure_cascade: pure_cascade && !by_delete.is_empty(), by_delete, ..Reach::default() };
        let mut acting = Vec::new();
        for key in self.referencing(table).iter().filter(|key| acts(key.on_update)) {
            for name in &key.to_columns {
                // A column of the key that saves go by never changes by a save.
                let Some((index, column)) = collection.column(name).filter(|&(index, _)| !collection.is_key(index)) else { continue };
                if column.read_only.is_some() {
                    // Generated from others: any may be the one.
                    reach.acting.extend(&(0..).zip(&collection.columns).map(|(index, _)| index).collect());
                }
                reach.acting.insert(index);
                acting.push((table, Event::Update(name)));
            }
        }
        (reach.by_update, reach.follows) = self.from(acting);
        // Nothing to follow, nothing to compare.
        reach.follows &= !reach.acting.is_empty();
        reach
    }

    /// Every collection reached, and whether by nothing but `cascade`.
    fn from(&self, events: impl IntoIterator<Item = (Table<'a>, Event<'a>)>) -> (BTreeSet<CollectionId>, bool) {
        let (mut reached, mut cascades) = (BTreeSet::new(), true);
        let mut open: Vec<_> = events.into_iter().collect();
        let mut seen: HashSet<_> = open.iter().copied().collect();
        while let Some((table, event)) = open.pop() {
            for key in self.referencing(table) {
                let reaction = match event {
                    Event::Delete => key.on_delete,
                    Event::Update(column) if key.to_columns.iter().any(|name| name == column) => key.on_update,
                    Event::Update(_) => continue,
                };
                if !acts(reaction) {
                    continue;
                }
                cascades &= reaction == Reaction::Cascade;
                let from = Table(&key.from.0, &key.from.1);
                reached.extend(self.ids.get(&from));
                let deleted = event == Event::Delete && reaction == Reaction::Cascade;
                let updated = key.from_columns.iter().filter(|_| !deleted).map(|column| Event::Update(column));
                let next = updated.chain(deleted.then_some(Event::Delete)).map(|event| (from, event));
                open.extend(next.filter(|&event| seen.insert(event)));
            }
        }
        (reached, cascades)
    }

    fn referencing(&self, table: Table<'a>) -> &[&'a ForeignKey] {
        self.referencing.get(&table).map_or(&[], Vec::as_slice)
    }
}

fn acts(reaction: Reaction) -> bool {
    matches!(reaction, Reaction::Cascade | Reaction::SetNull | Reaction::SetDefault)
}
