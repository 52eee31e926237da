//! Tables in foreign-key order.

use std::{collections::HashMap, sync::Arc};

use super::{Collection, ForeignKey};
use crate::save::CollectionId;

/// Every collection, those that are referenced before those that reference. A cycle is broken where it is entered: its
/// constraints have to be deferrable, or its rows go one after the other.
pub(super) fn parents_first(list: &[Arc<Collection>], foreign_keys: &[ForeignKey]) -> Vec<CollectionId> {
    let by_table: HashMap<_, _> = list.iter().map(|c| ((c.schema.as_str(), c.table.as_str()), c.id)).collect();
    let mut parents: HashMap<CollectionId, Vec<CollectionId>> = HashMap::new();
    for key in foreign_keys {
        let from = by_table.get(&(key.from.0.as_str(), key.from.1.as_str()));
        let to = by_table.get(&(key.to.0.as_str(), key.to.1.as_str()));
        if let (Some(&from), Some(&to)) = (from, to) {
            parents.entry(from).or_default().push(to);
        }
    }
    let mut ordered = Vec::with_capacity(list.len());
    let mut entered = vec![false; list.len()];
    for collection in list {
        visit(collection.id, &parents, &mut entered, &mut ordered);
    }
    ordered
}

/// Depth first, with a stack of its own: a chain of tables may be long.
fn visit(root: CollectionId, parents: &HashMap<CollectionId, Vec<CollectionId>>, entered: &mut [bool], ordered: &mut Vec<CollectionId>) {
    if std::mem::replace(&mut entered[root.0 as usize], true) {
        return;
    }
    let of = |id: CollectionId| parents.get(&id).map_or(&[][..], Vec::as_slice).iter();
    let mut stack = vec![(root, of(root))];
    while let Some((id, rest)) = stack.last_mut() {
        match rest.next() {
            Some(&parent) if !std::mem::replace(&mut entered[parent.0 as usize], true) => stack.push((parent, of(parent))),
            Some(_) => {}
            None => {
                ordered.push(*id);
                stack.pop();
            }
        }
    }
}
