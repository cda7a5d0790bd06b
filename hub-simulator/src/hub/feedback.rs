//! What the service side is told about the fates of its messages: records, gathered into batches that
//! wait in a queue of their own.
//!
//! Source: Microsoft, "Understand cloud-to-device messaging from an IoT hub", message feedback; the
//! size of a batch and the wait for it are from Azure/azure-iot-sdks issue 555.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::message::C2d;
use super::peer::{Notice, Subscriber};
use super::queue::{C2dOutcome, LockLost, Queue, QueueRules, Verdict};
use super::state::Now;
use crate::clock::Ticks;
use crate::guid::Guid;

/// Batches that wait at most. The real hub's figure is not known.
const DEPTH: usize = 1000;

/// The content type of a batch.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.microsoft.iothub.feedback.json";

/// Which fates of a message its sender wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Ack {
    /// None.
    #[default]
    None,
    /// That the device has taken it.
    Positive,
    /// That the device will not have it any more.
    Negative,
    /// Either.
    Full,
}

impl Ack {
    /// The application property that asks for feedback.
    pub(crate) const PROPERTY: &str = "iothub-ack";

    /// Reads the value of the property, in any case; anything unknown asks for nothing.
    pub(crate) fn parse(text: &str) -> Self {
        [Self::Positive, Self::Negative, Self::Full]
            .into_iter()
            .find(|ack| text.eq_ignore_ascii_case(ack.as_str()))
            .unwrap_or_default()
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Positive => "positive",
            Self::Negative => "negative",
            Self::Full => "full",
        }
    }

    fn wants(self, outcome: C2dOutcome) -> bool {
        match self {
            Self::None => false,
            Self::Positive => outcome == C2dOutcome::Completed,
            Self::Negative => outcome != C2dOutcome::Completed,
            Self::Full => true,
        }
    }
}

/// How feedback is gathered and kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FeedbackRules {
    /// Records that fill a batch.
    pub(crate) batch: usize,
    /// How long a batch waits to be filled.
    pub(crate) wait: Duration,
    pub(crate) lock: Duration,
    pub(crate) ttl: Duration,
    pub(crate) max_deliveries: u32,
}

impl FeedbackRules {
    fn queue(&self) -> QueueRules {
        QueueRules {
            depth: DEPTH,
            lock: self.lock,
            max_deliveries: self.max_deliveries,
            lapsed_lock_counts: true,
        }
    }
}

/// The fate of one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FeedbackRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    original_message_id: Option<String>,
    description: String,
    device_generation_id: String,
    device_id: String,
    /// When the fate was decided.
    enqueued_time_utc: String,
    status_code: String,
}

impl FeedbackRecord {
    /// What the sender of a message is told of its fate, if it asked to be told.
    pub(crate) fn of(
        device: &str,
        generation: u64,
        message: &C2d,
        outcome: C2dOutcome,
        now: SystemTime,
    ) -> Option<Self> {
        // "Success" and "Message rejected" are the real hub's words, the others are like them.
        let (status_code, description) = match outcome {
            C2dOutcome::Completed => ("Success", "Success"),
            C2dOutcome::Rejected => ("Rejected", "Message rejected"),
            C2dOutcome::Expired => ("Expired", "Message expired"),
            C2dOutcome::DeliveryCountExceeded => {
                ("DeliveryCountExceeded", "Message delivery count exceeded")
            }
            C2dOutcome::Purged => ("Purged", "Message purged"),
        };
        message.ack().wants(outcome).then(|| Self {
            original_message_id: message.message_id.clone(),
            description: description.to_owned(),
            device_generation_id: generation.to_string(),
            device_id: device.to_owned(),
            enqueued_time_utc: Ticks::from(now).to_string(),
            status_code: status_code.to_owned(),
        })
    }
}

/// Records that are told together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FeedbackBatch {
    records: Vec<FeedbackRecord>,
    enqueued: SystemTime,
}

/// A batch handed out under a lock.
#[derive(Debug)]
pub(crate) struct FeedbackDelivery {
    pub(crate) lock: Guid,
    pub(crate) sequence: u64,
    /// How often it was given back before.
    pub(crate) deliveries: u32,
    pub(crate) enqueued: SystemTime,
    /// A JSON array of the records.
    pub(crate) body: Vec<u8>,
}

/// Feedback that gathers, and batches that wait for a receiver; receivers compete for them.
#[derive(Debug)]
pub(crate) struct Feedback {
    rules: FeedbackRules,
    gathering: Vec<FeedbackRecord>,
    /// When what has gathered becomes a batch, full or not.
    due: Option<Instant>,
    batches: Queue<FeedbackBatch>,
    receivers: Vec<Subscriber>,
}

impl Feedback {
    pub(crate) fn new(rules: FeedbackRules) -> Self {
        Self {
            rules,
            gathering: Vec::new(),
            due: None,
            batches: Queue::default(),
            receivers: Vec::new(),
        }
    }

    /// Takes a record; a full batch is told at once.
    pub(crate) fn add(&mut self, record: FeedbackRecord, now: Now) {
        self.gathering.push(record);
        if self.gathering.len() >= self.rules.batch {
            self.close_batch(now);
        } else if self.due.is_none() {
            self.due = Some(now.instant + self.rules.wait);
        }
    }

    fn close_batch(&mut self, now: Now) {
        self.due = None;
        let batch = FeedbackBatch {
            records: std::mem::take(&mut self.gathering),
            enqueued: now.system,
        };
        let expires = now.instant + self.rules.ttl;
        if self
            .batches
            .push(batch, expires, &self.rules.queue())
            .is_err()
        {
            tracing::warn!(
                batches = DEPTH,
                "Feedback is dropped: nobody receives what waits"
            );
        }
        self.tell_receivers();
    }

    fn tell_receivers(&self) {
        for receiver in &self.receivers {
            receiver.post(Notice::MessageReady);
        }
    }

    /// Locks the oldest batch that is free.
    pub(crate) fn next(&mut self, now: Now) -> Option<FeedbackDelivery> {
        let lock = Guid::random();
        let locked = self
            .batches
            .lock_next(lock, now.instant, &self.rules.queue())?;
        Some(FeedbackDelivery {
            lock,
            sequence: locked.sequence,
            deliveries: locked.deliveries,
            enqueued: locked.item.enqueued,
            body: serde_json::to_vec(&locked.item.records).unwrap_or_default(),
        })
    }

    /// Completes, rejects or gives back a batch.
    pub(crate) fn settle(
        &mut self,
        lock: Guid,
        verdict: Verdict,
        now: Now,
    ) -> Result<(), LockLost> {
        let rules = self.rules.queue();
        if self
            .batches
            .settle(lock, verdict, now.instant, &rules)?
            .is_none()
        {
            self.tell_receivers();
        }
        Ok(())
    }

    /// Does what has become due.
    pub(crate) fn tick(&mut self, now: Now) {
        if self.due.is_some_and(|due| due <= now.instant) {
            self.close_batch(now);
        }
        let next = self.batches.next_deadline();
        if next.is_some_and(|next| next <= now.instant) {
            let gone = self.batches.expire(now.instant, &self.rules.queue());
            if !gone.is_empty() {
                tracing::info!(batches = gone.len(), "Feedback is dropped unread");
            }
            if self.batches.has_free() {
                self.tell_receivers();
            }
        }
    }

    /// When `tick` next has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.due
            .into_iter()
            .chain(self.batches.next_deadline())
            .min()
    }

    /// Adds a receiver, which is told of batches from now on; it asks for those that wait itself.
    pub(crate) fn subscribe(&mut self, receiver: Subscriber) {
        self.receivers.push(receiver);
    }

    pub(crate) fn unsubscribe(&mut self, receiver: &Subscriber) {
        self.receivers.retain(|other| other != receiver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: FeedbackRules = FeedbackRules {
        batch: 64,
        wait: Duration::from_secs(15),
        lock: Duration::from_secs(60),
        ttl: Duration::from_secs(3600),
        max_deliveries: 10,
    };

    fn after(now: Now, wait: Duration) -> Now {
        Now {
            instant: now.instant + wait,
            system: now.system + wait,
        }
    }

    fn record(id: u32, outcome: C2dOutcome, ack: Ack, now: Now) -> Option<FeedbackRecord> {
        let message = C2d::new("x").with_message_id(id.to_string()).with_ack(ack);
        FeedbackRecord::of("dev1", 7, &message, outcome, now.system)
    }

    fn records(delivery: &FeedbackDelivery) -> Vec<serde_json::Value> {
        serde_json::from_slice(&delivery.body).unwrap()
    }

    #[test]
    fn a_sender_is_told_the_fates_that_it_asked_for() {
        let now = Now::read();
        let told = |ack, outcome| record(1, outcome, ack, now).is_some();
        for (ack, of_success, of_failure) in [
            (Ack::None, false, false),
            (Ack::Positive, true, false),
            (Ack::Negative, false, true),
            (Ack::Full, true, true),
        ] {
            assert_eq!(Ack::parse(&ack.as_str().to_uppercase()), ack);
            assert_eq!(told(ack, C2dOutcome::Completed), of_success);
            for failure in [
                C2dOutcome::Rejected,
                C2dOutcome::Expired,
                C2dOutcome::DeliveryCountExceeded,
                C2dOutcome::Purged,
            ] {
                assert_eq!(told(ack, failure), of_failure, "{ack:?} {failure:?}");
            }
        }
    }

    #[test]
    fn a_batch_is_told_when_it_is_full_or_has_waited() {
        let now = Now::read();
        let mut feedback = Feedback::new(RULES);
        for id in 0..65 {
            let record = record(id, C2dOutcome::Completed, Ack::Full, now).unwrap();
            feedback.add(record, now);
        }
        let full = feedback.next(now).unwrap();
        assert_eq!(records(&full).len(), 64);
        assert!(feedback.next(now).is_none());
        assert_eq!(feedback.next_deadline(), Some(now.instant + RULES.wait));
        let later = after(now, RULES.wait);
        feedback.tick(later);
        let rest = feedback.next(later).unwrap();
        assert_eq!(
            records(&rest),
            [serde_json::json!({
                "originalMessageId": "64",
                "description": "Success",
                "deviceGenerationId": "7",
                "deviceId": "dev1",
                "enqueuedTimeUtc": Ticks::from(now.system).to_string(),
                "statusCode": "Success",
            })]
        );
        feedback
            .settle(rest.lock, Verdict::Complete, later)
            .unwrap();
        assert_eq!(
            feedback.settle(rest.lock, Verdict::Complete, later),
            Err(LockLost)
        );
    }

    #[test]
    fn a_batch_that_nobody_completes_comes_again_until_it_expires() {
        let mut now = Now::read();
        let mut feedback = Feedback::new(RULES);
        let record = record(1, C2dOutcome::Rejected, Ack::Negative, now).unwrap();
        feedback.add(record, now);
        now = after(now, RULES.wait);
        feedback.tick(now);
        let abandoned = feedback.next(now).unwrap();
        feedback
            .settle(abandoned.lock, Verdict::Abandon, now)
            .unwrap();
        assert_eq!(feedback.next(now).unwrap().deliveries, 1);
        now = after(now, RULES.lock);
        feedback.tick(now);
        assert_eq!(feedback.next(now).unwrap().deliveries, 2);
        now = after(now, RULES.ttl);
        feedback.tick(now);
        assert!(feedback.next(now).is_none());
        assert_eq!(feedback.next_deadline(), None);
    }
}
