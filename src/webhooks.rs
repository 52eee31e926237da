//! Webhooks: tells endpoints of the settings what became of saves, signed, at least once (Standard Webhooks).
//!
//! Knows neither saves nor the journal: it is given [`Delivery`]s, keeps each until its endpoint has answered 2xx or it is given
//! up, and says so. Whoever gives them keeps them durable until then. Each endpoint has a task, connections and attempts of its
//! own ([`Endpoint`]), so that a slow one delays no other. Nothing here waits for the drain or is waited for by it.
//!
//! Where a request goes is the operator's choice alone: urls come from the settings, names are resolved for each connection and
//! their addresses checked ([`address`]), and the connection is made to the address that was checked. Redirects are answers like
//! any other that isn't 2xx; proxies of the environment are not used.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{settings::Settings, status::EndpointStatus};

mod address;
mod connection;
mod endpoint;
mod retry;
mod shared;
mod sign;
mod target;

pub use endpoint::Endpoint;
pub use target::{TargetError, Targets};

use shared::Shared;

/// An outcome to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The endpoint's name.
    pub endpoint: String,
    /// Names it to the receiver: a second one of this id is the same again. Without full stops.
    pub id: String,
    /// The save's ticket, for the log.
    pub ticket: String,
    /// When the save was accepted.
    #[serde(with = "milliseconds")]
    pub accepted_at: SystemTime,
    /// When its outcome was known.
    #[serde(with = "milliseconds")]
    pub known_at: SystemTime,
    /// What is told, as JSON.
    pub body: String,
}

impl Delivery {
    /// For how long its outcome has been known, by the system's clock: for what an earlier run has left. A clock that was set
    /// back makes nothing older than it is.
    pub fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.known_at).unwrap_or_default()
    }
}

/// Takes deliveries for endpoints and says how they stand.
#[derive(Debug)]
pub struct Endpoints(BTreeMap<String, Arc<Shared>>);

impl Endpoints {
    /// The endpoints of the settings, and others that were of earlier ones: their deliveries wait until they are there again, or
    /// too old. `ended` is told the id of each delivery that was answered or given up.
    pub fn new(
        settings: &Settings,
        mut targets: Targets,
        others: impl IntoIterator<Item = String>,
        ended: &mpsc::UnboundedSender<String>,
    ) -> (Self, Vec<Endpoint>) {
        let names = settings.endpoints.keys().cloned().chain(others);
        let mut shared = BTreeMap::new();
        let mut endpoints = Vec::new();
        for name in names {
            shared.entry(name.clone()).or_insert_with(|| {
                let (own, inbox) = Shared::new(name.clone());
                let own = Arc::new(own);
                endpoints.push(Endpoint::new(Arc::clone(&own), targets.0.remove(&name), &settings.callbacks, inbox, ended.clone()));
                own
            });
        }
        (Self(shared), endpoints)
    }

    /// Hands a delivery, whose outcome has been known for `age`, to its endpoint, which must be one of those that were made.
    /// Never waits.
    pub fn deliver(&self, delivery: Delivery, age: Duration) {
        self.0.get(&delivery.endpoint).expect("every name that can come up has an endpoint").take(delivery, age);
    }

    /// How each stands, by name.
    pub fn statuses(&self) -> Vec<EndpointStatus> {
        self.0.values().map(|shared| shared.status()).collect()
    }
}

/// Times in the journal's ledger.
mod milliseconds {
    use std::time::UNIX_EPOCH;

    use serde::{Deserializer, Serializer};

    use super::{Deserialize, Duration, SystemTime};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let since = Duration::from_millis(u64::deserialize(deserializer)?);
        UNIX_EPOCH.checked_add(since).ok_or_else(|| serde::de::Error::custom("a time that no clock shows"))
    }
}
