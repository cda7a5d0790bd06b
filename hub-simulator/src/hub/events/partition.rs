//! One partition: its events, numbered, and who reads them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::EventRetention;
use super::batch::Pile;
use super::position::{By, Position};
use super::reader::{Readers, Refusal};
use crate::hub::peer::Notice;
use crate::hub::stamps::Stamps;

/// An event as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) stamps: Arc<Stamps>,
    /// Holds the message, among those that came with it.
    chunk: Arc<[u8]>,
    part: Range<usize>,
    /// Where it starts in the partition, in bytes.
    pub(crate) offset: i64,
    /// Milliseconds since the Unix epoch.
    pub(crate) enqueued: i64,
}

impl Event {
    /// The message as it came.
    pub(crate) fn message(&self) -> &[u8] {
        &self.chunk[self.part.clone()]
    }

    /// What it takes of memory, in bytes.
    fn cost(&self) -> usize {
        self.part.len() + size_of::<Self>()
    }
}

/// The event that came last, whether it is still kept or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) sequence: i64,
    pub(crate) offset: i64,
    pub(crate) enqueued: i64,
}

impl Last {
    /// The hub says so before there is any event: the time is the beginning of the year 1.
    const NONE: Self = Self {
        sequence: -1,
        offset: -1,
        enqueued: -62_135_596_800_000,
    };
}

/// What the hub tells about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionInfo {
    pub(crate) first_sequence: i64,
    pub(crate) last: Last,
    pub(crate) is_empty: bool,
}

#[derive(Debug)]
pub(super) struct Partition {
    retention: EventRetention,
    inner: Mutex<Inner>,
}

/// What the lock of a partition guards.
#[derive(Debug)]
pub(super) struct Inner {
    events: VecDeque<Event>,
    /// Sequence number of the oldest event that is kept.
    first: i64,
    bytes: usize,
    next_offset: i64,
    last: Last,
    pub(super) readers: Readers,
}

impl Partition {
    pub(super) fn new(retention: EventRetention) -> Self {
        Self {
            retention,
            inner: Mutex::new(Inner {
                events: VecDeque::new(),
                first: 0,
                bytes: 0,
                next_offset: 0,
                last: Last::NONE,
                readers: Readers::default(),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn append(&self, pile: &mut Pile, enqueued: i64) {
        let chunk = pile.chunk();
        let mut inner = self.lock();
        // Times never fall, whatever the clock does.
        let enqueued = enqueued.max(inner.last.enqueued);
        for (stamps, part) in pile.drain() {
            let chunk = Arc::clone(&chunk);
            let offset = inner.next_offset;
            inner.push(Event {
                stamps,
                chunk,
                part,
                offset,
                enqueued,
            });
        }
        inner.forget(self.retention);
        let woken = inner.readers.wake();
        drop(inner);
        for subscriber in woken {
            subscriber.post(Notice::MessageReady);
        }
    }

    pub(super) fn info(&self) -> PartitionInfo {
        let inner = self.lock();
        PartitionInfo {
            first_sequence: inner.first,
            last: inner.last,
            is_empty: inner.events.is_empty(),
        }
    }
}

impl Inner {
    fn push(&mut self, event: Event) {
        self.last = Last {
            sequence: self.last.sequence + 1,
            offset: event.offset,
            enqueued: event.enqueued,
        };
        self.next_offset += i64::try_from(event.part.len().max(1)).unwrap_or(i64::MAX);
        self.bytes += event.cost();
        self.events.push_back(event);
    }

    fn forget(&mut self, retention: EventRetention) {
        while self.events.len() > retention.events || self.bytes > retention.bytes {
            let Some(event) = self.events.pop_front() else {
                return;
            };
            self.bytes -= event.cost();
            self.first += 1;
        }
    }

    /// The first event at `next` or behind it, with its sequence number.
    pub(super) fn event_at(&self, next: i64) -> Option<(i64, Event)> {
        let sequence = next.max(self.first);
        let index = usize::try_from(sequence - self.first).ok()?;
        Some((sequence, self.events.get(index)?.clone()))
    }

    pub(super) fn last(&self) -> Last {
        self.last
    }

    /// The sequence number that a reader from `position` reads first.
    pub(super) fn start(&self, position: Position) -> Result<i64, Refusal> {
        let Position { by, inclusive } = position;
        let behind = i64::from(!inclusive);
        match by {
            By::Latest => Ok(self.last.sequence + behind),
            // A reader may wait for the event that comes next, and for none behind it.
            By::Sequence(number) if number.saturating_add(behind) > self.last.sequence + 1 => {
                Err(Refusal::Sequence {
                    asked: number,
                    last: self.last.sequence,
                })
            }
            By::Sequence(number) => Ok(number + behind),
            By::Offset(offset) if offset > self.last.offset => Err(Refusal::Offset {
                asked: offset,
                last: self.last.offset,
            }),
            By::Offset(offset) => Ok(self.first_with(|event| event.offset >= offset + behind)),
            By::Enqueued(time) => {
                Ok(self.first_with(|event| event.enqueued >= time.saturating_add(behind)))
            }
        }
    }

    /// The sequence number of the first event that has something which all behind it have too.
    fn first_with(&self, has: impl Fn(&Event) -> bool) -> i64 {
        let index = self.events.partition_point(|event| !has(event));
        self.first + i64::try_from(index).unwrap_or(i64::MAX)
    }
}
