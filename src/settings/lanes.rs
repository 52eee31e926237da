//! What must hold of `[lanes.NAME]` before the catalog is known.

use std::collections::BTreeMap;

use super::{LaneSettings, Settings};
use crate::collections::Lanes;

/// Whether a lane may be called so: the name stands in its position row, in metrics and in the log.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=Settings::LANE_NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(fits)
}

pub(super) fn no_name() -> String {
    format!("is no lane's name: up to {} letters, digits, - and _", Settings::LANE_NAME_BYTES_MAX)
}

/// Every problem between lanes.
pub(super) fn problems(lanes: &BTreeMap<String, LaneSettings>) -> Vec<String> {
    let mut problems = Vec::new();
    if lanes.len() > Settings::LANES_MAX {
        problems.push(format!("there are {} lanes, at most {} are possible: each holds a connection", lanes.len(), Settings::LANES_MAX));
    }
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, lane) in lanes {
        match (&lane.collections, name == Lanes::DEFAULT) {
            (None, false) => problems.push(format!("lanes.{name} writes nothing: give it lanes.{name}.collections, or leave the lane out")),
            (Some(_), true) => {
                problems
                    .push("lanes.default.collections can't be set: this lane writes every collection that no other lane names".to_owned());
            }
            _ => {}
        }
        for collection in lane.collections.iter().flatten() {
            if let Some(other) = taken.insert(collection, name) {
                problems
                    .push(format!("the collection {collection:?} is in lanes.{other} and in lanes.{name}: one lane writes a collection"));
            }
        }
    }
    problems
}
