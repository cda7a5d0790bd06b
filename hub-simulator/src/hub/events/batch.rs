//! Events that are on their way into the log.

use std::sync::Arc;

use super::Origin;

/// An event before the log has numbered it.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) origin: Arc<Origin>,
    pub(super) message: Arc<[u8]>,
}

/// Events that gather until they are appended together, so that each partition is locked once.
#[derive(Debug, Default)]
pub(crate) struct EventBatch {
    by_partition: Vec<Vec<Fresh>>,
}

impl EventBatch {
    /// Adds an event: an encoded message.
    pub(crate) fn push(&mut self, origin: &Arc<Origin>, message: &[u8]) {
        if self.by_partition.len() <= origin.partition {
            self.by_partition
                .resize_with(origin.partition + 1, Vec::new);
        }
        self.by_partition[origin.partition].push(Fresh {
            origin: Arc::clone(origin),
            message: message.into(),
        });
    }

    /// Where the next event of `origin` will be, to come back to.
    pub(crate) fn mark(&self, origin: &Origin) -> usize {
        self.by_partition.get(origin.partition).map_or(0, Vec::len)
    }

    /// Drops what was added for `origin` since a mark, nothing else having been added.
    pub(crate) fn back_to(&mut self, origin: &Origin, mark: usize) {
        if let Some(events) = self.by_partition.get_mut(origin.partition) {
            events.truncate(mark);
        }
    }

    pub(super) fn by_partition(&mut self) -> &mut [Vec<Fresh>] {
        &mut self.by_partition
    }
}
