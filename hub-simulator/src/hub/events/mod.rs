//! The telemetry that applications read: an append-only log for each partition, read by consumer
//! groups (Microsoft, "Read device-to-cloud messages from the built-in endpoint").
//!
//! Events are kept as the AMQP messages that they came as, which is what they are read as too. A
//! device's events go to one partition, in the order the hub took them.

mod batch;
mod partition;
mod position;
mod reader;

use std::time::SystemTime;

pub(crate) use batch::EventBatch;
pub(crate) use partition::{Event, Last, PartitionInfo};
pub(crate) use position::{By, Position};
pub(crate) use reader::{Claim, Read, Reader, Refusal};

use super::record::RecordMode;
use crate::clock::unix_millis;
use partition::Partition;

/// The consumer group that every hub has.
const DEFAULT_GROUP: &str = "$Default";
/// Most partitions of a hub (Microsoft, "IoT Hub quotas and throttling").
pub(crate) const MAX_PARTITIONS: usize = 32;

/// How many events each partition keeps for its readers; older ones are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRetention {
    events: usize,
    bytes: usize,
}

impl EventRetention {
    /// Nothing is kept: readers find empty partitions, and accepting telemetry costs a little less.
    pub const NOTHING: Self = Self {
        events: 0,
        bytes: 0,
    };

    /// Keeps at most so many events and so many bytes of them in each partition.
    #[must_use]
    pub const fn new(events: usize, bytes: usize) -> Self {
        Self { events, bytes }
    }

    /// What is kept unless somebody asks for something else: nothing when the record keeps no bodies
    /// either, and the default else.
    pub(crate) fn of(mode: RecordMode) -> Self {
        match mode {
            RecordMode::Full | RecordMode::Recent(_) => Self::default(),
            RecordMode::Compact | RecordMode::Count => Self::NOTHING,
        }
    }
}

impl Default for EventRetention {
    /// 100,000 events and 64 MiB a partition: an afternoon of a developer's devices.
    fn default() -> Self {
        Self::new(100_000, 64 * 1024 * 1024)
    }
}

/// How the log of a hub is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) partitions: usize,
    /// Consumer groups besides the default one.
    pub(crate) groups: Vec<String>,
}

impl Default for Layout {
    /// Four partitions, as a new hub has.
    fn default() -> Self {
        Self {
            partitions: 4,
            groups: Vec::new(),
        }
    }
}

/// The events of a hub.
#[derive(Debug)]
pub(crate) struct EventLog {
    partitions: Box<[Partition]>,
    groups: Box<[String]>,
    keeps: bool,
    pub(crate) created: SystemTime,
}

impl EventLog {
    pub(crate) fn new(layout: Layout, retention: EventRetention) -> Self {
        let count = layout.partitions.clamp(1, MAX_PARTITIONS);
        Self {
            partitions: (0..count).map(|_| Partition::new(retention)).collect(),
            groups: std::iter::once(DEFAULT_GROUP.to_owned())
                .chain(layout.groups)
                .collect(),
            keeps: retention.events > 0 && retention.bytes > 0,
            created: SystemTime::now(),
        }
    }

    pub(crate) fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// The number of a consumer group; names are compared without case.
    pub(crate) fn group(&self, name: &str) -> Option<usize> {
        let is_named = |group: &String| group.eq_ignore_ascii_case(name);
        self.groups.iter().position(is_named)
    }

    pub(crate) fn info(&self, partition: usize) -> Option<PartitionInfo> {
        Some(self.partitions.get(partition)?.info())
    }

    /// The partition of a device and its modules; none while no events are kept.
    ///
    /// FNV-1a of the device's id, folded to 32 bits, modulo the number of partitions. The real hub's
    /// hash is not public.
    pub(crate) fn partition_of(&self, device: &str) -> Option<u8> {
        const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01b3;
        let hash = device.bytes().fold(BASIS, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(PRIME)
        });
        let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
        let partition = u8::try_from(folded % self.partitions.len() as u64).ok();
        partition.filter(|_| self.keeps)
    }

    /// Appends what has gathered and wakes the readers that wait for it.
    pub(crate) fn append(&self, batch: &mut EventBatch, enqueued: SystemTime) {
        let enqueued = unix_millis(enqueued);
        for (partition, pile) in self.partitions.iter().zip(batch.by_partition()) {
            if !pile.is_empty() {
                partition.append(pile, enqueued);
            }
        }
    }
}

#[cfg(test)]
mod tests;
