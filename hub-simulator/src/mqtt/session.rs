//! What the hub keeps of an MQTT session from one connection to the next.
//!
//! Source: OASIS, "MQTT Version 3.1.1", sections 3.1.2.4 and 4.4.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::codec::QoS;
use super::topic::Channel;
use crate::guid::Guid;
use crate::hub::peer::ConnectionId;

/// The session of one identity: its subscriptions, and the messages that it has yet to acknowledge.
#[derive(Debug)]
pub(crate) struct Session {
    /// The connection that acts for it, or acted for it last.
    owner: ConnectionId,
    /// It ends with its connection.
    clean: bool,
    subscriptions: BTreeMap<Channel, Subscription>,
    in_flight: InFlight,
}

/// One filter that a device has subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// As the device spells it.
    pub(crate) filter: Box<str>,
    /// At most once or at least once.
    pub(crate) qos: QoS,
}

impl Session {
    pub(crate) fn new(owner: ConnectionId, clean: bool) -> Self {
        Self {
            owner,
            clean,
            subscriptions: BTreeMap::new(),
            in_flight: InFlight::default(),
        }
    }

    /// Whether it outlives its connection.
    pub(crate) fn is_persistent(&self) -> bool {
        !self.clean
    }

    pub(crate) fn owner(&self) -> ConnectionId {
        self.owner
    }

    /// Goes on under another connection.
    pub(crate) fn resume(&mut self, owner: ConnectionId) {
        self.owner = owner;
    }

    pub(crate) fn subscribe(&mut self, channel: Channel, subscription: Subscription) {
        self.subscriptions.insert(channel, subscription);
    }

    pub(crate) fn unsubscribe(&mut self, channel: Channel) {
        self.subscriptions.remove(&channel);
    }

    pub(crate) fn subscription(&self, channel: Channel) -> Option<&Subscription> {
        self.subscriptions.get(&channel)
    }

    pub(crate) fn channels(&self) -> impl Iterator<Item = Channel> {
        self.subscriptions.keys().copied()
    }

    /// The subscription that cloud-to-device messages go to.
    pub(crate) fn messages(&self) -> Option<&Subscription> {
        let mut all = self.subscriptions.iter();
        all.find_map(|(channel, own)| channel.takes_messages().then_some(own))
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    pub(crate) fn in_flight_mut(&mut self) -> &mut InFlight {
        &mut self.in_flight
    }

    /// What outlives the hub itself; nothing of a clean session.
    pub(crate) fn stored(&self) -> Option<StoredSession> {
        self.is_persistent().then(|| StoredSession {
            subscriptions: self
                .subscriptions
                .iter()
                .map(|(channel, own)| StoredSubscription {
                    channel: *channel,
                    filter: own.filter.clone(),
                    acknowledged: own.qos != QoS::AtMostOnce,
                })
                .collect(),
            in_flight: self.in_flight.sequences().collect(),
            last_id: self.in_flight.last,
        })
    }
}

/// A session as the store keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredSession {
    subscriptions: Vec<StoredSubscription>,
    /// Packet identifiers, and the messages they stand for.
    in_flight: Vec<(u16, u64)>,
    last_id: u16,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredSubscription {
    channel: Channel,
    filter: Box<str>,
    /// At least once rather than at most once.
    acknowledged: bool,
}

impl From<StoredSession> for Session {
    fn from(stored: StoredSession) -> Self {
        let mut session = Self::new(ConnectionId::NONE, false);
        for StoredSubscription {
            channel,
            filter,
            acknowledged,
        } in stored.subscriptions
        {
            let qos = if acknowledged {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            };
            session.subscribe(channel, Subscription { filter, qos });
        }
        let lock = None;
        let entries = stored.in_flight.into_iter();
        session.in_flight = InFlight {
            entries: entries
                .map(|(id, sequence)| (id, Entry { sequence, lock }))
                .collect(),
            last: stored.last_id,
        };
        session
    }
}

/// Messages sent at least once and not acknowledged, by packet identifier.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    entries: BTreeMap<u16, Entry>,
    last: u16,
}

#[derive(Debug)]
struct Entry {
    /// The message's number in the device's queue.
    sequence: u64,
    /// The lock it is held under; `None` while no connection holds it.
    lock: Option<Guid>,
}

impl InFlight {
    /// How many messages are held under a lock.
    pub(crate) fn held(&self) -> usize {
        self.entries.values().filter(|e| e.lock.is_some()).count()
    }

    /// Enters a message that goes out under `lock`; tells its packet identifier, and whether it went
    /// out under it before.
    ///
    /// The queue hands messages out in the order of their numbers, so that whatever nobody holds and
    /// comes before is gone from it.
    pub(crate) fn send(&mut self, sequence: u64, lock: Guid) -> (u16, bool) {
        let known = self
            .entries
            .iter_mut()
            .find(|(_, e)| e.sequence == sequence);
        if let Some((id, entry)) = known {
            entry.lock = Some(lock);
            return (*id, true);
        }
        self.entries
            .retain(|_, entry| entry.lock.is_some() || entry.sequence > sequence);
        let id = self.free_id();
        let lock = Some(lock);
        self.entries.insert(id, Entry { sequence, lock });
        (id, false)
    }

    /// The identifier after the last one that is not in use (section 2.3.1).
    fn free_id(&mut self) -> u16 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.entries.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// Takes out an acknowledged message and returns the lock it was held under.
    pub(crate) fn acknowledge(&mut self, id: u16) -> Option<Guid> {
        self.entries.remove(&id)?.lock
    }

    /// The packet identifiers in use, and the messages they stand for.
    fn sequences(&self) -> impl Iterator<Item = (u16, u64)> {
        self.entries.iter().map(|(id, entry)| (*id, entry.sequence))
    }

    /// Gives up all locks; the identifiers stay with their messages.
    pub(crate) fn let_go(&mut self) -> Vec<Guid> {
        let entries = self.entries.values_mut();
        entries.filter_map(|entry| entry.lock.take()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Send,
        Acknowledge(usize),
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Send),
            3 => any::<usize>().prop_map(Step::Acknowledge),
            1 => Just(Step::Reconnect),
        ]
    }

    proptest! {
        /// A model of the queue beside it: the numbers that are free, oldest first.
        #[test]
        fn an_identifier_means_one_message_until_it_is_acknowledged(
            steps in proptest::collection::vec(step(), 1..200),
            start in prop_oneof![Just(0u16), Just(u16::MAX - 3)],
        ) {
            let mut in_flight = InFlight { last: start, ..InFlight::default() };
            let mut free = (0..60u64).collect::<std::collections::BTreeSet<_>>();
            let mut held = BTreeMap::new();
            let mut known = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Send => {
                        let Some(sequence) = free.pop_first() else { continue };
                        let lock = Guid::random();
                        let (id, again) = in_flight.send(sequence, lock);
                        prop_assert!(id != 0);
                        prop_assert_eq!(again, known.contains_key(&sequence));
                        if let Some(before) = known.insert(sequence, id) {
                            prop_assert_eq!(before, id);
                        }
                        prop_assert_eq!(held.insert(id, (sequence, lock)), None);
                    }
                    Step::Acknowledge(which) => {
                        let Some(id) = held.keys().nth(which % held.len().max(1)).copied() else { continue };
                        let (sequence, lock) = held.remove(&id).unwrap();
                        known.remove(&sequence);
                        prop_assert_eq!(in_flight.acknowledge(id), Some(lock));
                        prop_assert_eq!(in_flight.acknowledge(id), None);
                    }
                    Step::Reconnect => {
                        let mut locks = in_flight.let_go();
                        locks.sort();
                        let mut expected: Vec<_> = held.values().map(|(_, lock)| *lock).collect();
                        expected.sort();
                        prop_assert_eq!(locks, expected);
                        free.extend(std::mem::take(&mut held).into_values().map(|(sequence, _)| sequence));
                    }
                }
                prop_assert_eq!(in_flight.held(), held.len());
            }
        }
    }

    #[test]
    fn a_message_that_left_the_queue_meanwhile_frees_its_identifier() {
        let mut in_flight = InFlight::default();
        assert_eq!(in_flight.send(7, Guid::random()), (1, false));
        in_flight.let_go();
        assert_eq!(in_flight.send(8, Guid::random()), (2, false));
        assert_eq!(in_flight.entries.len(), 1);
    }
}
