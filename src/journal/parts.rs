//! What [`handoff`](super::handoff) is made of. The tests make it of parts whose every interleaving they can choose.

pub(super) use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

pub(super) use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
