//! Which lane writes which collection, and what must not lie across two lanes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{Collections, nearest};
use crate::save::{CollectionId, LaneId};

/// The lanes and their collections: lane 0 is `default`, with every collection that no other lane names; the others are
/// numbered by their names. Numbers mean nothing without the layout that gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lanes(BTreeMap<String, BTreeSet<String>>);

/// Two collections that one transaction must write, and two lanes that do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Across {
    /// The lanes.
    pub lanes: [LaneId; 2],
    foreign_key: String,
    ends: [String; 2],
}

/// Two collections that belong into one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The name of the foreign key that joins them, from the first to the second.
    pub(super) foreign_key: String,
    pub(super) ends: [CollectionId; 2],
}

impl Lanes {
    /// The lane of every collection that no other names.
    pub const DEFAULT: &str = "default";

    /// These lanes beside the default one.
    pub fn new(named: Vec<(String, Vec<String>)>) -> Self {
        Self(named.into_iter().map(|(name, collections)| (name, collections.into_iter().collect())).collect())
    }

    /// Their names, by number.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(Self::DEFAULT).chain(self.0.keys().map(String::as_str))
    }

    /// The name of a lane.
    pub fn name(&self, lane: LaneId) -> &str {
        self.names().nth(usize::from(lane.0)).unwrap_or_default()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        1 + self.0.len()
    }

    /// The lane that writes this collection.
    pub fn lane_of(&self, collection: &str) -> LaneId {
        let at = self.0.values().position(|collections| collections.contains(collection));
        LaneId(at.map_or(0, |at| u16::try_from(at + 1).expect("the settings bound the lanes")))
    }

    /// What of them can't be with these collections: a sentence each.
    pub fn problems(&self, collections: &Collections) -> Vec<String> {
        let named = self.0.iter().flat_map(|(lane, named)| named.iter().map(move |name| (lane, name)));
        let unknown = named.filter(|(_, name)| collections.named(name).is_none()).map(|(lane, name)| {
            let known = collections.iter().map(|collection| &*collection.name);
            let refused = collections.refused().iter().find(|table| table.name == *name);
            let why = match (refused, nearest(name, known)) {
                (Some(refused), _) => refused.reason.clone(),
                (None, Some(near)) => format!("did you mean {near:?}?"),
                (None, None) => "see `forebay check --connect` for those there are".to_owned(),
            };
            format!("lanes.{lane}.collections names {name:?}, which is no collection: {why}")
        });
        let across = collections.across(self).map(|across| format!("{}: {}", across.shown(self), Across::REMEDY));
        unknown.chain(across).collect()
    }
}

impl Across {
    /// What an operator can do about it.
    pub const REMEDY: &str = "name both in the same `lanes.NAME.collections`, or neither in any";

    /// As a sentence with the names of these lanes.
    pub fn shown(&self, lanes: &Lanes) -> String {
        let [from, to] = &self.ends;
        let [from_lane, to_lane] = self.lanes.map(|lane| lanes.name(lane));
        let key = &self.foreign_key;
        format!("the foreign key {key} joins {from} (lane {from_lane}) and {to} (lane {to_lane}), which are written by two transactions")
    }
}

/// Their names.
impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::DEFAULT)?;
        self.0.keys().try_for_each(|name| write!(f, ", {name}"))
    }
}

impl Collections {
    /// What lies across two of these lanes.
    pub fn across<'a>(&'a self, lanes: &'a Lanes) -> impl Iterator<Item = Across> + 'a {
        self.links.iter().filter_map(|link| {
            let across = link.ends.map(|id| lanes.lane_of(&self.get(id).name));
            let ends = || link.ends.map(|id| self.get(id).name.to_string());
            (across[0] != across[1]).then(|| Across { lanes: across, foreign_key: link.foreign_key.clone(), ends: ends() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collections::{
        Catalog, CatalogColumn, CatalogTable, CollectionRules, CollectionSettings, ForeignKey, Identity, KeyForm, Reaction, TableKind,
        UniqueIndex, ValueForm,
    };

    fn table(name: &str) -> CatalogTable {
        let id = CatalogColumn {
            name: "id".to_owned(),
            cast: "bigint".to_owned(),
            form: ValueForm::Scalar,
            key_form: Some(KeyForm::Int8),
            number: None,
            not_null: true,
            identity: Identity::No,
            generated: false,
        };
        CatalogTable {
            schema: "public".to_owned(),
            name: name.to_owned(),
            kind: TableKind::Ordinary,
            unlogged: false,
            columns: vec![id],
            unique: vec![UniqueIndex { columns: vec!["id".to_owned()], primary: true, deferrable: false }],
            triggers_skip: false,
            rules: false,
            fingerprint: Default::default(),
        }
    }

    fn foreign_key(from: &str, to: &str) -> ForeignKey {
        ForeignKey {
            name: format!("{from}_{to}_fkey"),
            from: ("public".to_owned(), from.to_owned()),
            from_columns: vec!["id".to_owned()],
            to: ("public".to_owned(), to.to_owned()),
            to_columns: vec!["id".to_owned()],
            on_delete: Reaction::NoAction,
            on_update: Reaction::NoAction,
            deferrable: false,
        }
    }

    fn lanes(named: &[(&str, &[&str])]) -> Lanes {
        Lanes::new(
            named
                .iter()
                .map(|(name, collections)| ((*name).to_owned(), collections.iter().map(|name| (*name).to_owned()).collect()))
                .collect(),
        )
    }

    fn collections(keys: &[(&str, &str)], lanes: &Lanes) -> Collections {
        let catalog = Catalog {
            tables: ["guilds", "players", "scores"].map(table).to_vec(),
            foreign_keys: keys.iter().map(|(from, to)| foreign_key(from, to)).collect(),
        };
        let other_name = CollectionSettings { table: Some("scores".to_owned()), ..CollectionSettings::default() };
        let named = BTreeMap::from([("points".to_owned(), other_name)]);
        let rules = CollectionRules { schemas: vec!["public".to_owned()], named, lanes: lanes.clone() };
        Collections::build(&catalog, &rules, &Collections::default())
    }

    #[test]
    fn a_collection_that_no_lane_names_is_in_the_default_one() {
        let lanes = lanes(&[("hot", &["points"])]);
        let collections = collections(&[], &lanes);
        let lane = |name: &str| collections.named(name).expect("a collection").lane;
        assert_eq!((lane("points"), lane("players")), (LaneId(1), LaneId(0)));
        assert_eq!(lanes.problems(&collections), [""; 0]);
        assert_eq!((lanes.name(LaneId(1)), lanes.count()), ("hot", 2));
    }

    #[test]
    fn a_foreign_key_across_two_lanes_is_a_problem() {
        let lanes = lanes(&[("hot", &["players"]), ("cold", &["guilds"])]);
        let collections = collections(&[("players", "guilds"), ("players", "players"), ("scores", "players")], &lanes);
        let problems = lanes.problems(&collections);
        let told = |part: &str| assert!(problems.iter().any(|problem| problem.starts_with(part)), "{part}: {problems:#?}");
        told("the foreign key players_guilds_fkey joins players (lane hot) and guilds (lane cold)");
        told("the foreign key scores_players_fkey joins points (lane default) and players (lane hot)");
        assert_eq!(problems.len(), 2, "{problems:#?}");
        assert_eq!(collections.across(&lanes).next().expect("one of them").lanes, [LaneId(2), LaneId(1)]);
    }

    #[test]
    fn a_table_is_saved_to_under_one_name() {
        let settings = |table: &str| CollectionSettings { table: Some(table.to_owned()), ..CollectionSettings::default() };
        let named = BTreeMap::from([("points".to_owned(), settings("scores")), ("scores".to_owned(), CollectionSettings::default())]);
        let catalog = Catalog { tables: vec![table("scores")], foreign_keys: Vec::new() };
        let rules = CollectionRules { schemas: vec!["public".to_owned()], named, ..CollectionRules::default() };
        let collections = Collections::build(&catalog, &rules, &Collections::default());
        assert_eq!(collections.iter().map(|collection| &*collection.name).collect::<Vec<_>>(), ["points"]);
        let [refused] = collections.refused() else { panic!("{:?}", collections.refused()) };
        assert_eq!((refused.name.as_str(), refused.named), ("scores", true));
        assert!(refused.reason.contains("is the collection \"points\" already"), "{}", refused.reason);
    }

    #[test]
    fn an_unknown_collection_is_told_with_the_nearest() {
        let lanes = lanes(&[("hot", &["player", "zzz"])]);
        let problems = lanes.problems(&collections(&[], &lanes));
        assert_eq!(problems[0], "lanes.hot.collections names \"player\", which is no collection: did you mean \"players\"?");
        assert!(problems[1].contains("\"zzz\"") && problems[1].contains("forebay check"), "{problems:#?}");
    }
}
