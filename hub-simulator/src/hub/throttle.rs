//! Throttles and the daily quota of a tier; pure, the time is passed in.
//!
//! Source: Microsoft, "IoT Hub quotas and throttling": a burst above a throttle is taken at once for
//! "a minute or two", then requests queue and are done at the throttle's rate, and when the queue is
//! full they are refused with 429001.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::error::{ErrorCode, HubError};
use crate::clock::unix_seconds;

/// Bytes that count as one message against the daily quota.
pub(crate) const METER: usize = 4096;
/// Bytes that a method call is metered in.
const METHOD_METER: usize = 4096;
const DAY: u64 = 86_400;

/// The size of a hub, as it is bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// 400,000 messages a day and unit.
    S1,
    /// 6,000,000 messages a day and unit.
    S2,
    /// 300,000,000 messages a day and unit.
    S3,
}

/// A tier, its units, and which of its bounds are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Size {
    /// The tier.
    pub tier: Tier,
    /// How many units of it; at least one.
    pub units: u32,
    /// Whether rates are throttled; default true.
    pub throttle: bool,
    /// Whether the daily quota counts; default true.
    pub quota: bool,
    /// Messages a day, in blocks of 4 KB; default the tier's.
    pub messages_a_day: u64,
    /// How much of a rate may be used up at once after a pause; default 60 s worth of it, as the
    /// documentation's "minute or two" has it.
    pub burst: Duration,
    /// How long a request may wait for its turn before it is refused; default 10 s. The real hub's
    /// figure is not public.
    pub queue: Duration,
}

impl Size {
    /// Makes a hub of `units` units of a tier.
    #[must_use]
    pub fn new(tier: Tier, units: u32) -> Self {
        let units = units.max(1);
        let a_unit = match tier {
            Tier::S1 => 400_000,
            Tier::S2 => 6_000_000,
            Tier::S3 => 300_000_000,
        };
        Self {
            tier,
            units,
            messages_a_day: a_unit * u64::from(units),
            throttle: true,
            quota: true,
            burst: Duration::from_secs(60),
            queue: Duration::from_secs(10),
        }
    }

    /// Sets whether rates are throttled.
    #[must_use]
    pub fn with_throttle(mut self, throttle: bool) -> Self {
        self.throttle = throttle;
        self
    }

    /// Sets whether the daily quota counts.
    #[must_use]
    pub fn with_quota(mut self, quota: bool) -> Self {
        self.quota = quota;
        self
    }

    /// Sets how many messages a day the hub takes, in blocks of 4 KB.
    #[must_use]
    pub fn with_messages_a_day(mut self, messages: u64) -> Self {
        self.messages_a_day = messages;
        self
    }

    /// Sets how much of a rate may be used up at once after a pause.
    #[must_use]
    pub fn with_burst(mut self, burst: Duration) -> Self {
        self.burst = burst;
        self
    }

    /// Sets how long a request may wait for its turn before it is refused.
    #[must_use]
    pub fn with_queue(mut self, queue: Duration) -> Self {
        self.queue = queue;
        self
    }

    /// What the hub may take a second.
    fn rate(&self, operation: Operation) -> f64 {
        use Operation as Op;
        let units = f64::from(self.units);
        let (minute, kib) = (1.0 / 60.0, 1024.0);
        match (operation, self.tier) {
            (Op::Registry | Op::C2dSend, Tier::S1 | Tier::S2) => 100.0 * minute * units,
            (Op::Registry | Op::C2dSend, Tier::S3) => 5000.0 * minute * units,
            (Op::Connect | Op::D2c, Tier::S1) => (12.0 * units).max(100.0),
            (Op::Connect | Op::D2c, Tier::S2) => 120.0 * units,
            (Op::Connect | Op::D2c, Tier::S3) => 6000.0 * units,
            (Op::C2dReceive, Tier::S1 | Tier::S2) => 1000.0 * minute * units,
            (Op::C2dReceive, Tier::S3) => 50_000.0 * minute * units,
            (Op::Method, Tier::S1) => 160.0 * kib * units,
            (Op::Method, Tier::S2) => 480.0 * kib * units,
            (Op::Method, Tier::S3) => 24.0 * kib * kib * units,
            (Op::TwinRead, Tier::S1) => 100.0,
            (Op::TwinRead, Tier::S2) => (10.0 * units).max(100.0),
            (Op::TwinRead, Tier::S3) => 500.0 * units,
            (Op::TwinUpdate, Tier::S1) => 50.0,
            (Op::TwinUpdate, Tier::S2) => (5.0 * units).max(50.0),
            (Op::TwinUpdate, Tier::S3) => 250.0 * units,
            (Op::Query, Tier::S1 | Tier::S2) => 20.0 * minute * units,
            (Op::Query, Tier::S3) => 1000.0 * minute * units,
        }
    }
}

/// What is throttled, each on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    /// A call to the identity registry.
    Registry,
    /// A device that comes: a token on `$cbs`, an MQTT connection.
    Connect,
    /// A telemetry message.
    D2c,
    /// A cloud-to-device message that is sent.
    C2dSend,
    /// A cloud-to-device message that is asked for over HTTP.
    C2dReceive,
    /// A direct method, metered in blocks of 4 KB.
    Method,
    TwinRead,
    TwinUpdate,
    Query,
}

impl Operation {
    const ALL: [Self; 9] = [
        Self::Registry,
        Self::Connect,
        Self::D2c,
        Self::C2dSend,
        Self::C2dReceive,
        Self::Method,
        Self::TwinRead,
        Self::TwinUpdate,
        Self::Query,
    ];
}

/// A rate as the time when all that was taken so far will have been worth it (the generic cell rate
/// algorithm, ITU-T I.371).
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    burst: Duration,
    queue: Duration,
    paid_until: Option<Instant>,
}

impl Bucket {
    /// Takes `amount`; returns how long it has to wait, or nothing if that is too long.
    fn take(&mut self, amount: f64, now: Instant) -> Option<Duration> {
        let cost = Duration::from_secs_f64(amount / self.per_second);
        let paid_until = self.paid_until.map_or(now, |at| at.max(now)) + cost;
        let wait = (paid_until - now).saturating_sub(self.burst.max(cost));
        (wait <= self.queue).then(|| {
            self.paid_until = Some(paid_until);
            wait
        })
    }
}

/// The throttles of a hub and its count of messages; without a size everything passes.
#[derive(Debug, Default)]
pub(crate) struct Throttles {
    enforced: Option<Enforced>,
    /// Requests that were refused, by whatever bound.
    refused: AtomicU64,
}

#[derive(Debug)]
struct Enforced {
    size: Size,
    buckets: Mutex<Vec<Bucket>>,
    quota: Mutex<Quota>,
}

#[derive(Debug, Default)]
struct Quota {
    /// Days since 1970-01-01.
    day: u64,
    used: u64,
}

impl Throttles {
    pub(crate) fn new(size: Option<Size>) -> Self {
        let enforced = size.map(|size| Enforced {
            size,
            buckets: Mutex::new(
                Operation::ALL
                    .map(|operation| Bucket {
                        per_second: size.rate(operation),
                        burst: size.burst,
                        queue: size.queue,
                        paid_until: None,
                    })
                    .into(),
            ),
            quota: Mutex::default(),
        });
        Self {
            enforced,
            refused: AtomicU64::new(0),
        }
    }

    /// Asks for one operation; returns how long it has to wait for its turn.
    ///
    /// # Errors
    /// Refuses it if it would wait too long.
    pub(crate) fn take(&self, operation: Operation, now: Instant) -> Result<Duration, HubError> {
        self.take_many(operation, 1, now)
    }

    /// Asks for a direct method with a payload of `len` bytes.
    ///
    /// # Errors
    /// Refuses it if it would wait too long.
    pub(crate) fn take_method(&self, len: usize, now: Instant) -> Result<Duration, HubError> {
        let metered = len.div_ceil(METHOD_METER).max(1) * METHOD_METER;
        self.take_many(Operation::Method, metered, now)
    }

    /// Asks for `amount` operations at once.
    ///
    /// # Errors
    /// Refuses them all if they would wait too long.
    pub(crate) fn take_many(
        &self,
        operation: Operation,
        amount: usize,
        now: Instant,
    ) -> Result<Duration, HubError> {
        let Some(enforced) = self.enforced.as_ref().filter(|e| e.size.throttle) else {
            return Ok(Duration::ZERO);
        };
        let mut buckets = enforced
            .buckets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        #[expect(clippy::cast_precision_loss, reason = "amounts are small")]
        let wait = buckets[operation as usize].take(amount as f64, now);
        wait.ok_or_else(|| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let text = format!(
                "The request has been throttled. Wait 10 seconds and try again. Operation type: {operation:?}"
            );
            HubError::new(ErrorCode::ThrottlingException, text)
        })
    }

    /// Whether messages count against a quota.
    pub(crate) fn has_quota(&self) -> bool {
        self.enforced.as_ref().is_some_and(|e| e.size.quota)
    }

    /// Counts a message of `len` bytes against the day's quota.
    ///
    /// # Errors
    /// Refuses it if the quota is used up; it is whole again at midnight, UTC.
    pub(crate) fn count_message(&self, len: usize, now: SystemTime) -> Result<(), HubError> {
        let Some(enforced) = self.enforced.as_ref().filter(|e| e.size.quota) else {
            return Ok(());
        };
        let limit = enforced.size.messages_a_day;
        let blocks = len.div_ceil(METER).max(1) as u64;
        let mut quota = enforced
            .quota
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let day = unix_seconds(now) / DAY;
        if quota.day != day {
            *quota = Quota { day, used: 0 };
        }
        if quota.used + blocks > limit {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let text = format!(
                "Total number of messages on IotHub exceeded the allocated quota. Max allowed message count : {limit}, current message count : {}.",
                quota.used
            );
            return Err(HubError::new(ErrorCode::IotHubQuotaExceeded, text));
        }
        quota.used += blocks;
        Ok(())
    }

    /// Counts what was refused since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s1() -> Throttles {
        Throttles::new(Some(Size::new(Tier::S1, 1)))
    }

    #[test]
    fn a_hub_without_a_size_refuses_nothing() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        for _ in 0..1_000_000 {
            assert_eq!(throttles.take(Operation::D2c, now), Ok(Duration::ZERO));
        }
        throttles.count_message(1 << 40, SystemTime::now()).unwrap();
    }

    #[test]
    fn a_burst_passes_then_requests_wait_then_they_are_refused() {
        let (throttles, now) = (s1(), Instant::now());
        let answers: Vec<_> = (0..7100)
            .map(|_| throttles.take(Operation::D2c, now))
            .collect();
        assert_eq!(answers[5998], Ok(Duration::ZERO));
        assert!(
            answers[6500]
                .as_ref()
                .is_ok_and(|wait| *wait > Duration::from_secs(4))
        );
        let refused = answers[7050].as_ref().unwrap_err();
        assert_eq!(refused.code, ErrorCode::ThrottlingException);
        // Another operation has a throttle of its own.
        assert_eq!(throttles.take(Operation::TwinRead, now), Ok(Duration::ZERO));
    }

    #[test]
    fn the_quota_counts_blocks_and_is_whole_again_at_midnight() {
        let throttles = s1();
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(DAY / 2);
        for _ in 0..100_000 {
            throttles.count_message(3 * METER + 1, noon).unwrap();
        }
        let refused = throttles.count_message(1, noon).unwrap_err();
        assert_eq!(refused.code, ErrorCode::IotHubQuotaExceeded);
        throttles
            .count_message(1, noon + Duration::from_secs(DAY / 2))
            .unwrap();
    }

    proptest! {
        /// Whatever the arrivals, no stretch of time is given more than its rate, the burst and the
        /// one request under way.
        #[test]
        fn nobody_gets_more_than_the_rate_and_the_burst(
            pauses in proptest::collection::vec(0..2000u64, 1..300),
        ) {
            let start = Instant::now();
            let size = Size::new(Tier::S1, 1).with_burst(Duration::from_secs(1));
            let throttles = Throttles::new(Some(size));
            let (mut now, mut done) = (start, Vec::new());
            for pause in pauses {
                now += Duration::from_millis(pause / 10);
                if let Ok(wait) = throttles.take(Operation::D2c, now) {
                    prop_assert!(wait <= size.queue);
                    done.push(now + wait);
                }
            }
            for (at, first) in done.iter().enumerate() {
                for (more, last) in done[at..].iter().enumerate() {
                    let allowed = 100.0 * (*last - *first).as_secs_f64() + 100.0 + 2.0;
                    prop_assert!((more as f64) <= allowed);
                }
            }
        }
    }
}
