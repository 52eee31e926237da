//! Dropping what is large away from the runtime's threads: it takes milliseconds.

use std::sync::Arc;

use crate::backlog::Generation;

/// With more objects than this it is large.
pub(super) const DROP_ASIDE_OBJECTS: u64 = 10_000;

/// What may take long to drop.
pub(super) trait Droppable: Send + 'static {
    /// How much dropping it frees.
    fn objects(&self) -> u64;
}

impl Droppable for Arc<Generation> {
    fn objects(&self) -> u64 {
        // What others share isn't dropped yet.
        if Self::strong_count(self) > 1 { 0 } else { self.footprint.objects }
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

/// Drops it, elsewhere if it is large.
pub(super) fn drop_aside(dropped: impl Droppable) {
    if dropped.objects() <= DROP_ASIDE_OBJECTS {
        return;
    }
    // A runtime that has gone takes everything along.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        drop(runtime.spawn_blocking(move || drop(dropped)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backlog::Footprint, save::Sequence};

    #[test]
    fn what_others_share_is_nothing_to_drop() {
        let footprint = Footprint { bytes: 0, objects: DROP_ASIDE_OBJECTS + 1 };
        let generation = Arc::new(Generation { footprint, ..Generation::empty(Sequence::ZERO, Arc::default()) });
        let shared = vec![Some(Arc::clone(&generation))];
        assert_eq!((generation.objects(), shared.objects()), (0, 0));
        drop(shared);
        assert_eq!(generation.objects(), DROP_ASIDE_OBJECTS + 1);
    }
}
