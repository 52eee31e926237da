//! Dropping what is large away from the runtime's threads: it takes milliseconds.

use std::sync::Arc;

use crate::backlog::Generation;

/// With more objects than this it is large.
pub(super) const DROP_ASIDE_OBJECTS: u64 = 10_000;

/// What may take long to drop.
pub(super) trait Droppable: Send + 'static {
    fn objects(&self) -> u64;
}

impl Droppable for Arc<Generation> {
    fn objects(&self) -> u64 {
        self.footprint.objects
    }
}

impl<T: Droppable> Droppable for Option<T> {
    fn objects(&self) -> u64 {
        self.as_ref().map_or(0, T::objects)
    }
}

impl<T: Droppable> Droppable for Vec<T> {
    fn objects(&self) -> u64 {
        self.iter().map(T::objects).sum()
    }
}

/// Drops it, elsewhere if it is large. (What others share isn't dropped yet.)
pub(super) fn drop_aside(dropped: impl Droppable) {
    if dropped.objects() <= DROP_ASIDE_OBJECTS {
        return;
    }
    // A runtime that has gone takes everything along.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        drop(runtime.spawn_blocking(move || drop(dropped)));
    }
}
