//! Readers of a partition, and who may be one: many without an epoch, or the one with the highest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::EventLog;
use super::partition::{Event, Last};
use super::position::Position;
use crate::hub::peer::{Notice, Subscriber};

/// Readers without an epoch that a consumer group may have on a partition (Microsoft, "Event Hubs
/// quotas and limits").
const MAX_READERS: usize = 5;

/// What somebody wants to read, and as whom.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) group: usize,
    pub(crate) partition: usize,
    pub(crate) position: Position,
    /// The one with the highest is the only reader of its group.
    pub(crate) epoch: Option<i64>,
    /// What the reader calls itself.
    pub(crate) name: Option<String>,
    /// Whom to tell of new events, or of a loss.
    pub(crate) subscriber: Subscriber,
}

/// Why somebody may not read; the texts are the real ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "Receiver '{holder}' with a higher epoch '{held}' already exists. Receiver '{asker}' with epoch {asked} cannot be created. Make sure you are creating receiver with increasing epoch value to ensure connectivity, or ensure all old epoch receivers are closed or disconnected."
    )]
    HigherEpoch {
        holder: String,
        held: i64,
        asker: String,
        asked: i64,
    },
    #[error(
        "At least one receiver for the endpoint is created with epoch of '{0}', and so non-epoch receiver is not allowed. Either reconnect with a higher epoch, or make sure all epoch receivers are closed or disconnected."
    )]
    EpochRequired(i64),
    #[error(
        "Exceeded the maximum number of allowed receivers per partition in a consumer group which is {MAX_READERS}. List of connected receivers - {0}."
    )]
    TooMany(String),
    #[error("The supplied offset '{asked}' is invalid. The last offset in the system is '{last}'")]
    Offset { asked: i64, last: i64 },
    #[error(
        "The supplied sequence number '{asked}' is invalid. The last sequence number in the system is '{last}'"
    )]
    Sequence { asked: i64, last: i64 },
}

/// The readers of a partition.
#[derive(Debug, Default)]
pub(super) struct Readers {
    present: Vec<Present>,
    /// Those that have read everything and want to know of more.
    waiting: Vec<(u64, Subscriber)>,
}

#[derive(Debug)]
struct Present {
    id: u64,
    group: usize,
    epoch: Option<i64>,
    name: String,
    subscriber: Subscriber,
}

impl Readers {
    /// Lets somebody in; those that must give way are returned with what they are told.
    fn enter(&mut self, id: u64, claim: &Claim) -> Result<Vec<(Subscriber, String)>, Refusal> {
        let name = claim.name.clone().unwrap_or_else(|| "nil".to_owned());
        let of_group = |reader: &Present| reader.group == claim.group;
        let holder = self
            .present
            .iter()
            .filter(|reader| of_group(reader))
            .find_map(|reader| Some((reader, reader.epoch?)));
        let mut displaced = Vec::new();
        match (claim.epoch, holder) {
            (None, Some((_, epoch))) => return Err(Refusal::EpochRequired(epoch)),
            (Some(asked), Some((reader, held))) if held > asked => {
                return Err(Refusal::HigherEpoch {
                    holder: reader.name.clone(),
                    held,
                    asker: name,
                    asked,
                });
            }
            (Some(epoch), _) => {
                for reader in self.present.extract_if(.., |reader| of_group(reader)) {
                    let (old, held) = (&reader.name, reader.epoch.unwrap_or(-1));
                    let text = format!(
                        "New receiver '{name}' with higher epoch of '{epoch}' is created hence current receiver '{old}' with epoch '{held}' is getting disconnected. If you are recreating the receiver, make sure a higher epoch is used."
                    );
                    displaced.push((reader.subscriber, text));
                }
            }
            (None, None) => {
                let names: Vec<&str> = self
                    .present
                    .iter()
                    .filter(|reader| of_group(reader))
                    .map(|reader| &*reader.name)
                    .collect();
                if names.len() >= MAX_READERS {
                    return Err(Refusal::TooMany(names.join(", ")));
                }
            }
        }
        self.present.push(Present {
            id,
            group: claim.group,
            epoch: claim.epoch,
            name,
            subscriber: claim.subscriber.clone(),
        });
        Ok(displaced)
    }

    fn leave(&mut self, id: u64) {
        self.present.retain(|reader| reader.id != id);
        self.waiting.retain(|(waiting, _)| *waiting != id);
    }

    fn wait(&mut self, id: u64, subscriber: &Subscriber) {
        if self.waiting.iter().all(|(waiting, _)| *waiting != id) {
            self.waiting.push((id, subscriber.clone()));
        }
    }

    /// Takes those that wait.
    pub(super) fn wake(&mut self) -> impl Iterator<Item = Subscriber> + use<> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|(_, subscriber)| subscriber)
    }
}

/// An event with its number, and what was last when it was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) event: Event,
    pub(crate) sequence: i64,
    pub(crate) last: Last,
}

/// A place in a partition that moves on; dropping it makes room for another reader.
#[derive(Debug)]
pub(crate) struct Reader {
    log: Arc<EventLog>,
    partition: usize,
    id: u64,
    subscriber: Subscriber,
    next: i64,
}

impl Reader {
    /// Becomes a reader of an existing group and partition.
    pub(crate) fn enter(log: &Arc<EventLog>, claim: Claim) -> Result<Self, Refusal> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let mut inner = log.partitions[claim.partition].lock();
        let next = inner.start(claim.position)?;
        let displaced = inner.readers.enter(id, &claim)?;
        drop(inner);
        for (subscriber, text) in displaced {
            subscriber.post(|route| Notice::Stolen(route, text.into()));
        }
        Ok(Self {
            log: Arc::clone(log),
            partition: claim.partition,
            id,
            subscriber: claim.subscriber,
            next,
        })
    }

    /// The next event; if there is none, the subscriber is told when there is.
    ///
    /// Events that were forgotten before they were read are passed over.
    pub(crate) fn read(&mut self) -> Option<Read> {
        let mut inner = self.log.partitions[self.partition].lock();
        let Some((sequence, event)) = inner.event_at(self.next) else {
            inner.readers.wait(self.id, &self.subscriber);
            return None;
        };
        self.next = sequence + 1;
        Some(Read {
            event,
            sequence,
            last: inner.last(),
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.log.partitions[self.partition].lock();
        inner.readers.leave(self.id);
    }
}
