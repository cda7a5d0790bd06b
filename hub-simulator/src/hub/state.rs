//! The hub's devices and everything that is on its way to them. The time is passed in, but for the
//! stamps that the registry shows.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::device::{Fate, Feed, QueuedC2d};
use super::feedback::{Feedback, FeedbackDelivery, FeedbackRecord};
use super::identity;
use super::message::{C2d, C2dError, MethodResponse};
use super::openings::Openings;
use super::peer::{Notice, Subscriber};
use super::queue::{C2dOutcome, LockLost, QueueRules, Verdict};
use super::registry::Registry;
use super::stamps::Stamps;
use crate::clock::{CENTURY, Ticks};
use crate::guid::Guid;
use crate::hub::Sender;
use crate::limits::Limits;

/// Largest cloud-to-device message, properties and all.
const MAX_C2D: usize = 64 * 1024;
/// Default and longest time to live of a cloud-to-device message.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
const MAX_TTL: Duration = Duration::from_secs(2 * 24 * 3600);

/// The time, read once for everything that happens together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) system: SystemTime,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self {
            instant: Instant::now(),
            system: SystemTime::now(),
        }
    }

    /// The instant at a Unix time in seconds, as far off as instants reach.
    pub(crate) fn at_unix(&self, seconds: u64) -> Instant {
        let target = Duration::from_secs(seconds);
        let since = self
            .system
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let wait = target.saturating_sub(since).min(CENTURY);
        self.instant + wait
    }
}

/// A cloud-to-device message handed out under a lock.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) lock: Guid,
    pub(crate) sequence: u64,
    /// How often it was given back before.
    pub(crate) deliveries: u32,
    pub(crate) message: Arc<C2d>,
    pub(crate) enqueued: SystemTime,
}

/// Registry, queues, twins and calls.
#[derive(Debug)]
pub(crate) struct HubState {
    pub(crate) registry: Registry,
    rules: QueueRules,
    /// Calls of one device that may wait for an answer.
    pub(super) max_calls: Option<usize>,
    pub(crate) openings: Openings,
    feedback: Feedback,
    /// Queues to look at, by time.
    timers: BTreeSet<(Instant, Arc<str>)>,
    pub(super) calls: HashMap<Guid, (Arc<str>, oneshot::Sender<MethodResponse>)>,
    /// Devices with a link on any connection.
    pub(crate) attached: usize,
    /// Links of devices that were removed, which their connections are about to close.
    orphans: HashMap<Arc<str>, u32>,
    /// Rung when the next deadline has come nearer.
    clock: Arc<Notify>,
}

impl HubState {
    pub(crate) fn new(mut registry: Registry, limits: &Limits, clock: Arc<Notify>) -> Self {
        registry.checks = limits.checks;
        let (timers, calls) = (BTreeSet::new(), HashMap::new());
        Self {
            registry,
            rules: limits.queue_rules(),
            max_calls: limits.methods_in_flight,
            openings: Openings::new(limits.receive_link_opens),
            feedback: Feedback::new(limits.feedback_rules()),
            timers,
            calls,
            attached: 0,
            orphans: HashMap::new(),
            clock,
        }
    }

    // Links and listeners.

    pub(crate) fn link_opened(&mut self, id: &str) {
        if let Some(device) = self.registry.get_mut(id) {
            device.links += 1;
            if device.links == 1 {
                self.attached += 1;
                device.attaches += 1;
                device.came_or_went(Ticks::now());
            }
        }
    }

    pub(crate) fn link_closed(&mut self, id: &str) {
        if let Some(links) = self.orphans.get_mut(id) {
            *links -= 1;
            if *links == 0 {
                self.orphans.remove(id);
            }
            return;
        }
        if let Some(device) = self.registry.get_mut(id)
            && device.links > 0
        {
            device.links -= 1;
            if device.links == 0 {
                self.attached -= 1;
                device.came_or_went(Ticks::now());
            }
        }
    }

    /// Notes that a device or module has sent something.
    pub(crate) fn active(&mut self, id: &str, now: SystemTime) {
        if let Some(device) = self.registry.peek_mut(id) {
            device.last_activity = now.into();
        }
    }

    /// Where a sender of much notes when it last sent, without the state's lock; in ticks.
    pub(crate) fn activity(&mut self, id: &str) -> Option<Arc<AtomicU64>> {
        let device = self.registry.peek_mut(id)?;
        Some(Arc::clone(device.sent.get_or_insert_default()))
    }

    /// What is written onto every message of a sender.
    pub(crate) fn stamps(&self, sender: &Sender) -> Arc<Stamps> {
        let device = self.registry.get(&sender.identity);
        let generation = device.map_or(0, |device| device.generation);
        let twin = device.and_then(|device| device.twin.as_deref());
        let model = twin.map(|twin| &*twin.model_id);
        let model = model.filter(|model| !model.is_empty());
        Stamps::new(&sender.identity, sender.auth, generation, model)
    }

    /// Makes `subscriber` the listener; the one before is told.
    pub(crate) fn subscribe(&mut self, id: &str, feed: Feed, subscriber: Subscriber) {
        let displaces = feed != Feed::Desired && self.registry.checks.link_steal;
        let Some(device) = self.registry.get_mut(id) else {
            return;
        };
        let before = device.slot(feed).replace(subscriber.clone());
        if let Some(before) = before
            && before != subscriber
            && displaces
        {
            before.post(Notice::Displaced);
        }
    }

    /// Ends a subscription unless somebody else listens by now.
    pub(crate) fn unsubscribe(&mut self, id: &str, feed: Feed, subscriber: &Subscriber) {
        if let Some(device) = self.registry.get_mut(id) {
            device.slot(feed).take_if(|current| current == subscriber);
        }
    }

    /// Takes a device out of the registry; its messages are purged.
    pub(crate) fn remove_device(&mut self, id: &str) -> bool {
        let Some(device) = self.registry.remove(id) else {
            return false;
        };
        if device.links > 0 {
            self.attached -= 1;
            *self.orphans.entry(id.into()).or_default() += device.links;
        }
        if let Some(armed) = device.armed {
            self.timers.remove(&(armed, id.into()));
        }
        let generation = device.generation;
        if let Some(mut queue) = device.queue {
            let now = Now::read();
            for item in queue.purge() {
                self.decide(id, generation, &item, C2dOutcome::Purged, now);
            }
        }
        true
    }

    // Cloud to device.

    pub(crate) fn enqueue(
        &mut self,
        id: &str,
        message: C2d,
        now: Now,
    ) -> Result<Arc<Fate>, C2dError> {
        if message.size() > MAX_C2D {
            return Err(C2dError::TooLarge);
        }
        let rules = self.rules;
        let device = self.registry.get_mut(id).ok_or(C2dError::UnknownDevice)?;
        let expires = now.instant + message.ttl.unwrap_or(DEFAULT_TTL).min(MAX_TTL);
        let fate = Fate::new();
        let (message, enqueued) = (Arc::new(message), now.system);
        let item = QueuedC2d {
            message,
            enqueued,
            fate: Arc::clone(&fate),
        };
        let queue = device.queue.get_or_insert_default();
        queue
            .push(item, expires, &rules)
            .map_err(|_full| C2dError::QueueFull)?;
        if let Some(subscriber) = &device.messages {
            subscriber.post(Notice::MessageReady);
        }
        self.arm(id);
        Ok(fate)
    }

    /// Locks the device's next message.
    pub(crate) fn next_message(&mut self, id: &str, now: Now) -> Option<Delivery> {
        let device = self.registry.get_mut(id)?;
        let queue = device.queue.as_mut()?;
        let lock = Guid::random();
        let locked = queue.lock_next(lock, now.instant, &self.rules)?;
        device.last_activity = now.system.into();
        locked.item.fate.delivered();
        let delivery = Delivery {
            lock,
            sequence: locked.sequence,
            deliveries: locked.deliveries,
            message: Arc::clone(&locked.item.message),
            enqueued: locked.item.enqueued,
        };
        self.arm(id);
        Some(delivery)
    }

    pub(crate) fn settle(
        &mut self,
        id: &str,
        lock: Guid,
        verdict: Verdict,
        now: Now,
    ) -> Result<(), LockLost> {
        let device = self.registry.get_mut(id).ok_or(LockLost)?;
        let queue = device.queue.as_mut().ok_or(LockLost)?;
        let finished = queue.settle(lock, verdict, now.instant, &self.rules)?;
        if let Some((item, outcome)) = finished {
            let generation = device.generation;
            self.decide(id, generation, &item, outcome, now);
        } else if let Some(subscriber) = &device.messages {
            subscriber.post(Notice::MessageReady);
        }
        self.arm(id);
        Ok(())
    }

    /// Frees messages whose holder is gone, as the lapse of their locks would.
    pub(crate) fn let_go(&mut self, id: &str, locks: &[Guid], now: Now) {
        let rules = self.rules;
        let Some(device) = self.registry.get_mut(id) else {
            return;
        };
        let generation = device.generation;
        let Some(queue) = &mut device.queue else {
            return;
        };
        let finished: Vec<_> = locks
            .iter()
            .filter_map(|lock| queue.let_go(*lock, &rules))
            .collect();
        if queue.has_free()
            && let Some(subscriber) = &device.messages
        {
            subscriber.post(Notice::MessageReady);
        }
        for (item, outcome) in finished {
            self.decide(id, generation, &item, outcome, now);
        }
        self.arm(id);
    }

    /// Empties a device's queue; tells how many messages it held, or nothing of an unknown device.
    pub(crate) fn purge(&mut self, id: &str) -> Option<usize> {
        let device = self.registry.get_mut(id)?;
        let generation = device.generation;
        let queue = device.queue.as_mut();
        let purged: Vec<_> = queue
            .map(|queue| queue.purge().collect())
            .unwrap_or_default();
        let now = Now::read();
        for item in &purged {
            self.decide(id, generation, item, C2dOutcome::Purged, now);
        }
        Some(purged.len())
    }

    /// Tells whoever wants to know what became of a message.
    fn decide(
        &mut self,
        id: &str,
        generation: u64,
        item: &QueuedC2d,
        outcome: C2dOutcome,
        now: Now,
    ) {
        item.fate.decide(outcome);
        let device = identity::split(id).0;
        let record = FeedbackRecord::of(device, generation, &item.message, outcome, now.system);
        if let Some(record) = record {
            self.feedback.add(record, now);
            self.clock.notify_one();
        }
    }

    /// Sets the clock for a device's queue, unless it rings early enough already.
    pub(crate) fn arm(&mut self, id: &str) {
        let Some(device) = self.registry.peek_mut(id) else {
            return;
        };
        let Some(deadline) = device
            .queue
            .as_ref()
            .and_then(|queue| queue.next_deadline())
        else {
            return;
        };
        if device.armed.is_none_or(|armed| deadline < armed) {
            let id: Arc<str> = id.into();
            if let Some(later) = device.armed.replace(deadline) {
                self.timers.remove(&(later, Arc::clone(&id)));
            }
            self.timers.insert((deadline, id));
            self.clock.notify_one();
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let queues = self.timers.first().map(|(deadline, _)| *deadline);
        queues
            .into_iter()
            .chain(self.feedback.next_deadline())
            .min()
    }

    /// Does what has become due.
    pub(crate) fn tick(&mut self, now: Now) {
        self.feedback.tick(now);
        while let Some((due, id)) = self.timers.pop_first() {
            if due > now.instant {
                self.timers.insert((due, id));
                return;
            }
            // Most timers ring for nothing, or for a lock, which is not stored.
            let Some(device) = self.registry.peek_mut(&id) else {
                continue;
            };
            device.armed = None;
            let Some(queue) = &mut device.queue else {
                continue;
            };
            let finished = queue.expire(now.instant, &self.rules);
            if queue.has_free()
                && let Some(subscriber) = &device.messages
            {
                subscriber.post(Notice::MessageReady);
            }
            let generation = device.generation;
            if !finished.is_empty() || self.rules.lapsed_lock_counts {
                self.registry.touch(&id);
            }
            for (item, outcome) in finished {
                self.decide(&id, generation, &item, outcome, now);
            }
            self.arm(&id);
        }
    }

    // Feedback.

    /// Locks the next batch of feedback.
    pub(crate) fn next_feedback(&mut self, now: Now) -> Option<FeedbackDelivery> {
        let delivery = self.feedback.next(now);
        self.clock.notify_one();
        delivery
    }

    /// Completes, rejects or gives back a batch of feedback.
    pub(crate) fn settle_feedback(
        &mut self,
        lock: Guid,
        verdict: Verdict,
        now: Now,
    ) -> Result<(), LockLost> {
        self.feedback.settle(lock, verdict, now)
    }

    /// Tells a receiver whenever feedback waits; receivers compete for it.
    pub(crate) fn subscribe_feedback(&mut self, receiver: Subscriber) {
        self.feedback.subscribe(receiver);
    }

    pub(crate) fn unsubscribe_feedback(&mut self, receiver: &Subscriber) {
        self.feedback.unsubscribe(receiver);
    }
}

#[cfg(test)]
mod tests;
