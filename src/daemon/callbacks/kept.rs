//! What the journal's ledger keeps of callbacks.
//!
//! | key                     | value                                                                |
//! |-------------------------|----------------------------------------------------------------------|
//! | callbacks/waits/ID      | a [`Delivery`] as JSON                                               |
//! | callbacks/noted/LANE    | sequence, u64: up to here every callback of the lane was put there   |
//! | callbacks/failures/LANE | sequence, u64: up to here every failure of the lane was put there;   |
//! |                         | rewinds, u32: so often Postgres had gone back in time when it was    |
//!
//! Messages are synced before the mark that covers them: a crash between the two puts them again, under the same ids.

use std::collections::BTreeMap;

use crate::{
    daemon::layout::Layout,
    journal::{Ledger, LedgerError},
    outcomes::Rewound,
    save::Sequence,
    settings::Settings,
    webhooks::Delivery,
};

const WAITS: &str = "callbacks/waits/";
const NOTED: &str = "callbacks/noted/";
const FAILURES: &str = "callbacks/failures/";

/// How far a lane has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// With the callbacks of its saves.
    Noted(Sequence),
    /// With its failures.
    Failures(Told),
}

/// How far failures were told, and how often Postgres was known to have gone back in time when that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) through: Sequence,
    pub(super) rewinds: u32,
}

/// How far lanes have come, by name.
type Marks<T> = BTreeMap<String, T>;

/// A lane as the settings and the ledger have it.
#[derive(Debug)]
pub(super) struct Lane {
    name: String,
    /// Who is told of failures, by collection.
    pub(super) on_failed: BTreeMap<String, String>,
    /// Up to here callbacks were noted.
    pub(super) noted: Sequence,
    /// Up to here failures were told, if this lane tells them.
    pub(super) told: Option<Told>,
    /// Up to here the journal knows it to be settled.
    after: Sequence,
    /// Here the layout begins.
    pub(super) begins: Sequence,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) lanes: Vec<Lane>,
}

impl Lane {
    /// The lanes of a layout, of which the ledger has not been asked. Whatever was accepted before the layout is noted.
    pub(super) fn all(settings: &Settings, layout: &Layout, after: &[Sequence]) -> Vec<Self> {
        let lane = |(name, &after): (&str, &Sequence)| Self {
            name: name.to_owned(),
            on_failed: BTreeMap::new(),
            noted: layout.begins(),
            told: None,
            after,
            begins: layout.begins(),
        };
        let mut all: Vec<_> = layout.lanes.names().zip(after).map(lane).collect();
        for (collection, its) in &settings.collections {
            if let Some(endpoint) = &its.on_failed {
                all[usize::from(layout.lanes.lane_of(collection).0)].on_failed.insert(collection.clone(), endpoint.clone());
            }
        }
        all
    }

    /// The marks are those of every lane, of other layouts too.
    fn read(&mut self, ledger: &Ledger, (noted, told): (&Marks<Sequence>, &Marks<Told>), rewinds: u32) -> Result<(), LedgerError> {
        self.noted = noted.get(&self.name).copied().unwrap_or_default().max(self.noted);
        if self.on_failed.is_empty() {
            return Ok(());
        }
        let own = told.get(&self.name).copied();
        let lowest = told.values().copied().reduce(Told::lower);
        let from = match lowest.filter(|lowest| lowest.through < self.begins).or(own) {
            // If the lanes have changed since, our collections may have been in any: from the lowest mark none is left out.
            Some(from) => from,
            None => Told { through: self.after, rewinds },
        };
        if own != Some(from) {
            // Before the lane writes anything: no failure from now on is left out.
            ledger.put(&key(FAILURES, &self.name), &from.bytes())?;
        }
        self.told = Some(from);
        Ok(())
    }
}

impl Told {
    fn lower(self, other: Self) -> Self {
        Self { through: self.through.min(other.through), rewinds: self.rewinds.min(other.rewinds) }
    }

    /// Who was told of a save above the end of a rewind was told of one that may fail anew.
    pub(super) fn after(self, rewound: Rewound) -> Self {
        Self { through: rewound.to.map_or(self.through, |to| self.through.min(to)), rewinds: rewound.count }
    }

    fn bytes(self) -> Vec<u8> {
        [&self.through.get().to_le_bytes()[..], &self.rewinds.to_le_bytes()].concat()
    }

    fn read(key: &str, value: &[u8]) -> Result<Self, LedgerError> {
        let (through, rewinds) = value.split_at_checked(8).ok_or_else(|| LedgerError::Damaged(key.to_owned()))?;
        let rewinds = rewinds.try_into().map_err(|_| LedgerError::Damaged(key.to_owned()))?;
        Ok(Self { through: sequence(key, through)?, rewinds: u32::from_le_bytes(rewinds) })
    }
}

impl Kept {
    /// Reads it. Blocks.
    pub(super) fn read(ledger: &Ledger, mut lanes: Vec<Lane>, rewinds: u32) -> Result<Self, LedgerError> {
        let (noted, told) = (marks(ledger, NOTED, sequence)?, marks(ledger, FAILURES, Told::read)?);
        lanes.iter_mut().try_for_each(|lane| lane.read(ledger, (&noted, &told), rewinds))?;
        let is = |name: &str, also: fn(&Lane) -> bool| lanes.iter().any(|lane| lane.name == name && also(lane));
        let gone = noted.keys().filter(|name| !is(name, |_| true)).map(|name| key(NOTED, name));
        // Told again some day, failures begin at that day.
        let untold = told.keys().filter(|name| !is(name, |lane| lane.told.is_some())).map(|name| key(FAILURES, name));
        let gone: Vec<_> = gone.chain(untold).collect();
        if !gone.is_empty() {
            ledger.remove(gone.iter().map(String::as_str))?;
        }
        let read = |(key, value): (String, Vec<u8>)| serde_json::from_slice(&value).map_err(|_| LedgerError::Damaged(key));
        let deliveries = ledger.scan(WAITS)?.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { deliveries, lanes })
    }
}

/// Puts messages, then how far their lane has come with them. Blocks.
pub(super) fn put(ledger: &Ledger, deliveries: &[Delivery], lane: &str, mark: Mark) -> Result<(), LedgerError> {
    let message = |delivery: &Delivery| (key(WAITS, &delivery.id), serde_json::to_vec(delivery).expect("a message is plain data"));
    let messages: Vec<_> = deliveries.iter().map(message).collect();
    ledger.put_all(messages.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
    match mark {
        Mark::Noted(through) => ledger.put(&key(NOTED, lane), &through.get().to_le_bytes()),
        Mark::Failures(told) => ledger.put(&key(FAILURES, lane), &told.bytes()),
    }
}

/// Removes messages that were delivered or given up. Blocks.
pub(super) fn remove(ledger: &Ledger, ids: &[String]) -> Result<(), LedgerError> {
    let keys: Vec<_> = ids.iter().map(|id| key(WAITS, id)).collect();
    ledger.remove(keys.iter().map(String::as_str))
}

fn key(prefix: &str, name: &str) -> String {
    format!("{prefix}{name}")
}

/// The marks of this kind, by lane.
fn marks<T>(ledger: &Ledger, prefix: &str, read: fn(&str, &[u8]) -> Result<T, LedgerError>) -> Result<Marks<T>, LedgerError> {
    let mark = |(key, value): (String, Vec<u8>)| {
        let mark = read(&key, &value)?;
        Ok((key[prefix.len()..].to_owned(), mark))
    };
    ledger.scan(prefix)?.into_iter().map(mark).collect()
}

fn sequence(key: &str, value: &[u8]) -> Result<Sequence, LedgerError> {
    let bytes = value.try_into().map_err(|_| LedgerError::Damaged(key.to_owned()))?;
    Ok(Sequence::from_u64(u64::from_le_bytes(bytes)))
}
