//! What the script of faults says; connections ask it as they go.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::LinkKind;
use crate::amqp::{AmqpError, condition};
use crate::hub::error::ErrorCode;

/// A fault that a connection carries out at once.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// Drop the socket; with a reset rather than an orderly end.
    Cut,
    /// Stop reading and writing, or go on.
    Freeze(bool),
    /// Close with an error.
    Close(AmqpError),
    /// End all sessions, or those with a link of the device.
    EndSessions(Option<String>, AmqpError),
    /// Detach the device's links of a kind, or everybody's.
    Detach(Option<String>, LinkKind, AmqpError),
    /// Let the device's tokens expire, or everybody's.
    ExpireTokens(Option<String>),
    /// Send the settlements held back so far.
    Release,
}

/// How a settlement goes out, the soonest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Settling {
    Now,
    After(Duration),
    Hold,
    Drop,
}

impl Settling {
    /// Lets what would go out earlier wait for its turn under a throttle.
    pub(crate) fn no_sooner_than(self, wait: Duration) -> Self {
        match self {
            Self::Now if !wait.is_zero() => Self::After(wait),
            Self::After(delay) => Self::After(delay.max(wait)),
            other => other,
        }
    }
}

/// How an attach is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attaching {
    AsUsual,
    Refuse(AmqpError),
    Withhold,
}

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// A fault holds settlements back.
    pub(super) hold: bool,
    /// Guards that hold settlements back.
    pub(super) holders: usize,
    pub(super) drop: u64,
    pub(super) delay: Option<Duration>,
    pub(super) rejections: Vec<Rejection>,
    pub(super) refused_attaches: HashMap<String, AmqpError>,
    pub(super) withheld_attaches: HashSet<String>,
    pub(super) refused_tokens: HashMap<String, (i32, String)>,
    pub(super) withheld_tokens: HashSet<String>,
    pub(super) mishaps: Vec<Mishap>,
    pub(super) incoming_window: Option<u32>,
    pub(super) credit: Option<u32>,
}

impl Rules {
    /// Whether settlements are held back.
    pub(super) fn holds(&self) -> bool {
        self.hold || self.holders > 0
    }
}

/// Rejects the next telemetry messages of a device, or of any.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) device: Option<String>,
    pub(super) left: u64,
    pub(super) error: AmqpError,
}

/// The code that a condition stands for where the hub refuses by codes, as over HTTP.
pub(crate) fn code_of(condition: &str) -> ErrorCode {
    match condition {
        condition::ARGUMENT | condition::ARGUMENT_RANGE => ErrorCode::ArgumentInvalid,
        condition::HUB_NOT_FOUND => ErrorCode::IotHubNotFound,
        condition::NOT_ALLOWED => ErrorCode::InvalidOperation,
        condition::NOT_FOUND => ErrorCode::DeviceNotFound,
        // A device's limit is the quota of a day.
        condition::RESOURCE_LIMIT => ErrorCode::IotHubQuotaExceeded,
        condition::SIZE_EXCEEDED => ErrorCode::MessageTooLarge,
        condition::UNAUTHORIZED => ErrorCode::IotHubUnauthorized,
        "com.microsoft:device-container-throttled" => ErrorCode::ThrottlingException,
        "com.microsoft:timeout" => ErrorCode::GatewayTimeout,
        _ => ErrorCode::ServerError,
    }
}

/// What happens to a message that the hub sends to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishandling {
    /// It does not go out.
    Lose,
    /// It goes out as what nobody can read.
    Garble,
}

/// Mishandles the next messages to a device on links of a kind.
#[derive(Debug)]
pub(super) struct Mishap {
    pub(super) device: String,
    pub(super) kind: LinkKind,
    pub(super) left: u64,
    pub(super) how: Mishandling,
}

/// The script: rules behind a lock, and flags that spare the hot path the lock.
#[derive(Debug, Default)]
pub(crate) struct Script {
    rules: Mutex<Rules>,
    concerns_telemetry: AtomicBool,
    concerns_links: AtomicBool,
    concerns_outgoing: AtomicBool,
    latency_us: AtomicU64,
}

impl Script {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn edit<T>(&self, edit: impl FnOnce(&mut Rules) -> T) -> T {
        let mut rules = self.rules();
        let result = edit(&mut rules);
        let telemetry = rules.holds()
            || rules.drop > 0
            || rules.delay.is_some()
            || !rules.rejections.is_empty();
        let links = !rules.refused_attaches.is_empty()
            || !rules.withheld_attaches.is_empty()
            || !rules.refused_tokens.is_empty()
            || !rules.withheld_tokens.is_empty()
            || rules.incoming_window.is_some()
            || rules.credit.is_some();
        self.concerns_telemetry.store(telemetry, Ordering::Release);
        self.concerns_links.store(links, Ordering::Release);
        self.concerns_outgoing
            .store(!rules.mishaps.is_empty(), Ordering::Release);
        result
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.store(micros, Ordering::Release);
    }

    pub(crate) fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us.load(Ordering::Acquire))
    }

    fn on_telemetry(&self) -> Option<MutexGuard<'_, Rules>> {
        self.concerns_telemetry
            .load(Ordering::Acquire)
            .then(|| self.rules())
    }

    fn on_links(&self) -> Option<MutexGuard<'_, Rules>> {
        self.concerns_links
            .load(Ordering::Acquire)
            .then(|| self.rules())
    }

    /// Whether this telemetry message is to be rejected, and how.
    pub(crate) fn rejection(&self, device: &str) -> Option<AmqpError> {
        let mut rules = self.on_telemetry()?;
        let fits = |r: &Rejection| r.device.as_deref().is_none_or(|id| id == device);
        let at = rules.rejections.iter().position(fits)?;
        let rejection = &mut rules.rejections[at];
        rejection.left -= 1;
        let error = rejection.error.clone();
        if rejection.left == 0 {
            rules.rejections.remove(at);
        }
        Some(error)
    }

    /// How the next settlement of telemetry goes out.
    pub(crate) fn settling(&self) -> Settling {
        let Some(mut rules) = self.on_telemetry() else {
            return Settling::Now;
        };
        if rules.drop > 0 {
            rules.drop -= 1;
            return Settling::Drop;
        }
        match rules.delay {
            _ if rules.holds() => Settling::Hold,
            Some(delay) => Settling::After(delay),
            None => Settling::Now,
        }
    }

    pub(crate) fn attaching(&self, device: &str) -> Attaching {
        let Some(rules) = self.on_links() else {
            return Attaching::AsUsual;
        };
        if rules.withheld_attaches.contains(device) {
            return Attaching::Withhold;
        }
        rules
            .refused_attaches
            .get(device)
            .cloned()
            .map_or(Attaching::AsUsual, Attaching::Refuse)
    }

    pub(crate) fn token_refusal(&self, device: &str) -> Option<(i32, String)> {
        self.on_links()?.refused_tokens.get(device).cloned()
    }

    /// Whether good tokens of this device are neither taken nor answered.
    pub(crate) fn withholds_token(&self, device: &str) -> bool {
        self.on_links()
            .is_some_and(|rules| rules.withheld_tokens.contains(device))
    }

    /// What happens to this message to a device, if it is not sent as usual.
    pub(crate) fn mishandling(&self, device: &str, kind: LinkKind) -> Option<Mishandling> {
        if !self.concerns_outgoing.load(Ordering::Acquire) {
            return None;
        }
        let mut rules = self.rules();
        let fits = |m: &Mishap| m.device == device && m.kind.includes(Some(kind));
        let at = rules.mishaps.iter().position(fits)?;
        let mishap = &mut rules.mishaps[at];
        mishap.left -= 1;
        let (how, is_over) = (mishap.how, mishap.left == 0);
        if is_over {
            rules.mishaps.remove(at);
            self.concerns_outgoing
                .store(!rules.mishaps.is_empty(), Ordering::Release);
        }
        Some(how)
    }

    pub(crate) fn incoming_window(&self) -> Option<u32> {
        self.on_links()?.incoming_window
    }

    pub(crate) fn credit(&self) -> Option<u32> {
        self.on_links()?.credit
    }
}
