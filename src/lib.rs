//! Forebay: a write-behind persistence daemon for Postgres.
//!
//! It acknowledges a save once it is on the journal's disk, folds repeated saves of one object together, and drains them to
//! Postgres through a small fixed set of writers.
//!
//! The promises, cited by number all over the code:
//!
//! - **P1 durable**: an acknowledged save survives a killed process and a power cut.
//! - **P2 equivalent**: folding never shows; the tables end as if each save had been executed directly, in order.
//! - **P3 once**: no crash, outage, lost COMMIT answer or zombie applies a save twice or puts an older state over a newer one.
//! - **P4 consistent**: every commit of a lane moves Postgres from one point of the save order to a later one.
//! - **P5 ordered**: saves of one object take effect in order; an atomic batch is accepted, committed or failed as a whole.
//! - **P6 nothing silent**: every accepted save gets exactly one outcome.
//! - **P7 bounded**: every queue, map, buffer, file, wait and retry has a named limit; at the limit the caller is refused.
//! - **P8 fail stop**: after a journal write or sync error nothing is acknowledged again.
//! - **P9 gentle**: Postgres never sees more connections than writers and readers, at most one writing transaction a lane.
//! - **P10 alive**: a Postgres that is away, slow or full changes no acknowledgement until a limit is met.
//!
//! The modules, in the order in which a save flows. `tests/architecture.rs` says who may import whom.
//!
//! 1. [`grpc`] takes a save, checks it against the [`collections`], takes room of the [`limits`],
//! 2. [`journal`] numbers it, writes and syncs its group, hands it on and answers,
//! 3. [`backlog`] folds it,
//! 4. [`drain`] seals what is folded as a generation and has it applied,
//! 5. [`postgres`] applies it: one transaction with the lane's position in it.
//!
//! [`webhooks`] tells endpoints what became of saves that asked for it; [`daemon`] follows the lanes for it, and nothing waits for
//! it.
//!
//! [`save`] is the vocabulary of all, [`failed`] that of saves which Postgres would not take, [`outcomes`] that of tickets.
//! [`daemon`] puts the stages together, starts and stops them; [`settings`], [`metrics`], [`http`], [`logs`], [`status`] and
//! [`exit`] are what an operator sees, [`open_files`] is what connections need of the system. [`client`] is the Rust client (a
//! feature of its own, with [`proto`], the generated contract); [`sandbox`] is the private Postgres of [`dev`], [`demo`],
//! [`bench`] and the tests, `child` the daemon of its own that some of them start.

#[cfg(feature = "daemon")]
pub mod backlog;
#[cfg(feature = "daemon")]
pub mod bench;
#[cfg(feature = "daemon")]
pub(crate) mod child;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "daemon")]
pub mod collections;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod demo;
#[cfg(feature = "daemon")]
pub mod dev;
#[cfg(feature = "daemon")]
pub mod drain;
#[cfg(feature = "daemon")]
pub mod exit;
#[cfg(feature = "daemon")]
pub mod failed;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "daemon")]
pub mod grpc;
#[cfg(feature = "daemon")]
pub mod http;
#[cfg(feature = "daemon")]
pub mod journal;
#[cfg(feature = "daemon")]
pub mod limits;
#[cfg(feature = "daemon")]
pub mod logs;
#[cfg(feature = "daemon")]
pub mod metrics;
#[cfg(feature = "daemon")]
pub mod open_files;
#[cfg(feature = "daemon")]
pub mod outcomes;
#[cfg(feature = "daemon")]
pub mod postgres;
#[cfg(feature = "client")]
pub mod proto;
#[cfg(test)]
pub(crate) mod runs;
#[cfg(feature = "daemon")]
pub mod sandbox;
#[cfg(feature = "daemon")]
pub mod save;
#[cfg(feature = "daemon")]
pub mod settings;
#[cfg(feature = "daemon")]
pub mod status;
#[cfg(feature = "daemon")]
pub mod webhooks;
