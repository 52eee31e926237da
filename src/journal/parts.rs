//! What [`handoff`](super::handoff) is made of. The tests make it of parts whose every interleaving they can choose.

pub(super) use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

pub(super) use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use futures_util::FutureExt;
use tokio::task::unconstrained;

/// What is left in a closed channel, with what is just being put in. (`blocking_recv` would wait for that too, but panics on a thread of
/// the runtime, and on one of these the journal may fail: whose ledger can't be written.)
pub(super) fn next_left<T>(requests: &mut UnboundedReceiver<T>) -> Option<T> {
    loop {
        match unconstrained(requests.recv()).now_or_never() {
            Some(next) => return next,
            None => std::thread::yield_now(),
        }
    }
}
