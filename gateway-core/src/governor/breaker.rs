//! Keeps a device that is refused or detached again and again from costing others anything.
//!
//! Each refusal or detach is a strike. After some, the device's breaker opens: for a while, longer each
//! time, it is answered at once, then one trial decides. A device without a strike for a while is as any
//! other.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use lru::LruCache;
use serde::Deserialize;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::credential::Credential;
use crate::error::{ConfigError, ErrorKind};
use crate::explain::BreakerState;
use crate::id::DeviceId;
use crate::lock::lock;

/// Says what becomes of devices that the hub refuses or detaches again and again.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BreakerConfig {
    /// Refusals and detaches after which a device is answered at once and the hub not asked.
    /// Default 3.
    pub open_after: u32,
    /// How long the hub is not asked, longer each time. Default 1 s to 60 s.
    pub open: Backoff,
    /// How long a device must be good for all to be forgotten. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub forgiven_after: Duration,
    /// Misbehaving devices kept in mind. Default 10,000, about 4 MiB; beyond, the oldest are
    /// forgotten.
    pub devices: usize,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            open_after: 3,
            open: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).unwrap_or_default(),
            forgiven_after: Duration::from_secs(60),
            devices: 10_000,
        }
    }
}

impl BreakerConfig {
    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ranges: [(&str, u128, u128, u128); 3] = [
            ("breaker.open_after", self.open_after.into(), 1, 1000),
            (
                "breaker.forgiven_after (ms)",
                self.forgiven_after.as_millis(),
                1,
                86_400_000,
            ),
            ("breaker.devices", self.devices as u128, 1, 1_000_000),
        ];
        for (key, value, least, most) in ranges {
            ConfigError::check_range(key, value, least, most)?;
        }
        Ok(())
    }
}

/// Detaches so close to each other are one: the hub's upkeep meets all links of a device.
const SAME_DETACH: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// One trial is on its way.
    HalfOpen,
}

/// One device's strikes. Pure, the time is passed in.
#[derive(Debug)]
struct Breaker {
    /// What the strikes were made with: they say nothing about another credential.
    credential: Credential,
    state: State,
    strikes: u32,
    openings: u32,
    last: Instant,
    /// Since when it can be good: the last strike, or the end of the opening that it brought.
    good_since: Instant,
    kind: ErrorKind,
}

impl Breaker {
    fn new(credential: Credential, now: Instant) -> Self {
        Self {
            credential,
            state: State::Closed,
            strikes: 0,
            openings: 0,
            last: now,
            good_since: now,
            kind: ErrorKind::Other,
        }
    }

    fn is_forgiven(&self, config: &BreakerConfig, now: Instant) -> bool {
        now.saturating_duration_since(self.good_since) >= config.forgiven_after
    }

    /// Lets a try through, or says how long none is.
    fn enter(&mut self, config: &BreakerConfig, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed => Ok(()),
            State::Open { until } if until > now => Err(until - now),
            State::Open { .. } => {
                self.state = State::HalfOpen;
                Ok(())
            }
            State::HalfOpen => Err(config.open.delay(0)),
        }
    }

    fn strike(&mut self, config: &BreakerConfig, kind: ErrorKind, now: Instant) {
        self.strikes = self.strikes.saturating_add(1);
        (self.last, self.good_since, self.kind) = (now, now, kind);
        if self.strikes >= config.open_after {
            let until = now + config.open.delay(self.openings);
            self.openings = self.openings.saturating_add(1);
            self.state = State::Open { until };
            self.good_since = until;
        }
    }

    /// The try came to its end without a strike. A next strike opens again at once.
    fn pass(&mut self) {
        self.state = State::Closed;
    }

    /// The try was given up: another may begin.
    fn abandon(&mut self, now: Instant) {
        if self.state == State::HalfOpen {
            self.state = State::Open { until: now };
            self.good_since = now;
        }
    }
}

/// Tells that a device is answered in the hub's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hub refused or detached the device too often; it is not asked for now")]
#[non_exhaustive]
pub struct Held {
    /// How long the hub is not asked.
    pub wait: Duration,
    /// What kind of refusal the last was.
    pub kind: ErrorKind,
}

impl Held {
    /// Tells that the hub is not asked for so long, after a refusal of this kind.
    #[must_use]
    pub const fn new(wait: Duration, kind: ErrorKind) -> Self {
        Self { wait, kind }
    }
}

/// Holds the breakers of devices with a strike; the others have none.
#[derive(Debug)]
pub struct Breakers {
    config: BreakerConfig,
    table: Mutex<LruCache<DeviceId, Breaker>>,
}

impl Breakers {
    /// Makes breakers that are all closed.
    #[must_use]
    pub fn new(config: &BreakerConfig) -> Self {
        let devices = NonZeroUsize::new(config.devices).unwrap_or(NonZeroUsize::MIN);
        Self {
            config: config.clone(),
            table: Mutex::new(LruCache::new(devices)),
        }
    }

    /// Lets a device be tried, or answers in the hub's place.
    ///
    /// # Errors
    /// Its breaker is open. Strikes made with another credential do not count.
    pub fn enter<'a>(
        &'a self,
        device: &'a DeviceId,
        credential: &'a Credential,
    ) -> Result<Trial<'a>, Held> {
        let now = Instant::now();
        let mut table = lock(&self.table);
        if let Some(breaker) = table.get_mut(device) {
            if breaker.credential != *credential || breaker.is_forgiven(&self.config, now) {
                table.pop(device);
            } else if let Err(wait) = breaker.enter(&self.config, now) {
                let kind = breaker.kind;
                return Err(Held { wait, kind });
            }
        }
        Ok(Trial {
            breakers: self,
            device,
            credential,
        })
    }

    /// Notes that the hub ended what a device had, and blames the device for it. Several within a
    /// second are one.
    pub fn detached(&self, device: &DeviceId, credential: &Credential, kind: ErrorKind) {
        self.strike(device, credential, kind, SAME_DETACH);
    }

    /// Counts against a device what it is to blame for, unless the last was less than `apart` ago.
    fn strike(&self, device: &DeviceId, credential: &Credential, kind: ErrorKind, apart: Duration) {
        let now = Instant::now();
        let mut table = lock(&self.table);
        let is_known = table.peek(device).is_some_and(|breaker| {
            breaker.credential == *credential && !breaker.is_forgiven(&self.config, now)
        });
        if !is_known {
            table.put(device.clone(), Breaker::new(credential.clone(), now));
        }
        if let Some(breaker) = table.get_mut(device)
            && (breaker.strikes == 0 || now.saturating_duration_since(breaker.last) >= apart)
        {
            breaker.strike(&self.config, kind, now);
        }
    }

    /// Tells until when a device with at least so many strikes is to be kept apart from the others;
    /// none if it has fewer, or is forgiven.
    #[must_use]
    pub fn suspect_until(&self, device: &DeviceId, strikes: u32) -> Option<Instant> {
        let table = lock(&self.table);
        let breaker = table.peek(device)?;
        let is_suspect =
            breaker.strikes >= strikes && !breaker.is_forgiven(&self.config, Instant::now());
        is_suspect.then(|| breaker.good_since + self.config.forgiven_after)
    }

    /// Tells whether the hub is asked for a device.
    #[must_use]
    pub fn state(&self, device: &DeviceId) -> BreakerState {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        match lock(&self.table).peek(device).map(|breaker| breaker.state) {
            Some(State::Open { until }) if !left(until).is_zero() => {
                BreakerState::Open(left(until))
            }
            Some(State::HalfOpen) => BreakerState::Trying,
            _ => BreakerState::Closed,
        }
    }

    /// Counts the devices that the hub is not asked for now.
    #[must_use]
    pub fn open(&self) -> usize {
        let (table, now) = (lock(&self.table), Instant::now());
        let is_open = |state| matches!(state, State::Open { until } if until > now);
        table.iter().filter(|(_, b)| is_open(b.state)).count()
    }
}

/// Is a try of a device. Dropped without a verdict, it leaves the way to another: so ends a try that
/// failed by nobody's fault, as when the hub cannot be reached.
#[derive(Debug)]
#[must_use = "its end closes the breaker or counts a strike"]
pub struct Trial<'a> {
    breakers: &'a Breakers,
    device: &'a DeviceId,
    credential: &'a Credential,
}

impl Trial<'_> {
    /// Ends it: well, or with a failure of this kind that the device is to blame for.
    pub fn end(self, failure: Option<ErrorKind>) {
        match failure {
            Some(kind) => {
                let apart = Duration::ZERO;
                self.breakers
                    .strike(self.device, self.credential, kind, apart);
            }
            None => self.change(Breaker::pass),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Breaker)) {
        if let Some(breaker) = lock(&self.breakers.table).peek_mut(self.device) {
            change(breaker);
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.change(|breaker| breaker.abandon(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::SymmetricKey;
    use tokio::time::advance;

    fn breakers() -> Breakers {
        Breakers::new(&BreakerConfig::default())
    }

    fn device() -> DeviceId {
        DeviceId::new("device").unwrap()
    }

    fn key(text: &str) -> Credential {
        Credential::DeviceKey(SymmetricKey::from_base64(text).unwrap().into())
    }

    const REFUSED: ErrorKind = ErrorKind::UnknownDevice;

    /// Tries and is refused until it is held; counts the tries and gives the wait.
    fn fail(breakers: &Breakers, credential: &Credential) -> (u32, Duration) {
        for tries in 0.. {
            match breakers.enter(&device(), credential) {
                Ok(trial) => trial.end(Some(REFUSED)),
                Err(Held { wait, kind }) => {
                    assert_eq!(kind, REFUSED);
                    return (tries, wait);
                }
            }
        }
        unreachable!("a range without end")
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_some_strikes_and_longer_each_time_with_one_trial_between() {
        let (breakers, key) = (breakers(), key("a2V5"));
        let (tries, mut before) = fail(&breakers, &key);
        assert_eq!((tries, breakers.open()), (3, 1));
        for _ in 0..4 {
            advance(before).await;
            let (tries, wait) = fail(&breakers, &key);
            assert_eq!(tries, 1, "one trial");
            assert!(wait >= before, "{wait:?} after {before:?}");
            before = wait;
        }
        advance(before).await;
        let (id, trial) = (device(), breakers.enter(&device(), &key).map(drop));
        assert!(trial.is_ok());
        let trial = breakers.enter(&id, &key).unwrap();
        assert!(
            breakers.enter(&id, &key).is_err(),
            "no second trial beside it"
        );
        trial.end(None);
        assert_eq!(breakers.open(), 0);
        assert_eq!(fail(&breakers, &key).0, 1, "the next strike opens it again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_was_good_for_a_while_is_as_any_other() {
        let (breakers, key) = (breakers(), key("a2V5"));
        let (_, wait) = fail(&breakers, &key);
        assert!(breakers.suspect_until(&device(), 2).is_some());
        advance(wait).await;
        breakers.enter(&device(), &key).unwrap().end(None);
        advance(BreakerConfig::default().forgiven_after).await;
        assert_eq!(breakers.suspect_until(&device(), 2), None);
        assert_eq!(fail(&breakers, &key).0, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_device_did_before_a_long_opening_is_not_forgotten_by_its_end() {
        let (breakers, key) = (breakers(), key("a2V5"));
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            longest = fail(&breakers, &key).1;
            advance(longest).await;
        }
        breakers.enter(&device(), &key).unwrap().end(None);
        advance(Duration::from_secs(20)).await;
        breakers.detached(&device(), &key, REFUSED);
        let held = breakers.enter(&device(), &key).unwrap_err();
        assert!(held.wait >= longest / 2, "{held:?} after {longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_credential_is_not_held_for_the_first_ones_strikes() {
        let breakers = breakers();
        fail(&breakers, &key("a2V5"));
        assert!(breakers.enter(&device(), &key("b3RoZXI=")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn all_links_detached_at_once_are_one_strike() {
        let (breakers, key, id) = (breakers(), key("a2V5"), device());
        for _ in 0..4 {
            breakers.detached(&id, &key, REFUSED);
        }
        assert_eq!(breakers.suspect_until(&id, 2), None);
        for _ in 0..2 {
            advance(SAME_DETACH).await;
            breakers.detached(&id, &key, REFUSED);
            assert!(breakers.suspect_until(&id, 2).is_some());
        }
        assert_eq!(breakers.open(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_without_a_verdict_is_nobodys_fault() {
        let (breakers, key, id) = (breakers(), key("a2V5"), device());
        for _ in 0..10 {
            drop(breakers.enter(&id, &key).unwrap());
        }
        assert_eq!(breakers.open(), 0);
    }
}
