//! A device's queue of cloud-to-device messages: locks, delivery counts, time to live.
//!
//! Source: Microsoft, "Understand cloud-to-device messaging from an IoT hub".

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::guid::Guid;

/// The bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueRules {
    pub(crate) depth: usize,
    pub(crate) lock: Duration,
    pub(crate) max_deliveries: u32,
    /// Whether a lapsed lock counts as a delivery, as older documentation has it.
    pub(crate) lapsed_lock_counts: bool,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum C2dOutcome {
    /// The device has taken it.
    Completed,
    /// The device has refused it for good.
    Rejected,
    /// Its time to live ran out first.
    Expired,
    /// It was given back too often.
    DeliveryCountExceeded,
    /// Its device or queue was removed.
    Purged,
}

/// What a device says of a message that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Complete,
    Reject,
    Abandon,
}

/// The queue already holds as many messages as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// The lock has lapsed, or there never was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockLost;

#[derive(Debug)]
struct Entry<T> {
    sequence: u64,
    item: T,
    expires: Instant,
    deliveries: u32,
    lock: Option<(Guid, Instant)>,
}

/// The messages of one device, oldest first.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    entries: VecDeque<Entry<T>>,
    last_sequence: u64,
}

/// A message as it waits, locked or not.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    pub(crate) sequence: u64,
    pub(crate) item: T,
    pub(crate) expires: Instant,
    pub(crate) deliveries: u32,
}

/// A message handed out under a lock.
#[derive(Debug)]
pub(crate) struct Locked<'a, T> {
    pub(crate) item: &'a T,
    pub(crate) sequence: u64,
    /// How often it was given back before.
    pub(crate) deliveries: u32,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            last_sequence: 0,
        }
    }
}

impl<T> Queue<T> {
    pub(crate) fn push(
        &mut self,
        item: T,
        expires: Instant,
        rules: &QueueRules,
    ) -> Result<(), QueueFull> {
        if self.entries.len() >= rules.depth {
            return Err(QueueFull);
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        self.entries.push_back(Entry {
            sequence,
            item,
            expires,
            deliveries: 0,
            lock: None,
        });
        Ok(())
    }

    /// The messages, oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Waiting<&T>> {
        self.entries.iter().map(|entry| Waiting {
            sequence: entry.sequence,
            item: &entry.item,
            expires: entry.expires,
            deliveries: entry.deliveries,
        })
    }

    /// The sequence number of the latest message, 0 if there has never been one.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// A queue as it was, with no message locked.
    pub(crate) fn restore(waiting: Vec<Waiting<T>>, last_sequence: u64) -> Self {
        let entries = waiting.into_iter().map(|waiting| Entry {
            sequence: waiting.sequence,
            item: waiting.item,
            expires: waiting.expires,
            deliveries: waiting.deliveries,
            lock: None,
        });
        Self {
            entries: entries.collect(),
            last_sequence,
        }
    }

    /// Locks the oldest message that is free under `token`.
    pub(crate) fn lock_next(
        &mut self,
        token: Guid,
        now: Instant,
        rules: &QueueRules,
    ) -> Option<Locked<'_, T>> {
        let entry = self
            .entries
            .iter_mut()
            .find(|e| e.lock.is_none() && e.expires > now)?;
        entry.lock = Some((token, now + rules.lock));
        Some(Locked {
            item: &entry.item,
            sequence: entry.sequence,
            deliveries: entry.deliveries,
        })
    }

    /// Applies a verdict; a message that is thereby finished leaves the queue with its outcome.
    pub(crate) fn settle(
        &mut self,
        token: Guid,
        verdict: Verdict,
        now: Instant,
        rules: &QueueRules,
    ) -> Result<Option<(T, C2dOutcome)>, LockLost> {
        let held = |e: &Entry<T>| {
            e.lock
                .is_some_and(|(own, until)| own == token && until > now)
        };
        let at = self.entries.iter().position(held).ok_or(LockLost)?;
        let outcome = match verdict {
            Verdict::Complete => Some(C2dOutcome::Completed),
            Verdict::Reject => Some(C2dOutcome::Rejected),
            Verdict::Abandon => self.entries[at].give_back(true, rules),
        };
        Ok(outcome.and_then(|outcome| Some((self.entries.remove(at)?.item, outcome))))
    }

    /// Frees a message whose holder is gone, as the lapse of its lock would.
    pub(crate) fn let_go(&mut self, token: Guid, rules: &QueueRules) -> Option<(T, C2dOutcome)> {
        let held = |e: &Entry<T>| e.lock.is_some_and(|(own, _)| own == token);
        let at = self.entries.iter().position(held)?;
        let outcome = self.entries[at].give_back(rules.lapsed_lock_counts, rules)?;
        Some((self.entries.remove(at)?.item, outcome))
    }

    /// Frees lapsed locks and takes out what has expired or was given back too often.
    pub(crate) fn expire(&mut self, now: Instant, rules: &QueueRules) -> Vec<(T, C2dOutcome)> {
        let mut finished = Vec::new();
        for at in (0..self.entries.len()).rev() {
            let entry = &mut self.entries[at];
            let mut outcome = None;
            if entry.lock.is_some_and(|(_, until)| until <= now) {
                outcome = entry.give_back(rules.lapsed_lock_counts, rules);
            }
            if outcome.is_none() && entry.lock.is_none() && entry.expires <= now {
                outcome = Some(C2dOutcome::Expired);
            }
            if let Some(outcome) = outcome
                && let Some(entry) = self.entries.remove(at)
            {
                finished.push((entry.item, outcome));
            }
        }
        // Oldest first.
        finished.reverse();
        finished
    }

    /// When `expire` next has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.entries
            .iter()
            .map(|e| e.lock.map_or(e.expires, |(_, until)| until))
            .min()
    }

    /// Whether a message waits for a receiver.
    pub(crate) fn has_free(&self) -> bool {
        self.entries.iter().any(|e| e.lock.is_none())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Empties the queue.
    pub(crate) fn purge(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.entries)
            .into_iter()
            .map(|entry| entry.item)
    }
}

impl<T> Entry<T> {
    fn give_back(&mut self, counts: bool, rules: &QueueRules) -> Option<C2dOutcome> {
        self.lock = None;
        self.deliveries += u32::from(counts);
        (self.deliveries >= rules.max_deliveries).then_some(C2dOutcome::DeliveryCountExceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const RULES: QueueRules = QueueRules {
        depth: 5,
        lock: Duration::from_secs(60),
        max_deliveries: 3,
        lapsed_lock_counts: false,
    };

    #[derive(Debug, Clone)]
    enum Step {
        Push { ttl_s: u64 },
        Lock,
        Settle { which: usize, verdict: Verdict },
        Wait { seconds: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let verdict = prop_oneof![
            Just(Verdict::Complete),
            Just(Verdict::Reject),
            Just(Verdict::Abandon)
        ];
        prop_oneof![
            (1..300u64).prop_map(|ttl_s| Step::Push { ttl_s }),
            Just(Step::Lock),
            (0..8usize, verdict).prop_map(|(which, verdict)| Step::Settle { which, verdict }),
            (1..90u64).prop_map(|seconds| Step::Wait { seconds }),
        ]
    }

    proptest! {
        /// Every message pushed is in the queue or has exactly one outcome, nobody holds a message
        /// that another holds, and a lock is good for its time and no longer.
        #[test]
        fn every_message_has_one_fate(steps in proptest::collection::vec(step(), 1..120)) {
            let mut queue = Queue::default();
            let mut now = Instant::now();
            let (mut pushed, mut fates) = (0u32, BTreeMap::new());
            let mut locks: Vec<(Guid, u32, Instant)> = Vec::new();
            for step in steps {
                match step {
                    Step::Push { ttl_s } => {
                        let full = queue.len() == RULES.depth;
                        let result = queue.push(pushed, now + Duration::from_secs(ttl_s), &RULES);
                        prop_assert_eq!(result.is_err(), full);
                        pushed += u32::from(!full);
                    }
                    Step::Lock => {
                        let token = Guid::random();
                        if let Some(locked) = queue.lock_next(token, now, &RULES) {
                            let item = *locked.item;
                            let held = locks.iter().any(|(_, other, until)| *other == item && *until > now);
                            prop_assert!(!held);
                            locks.push((token, item, now + RULES.lock));
                        }
                    }
                    Step::Settle { which, verdict } => {
                        if locks.is_empty() { continue }
                        let (token, item, until) = locks.remove(which % locks.len());
                        let result = queue.settle(token, verdict, now, &RULES);
                        prop_assert_eq!(result.is_err(), until <= now);
                        if let Ok(Some((settled, outcome))) = result {
                            prop_assert_eq!(settled, item);
                            prop_assert_eq!(fates.insert(settled, outcome), None);
                        }
                    }
                    Step::Wait { seconds } => now += Duration::from_secs(seconds),
                }
                for (item, outcome) in queue.expire(now, &RULES) {
                    prop_assert_eq!(fates.insert(item, outcome), None);
                }
                prop_assert!(queue.next_deadline().is_none_or(|at| at > now));
                prop_assert_eq!(queue.len() + fates.len(), pushed as usize);
            }
        }
    }

    #[test]
    fn a_message_abandoned_too_often_is_dead() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue
            .push((), now + Duration::from_secs(3600), &RULES)
            .unwrap();
        for attempt in 0..RULES.max_deliveries {
            let token = Guid::random();
            assert_eq!(
                queue.lock_next(token, now, &RULES).unwrap().deliveries,
                attempt
            );
            let settled = queue.settle(token, Verdict::Abandon, now, &RULES).unwrap();
            let last = attempt + 1 == RULES.max_deliveries;
            assert_eq!(
                settled.map(|(_, outcome)| outcome),
                last.then_some(C2dOutcome::DeliveryCountExceeded)
            );
        }
        assert_eq!(queue.len(), 0);
    }
}
