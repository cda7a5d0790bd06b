//! Events that are on their way into the log.

use std::ops::Range;
use std::sync::Arc;

use crate::hub::stamps::Stamps;

/// Room that a pile keeps for the next events, in bytes.
const KEPT_ROOM: usize = 8 * 1024;

/// Events that gather until they are appended together, so that each partition is locked once.
#[derive(Debug, Default)]
pub(crate) struct EventBatch {
    by_partition: Vec<Pile>,
}

/// Events of one partition, their messages one behind the other.
#[derive(Debug, Default)]
pub(super) struct Pile {
    bytes: Vec<u8>,
    /// Each with the end of its message.
    events: Vec<(Arc<Stamps>, usize)>,
}

impl EventBatch {
    /// Adds an event: an encoded message, and what the hub writes onto it.
    pub(crate) fn push(&mut self, partition: u8, stamps: &Arc<Stamps>, message: &[u8]) {
        let at = usize::from(partition);
        if self.by_partition.len() <= at {
            self.by_partition.resize_with(at + 1, Pile::default);
        }
        let pile = &mut self.by_partition[at];
        pile.bytes.extend_from_slice(message);
        pile.events.push((Arc::clone(stamps), pile.bytes.len()));
    }

    /// How many events wait for a partition, to come back to.
    pub(crate) fn mark(&self, partition: u8) -> usize {
        let pile = self.by_partition.get(usize::from(partition));
        pile.map_or(0, |pile| pile.events.len())
    }

    /// Drops what was added for a partition since a mark.
    pub(crate) fn back_to(&mut self, partition: u8, mark: usize) {
        if let Some(pile) = self.by_partition.get_mut(usize::from(partition)) {
            pile.events.truncate(mark);
            let end = pile.events.last().map_or(0, |(_, end)| *end);
            pile.bytes.truncate(end);
        }
    }

    pub(super) fn by_partition(&mut self) -> &mut [Pile] {
        &mut self.by_partition
    }
}

impl Pile {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Takes the messages as one piece of memory; the events' parts of it follow by [`Self::drain`].
    pub(super) fn chunk(&mut self) -> Arc<[u8]> {
        let chunk = Arc::from(&*self.bytes);
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_ROOM);
        chunk
    }

    /// Takes the events, each with its part of the chunk.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Arc<Stamps>, Range<usize>)> + '_ {
        let mut start = 0;
        self.events.drain(..).map(move |(stamps, end)| {
            let part = start..end;
            start = end;
            (stamps, part)
        })
    }
}
