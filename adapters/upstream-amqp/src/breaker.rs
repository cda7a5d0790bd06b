//! Keeps a device that is refused or detached again and again from costing others anything.
//!
//! Each refusal or detach is a strike. After some, the device gets a lane of its own; after more
//! its breaker opens: for a while, longer each time, it is answered at once, then one trial decides.
//! A device without a strike for a while is as any other.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use gateway_core::{Backoff, BreakerState, ConfigError, Credential, DeviceId, ErrorKind};
use lru::LruCache;
use serde::Deserialize;
use tokio::time::Instant;

use crate::env::lock;
use crate::error::AmqpError;

/// Says what becomes of devices that the hub refuses or detaches again and again.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BreakerConfig {
    /// Refusals and detaches after which a device gets a lane of its own. Default 2: the first may
    /// be the hub's upkeep, which meets every device.
    pub own_lane_after: u32,
    /// Refusals and detaches after which a device is answered at once and the hub not asked.
    /// Default 3.
    pub open_after: u32,
    /// How long the hub is not asked, longer each time. Default 1 s to 60 s.
    pub open: Backoff,
    /// How long a device must be good for all to be forgotten, and for it to go back to a shared
    /// lane. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub forgiven_after: Duration,
    /// Lanes of misbehaving devices on one connection; more such devices share these. Default 32,
    /// each costing 20 KiB.
    pub own_lanes: usize,
    /// Misbehaving devices kept in mind. Default 10,000, about 4 MiB; beyond, the oldest are
    /// forgotten.
    pub devices: usize,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            own_lane_after: 2,
            open_after: 3,
            open: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).unwrap_or_default(),
            forgiven_after: Duration::from_secs(60),
            own_lanes: 32,
            devices: 10_000,
        }
    }
}

impl BreakerConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let ranges: [(&str, u128, u128, u128); 5] = [
            (
                "breaker.own_lane_after",
                self.own_lane_after.into(),
                1,
                1000,
            ),
            ("breaker.open_after", self.open_after.into(), 1, 1000),
            (
                "breaker.forgiven_after (ms)",
                self.forgiven_after.as_millis(),
                1,
                86_400_000,
            ),
            ("breaker.own_lanes", self.own_lanes as u128, 1, 1000),
            ("breaker.devices", self.devices as u128, 1, 1_000_000),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                let allowed = format!("{least} to {most}");
                return Err(ConfigError::new(key, format!("is {value}"), allowed));
            }
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
            kind: ErrorKind::Other,
        }
    }

    fn is_forgiven(&self, config: &BreakerConfig, now: Instant) -> bool {
        // While it was open it could not be good.
        let since = match self.state {
            State::Open { until } => until.max(self.last),
            _ => self.last,
        };
        now.saturating_duration_since(since) >= config.forgiven_after
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
        (self.last, self.kind) = (now, kind);
        if self.strikes >= config.open_after {
            let until = now + config.open.delay(self.openings);
            self.openings = self.openings.saturating_add(1);
            self.state = State::Open { until };
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
        }
    }
}

/// The breakers of devices with a strike; the others have none.
#[derive(Debug)]
pub(crate) struct Breakers {
    config: BreakerConfig,
    table: Mutex<LruCache<DeviceId, Breaker>>,
}

impl Breakers {
    pub(crate) fn new(config: &BreakerConfig) -> Self {
        let devices = NonZeroUsize::new(config.devices).unwrap_or(NonZeroUsize::MIN);
        Self {
            config: config.clone(),
            table: Mutex::new(LruCache::new(devices)),
        }
    }

    /// Lets a device be tried, or answers in the hub's place.
    pub(crate) fn enter<'a>(
        &'a self,
        device: &'a DeviceId,
        credential: &'a Credential,
    ) -> Result<Trial<'a>, AmqpError> {
        let now = Instant::now();
        let mut table = lock(&self.table);
        if let Some(breaker) = table.get_mut(device) {
            if breaker.credential != *credential || breaker.is_forgiven(&self.config, now) {
                table.pop(device);
            } else if let Err(wait) = breaker.enter(&self.config, now) {
                let kind = breaker.kind;
                return Err(AmqpError::Held { wait, kind });
            }
        }
        Ok(Trial {
            breakers: self,
            device,
            credential,
        })
    }

    /// Notes that the hub detached a link of a device, if the device is to blame.
    pub(crate) fn detached(&self, device: &DeviceId, credential: &Credential, error: &AmqpError) {
        self.strike(device, credential, error, SAME_DETACH);
    }

    /// Counts against a device what it is to blame for, unless the last was less than `apart` ago.
    fn strike(
        &self,
        device: &DeviceId,
        credential: &Credential,
        error: &AmqpError,
        apart: Duration,
    ) {
        if !error.blames_device() {
            return;
        }
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
            breaker.strike(&self.config, error.kind(), now);
        }
    }

    /// When a device that wants a lane of its own may go back to the others.
    pub(crate) fn suspect_until(&self, device: &DeviceId) -> Option<Instant> {
        let table = lock(&self.table);
        let breaker = table.peek(device)?;
        let is_suspect = breaker.strikes >= self.config.own_lane_after
            && !breaker.is_forgiven(&self.config, Instant::now());
        is_suspect.then(|| breaker.last + self.config.forgiven_after)
    }

    /// Tells whether the hub is asked for a device.
    pub(crate) fn state(&self, device: &DeviceId) -> BreakerState {
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
    pub(crate) fn open(&self) -> usize {
        let (table, now) = (lock(&self.table), Instant::now());
        let is_open = |state| matches!(state, State::Open { until } if until > now);
        table.iter().filter(|(_, b)| is_open(b.state)).count()
    }
}

/// Is a try of a device. Dropped without a verdict, it leaves the way to another.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    breakers: &'a Breakers,
    device: &'a DeviceId,
    credential: &'a Credential,
}

impl Trial<'_> {
    pub(crate) fn end(self, error: Option<&AmqpError>) {
        match error {
            Some(error) => {
                let apart = Duration::ZERO;
                self.breakers
                    .strike(self.device, self.credential, error, apart);
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
    use gateway_core::credential::SymmetricKey;
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

    fn refused() -> AmqpError {
        AmqpError::Refused {
            condition: "amqp:not-found".into(),
            description: String::new(),
        }
    }

    /// Tries and is refused until it is held; counts the tries and gives the wait.
    fn fail(breakers: &Breakers, credential: &Credential) -> (u32, Duration) {
        for tries in 0.. {
            match breakers.enter(&device(), credential) {
                Ok(trial) => trial.end(Some(&refused())),
                Err(AmqpError::Held { wait, kind }) => {
                    assert_eq!(kind, ErrorKind::UnknownDevice);
                    return (tries, wait);
                }
                Err(other) => panic!("{other}"),
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
        assert!(breakers.suspect_until(&device()).is_some());
        advance(wait).await;
        breakers.enter(&device(), &key).unwrap().end(None);
        advance(BreakerConfig::default().forgiven_after).await;
        assert_eq!(breakers.suspect_until(&device()), None);
        assert_eq!(fail(&breakers, &key).0, 3);
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
            breakers.detached(&id, &key, &refused());
        }
        assert_eq!(breakers.suspect_until(&id), None);
        for _ in 0..2 {
            advance(SAME_DETACH).await;
            breakers.detached(&id, &key, &refused());
            assert!(breakers.suspect_until(&id).is_some());
        }
        assert_eq!(breakers.open(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_and_a_throttling_hub_are_nobodys_fault() {
        let (breakers, key, id) = (breakers(), key("a2V5"), device());
        let throttled = AmqpError::Token {
            status: 429,
            description: String::new(),
        };
        for error in [AmqpError::Down, throttled, AmqpError::Unanswered("a token")] {
            for _ in 0..10 {
                breakers.enter(&id, &key).unwrap().end(Some(&error));
            }
        }
        assert_eq!(breakers.open(), 0);
    }
}
