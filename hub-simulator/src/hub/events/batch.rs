//! Events that are on their way into the log.

use std::sync::Arc;

use crate::hub::stamps::Stamps;

/// An event before the log has numbered it.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) stamps: Arc<Stamps>,
    pub(super) message: Arc<[u8]>,
}

/// Events that gather until they are appended together, so that each partition is locked once.
#[derive(Debug, Default)]
pub(crate) struct EventBatch {
    by_partition: Vec<Vec<Fresh>>,
}

impl EventBatch {
    /// Adds an event: an encoded message, and what the hub writes onto it.
    pub(crate) fn push(&mut self, partition: u8, stamps: &Arc<Stamps>, message: &[u8]) {
        let at = usize::from(partition);
        if self.by_partition.len() <= at {
            self.by_partition.resize_with(at + 1, Vec::new);
        }
        self.by_partition[at].push(Fresh {
            stamps: Arc::clone(stamps),
            message: message.into(),
        });
    }

    /// How many events wait for a partition, to come back to.
    pub(crate) fn mark(&self, partition: u8) -> usize {
        let events = self.by_partition.get(usize::from(partition));
        events.map_or(0, Vec::len)
    }

    /// Drops what was added for a partition since a mark.
    pub(crate) fn back_to(&mut self, partition: u8, mark: usize) {
        if let Some(events) = self.by_partition.get_mut(usize::from(partition)) {
            events.truncate(mark);
        }
    }

    pub(super) fn by_partition(&mut self) -> &mut [Vec<Fresh>] {
        &mut self.by_partition
    }
}
