//! What the journal's ledger keeps of callbacks.
//!
//! | key                     | value                                                                |
//! |-------------------------|----------------------------------------------------------------------|
//! | callbacks/waits/ID      | a [`Delivery`] as JSON                                               |
//! | callbacks/noted/LANE    | sequence, u64: up to here every callback of the lane was put there   |
//! | callbacks/failures/LANE | sequence, u64: up to here every failure of the lane was put there    |
//!
//! Messages are synced before the mark that covers them: a crash between the two puts them again, under the same ids.

use std::collections::BTreeMap;

use crate::{
    daemon::layout::Layout,
    journal::{Ledger, LedgerError},
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
    Failures(Sequence),
}

/// A lane as the settings and the ledger have it.
#[derive(Debug)]
pub(super) struct Lane {
    name: String,
    /// Who is told of failures, by collection.
    pub(super) on_failed: BTreeMap<String, String>,
    /// Up to here callbacks were noted.
    pub(super) noted: Sequence,
    /// Up to here failures were told, if this lane tells them.
    pub(super) told: Option<Sequence>,
    /// Up to here the journal knows it to be settled.
    after: Sequence,
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
        };
        let mut all: Vec<_> = layout.lanes.names().zip(after).map(lane).collect();
        for (collection, its) in &settings.collections {
            if let Some(endpoint) = &its.on_failed {
                all[usize::from(layout.lanes.lane_of(collection).0)].on_failed.insert(collection.clone(), endpoint.clone());
            }
        }
        all
    }

    fn read(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        self.noted = sequence(ledger, &key(NOTED, &self.name))?.unwrap_or_default().max(self.noted);
        let failures = key(FAILURES, &self.name);
        let told = sequence(ledger, &failures)?;
        match (self.on_failed.is_empty(), told) {
            (true, None) => {}
            // Told again some day, failures begin at that day.
            (true, Some(_)) => ledger.remove([failures.as_str()])?,
            (false, Some(told)) => self.told = Some(told),
            // Before the lane writes anything: no failure from now on is left out.
            (false, None) => {
                ledger.put(&failures, &self.after.get().to_le_bytes())?;
                self.told = Some(self.after);
            }
        }
        Ok(())
    }
}

impl Kept {
    /// Reads it. Blocks.
    pub(super) fn read(ledger: &Ledger, mut lanes: Vec<Lane>) -> Result<Self, LedgerError> {
        lanes.iter_mut().try_for_each(|lane| lane.read(ledger))?;
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
    let (prefix, through) = match mark {
        Mark::Noted(through) => (NOTED, through),
        Mark::Failures(through) => (FAILURES, through),
    };
    ledger.put(&key(prefix, lane), &through.get().to_le_bytes())
}

/// Removes messages that were delivered or given up. Blocks.
pub(super) fn remove(ledger: &Ledger, ids: &[String]) -> Result<(), LedgerError> {
    let keys: Vec<_> = ids.iter().map(|id| key(WAITS, id)).collect();
    ledger.remove(keys.iter().map(String::as_str))
}

fn key(prefix: &str, name: &str) -> String {
    format!("{prefix}{name}")
}

fn sequence(ledger: &Ledger, key: &str) -> Result<Option<Sequence>, LedgerError> {
    let Some(value) = ledger.get(key)? else { return Ok(None) };
    let bytes = value.as_slice().try_into().map_err(|_| LedgerError::Damaged(key.to_owned()))?;
    Ok(Some(Sequence::from_u64(u64::from_le_bytes(bytes))))
}
