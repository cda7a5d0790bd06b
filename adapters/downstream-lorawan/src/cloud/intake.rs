//! Hands in what a network server tells, once and in order.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use gateway_core::{MessageId, Settlement};
use lru::LruCache;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::told::{Route, Told};
use super::turns::{Turn, Turns};
use crate::embed::NetworkEvents;
use crate::event::{DevEui, Event, Uplink};

/// How many messages are remembered, so that they are dropped if they come again: some minutes of
/// 1,000 a second, at some 100 bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99_999);

/// Knows where the downlinks of the devices go: where their last message came from.
#[derive(Debug)]
pub(super) struct Routes(Mutex<LruCache<DevEui, Route>>);

impl Routes {
    pub(super) fn new(max_devices: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(max_devices)))
    }

    fn learn(&self, dev_eui: DevEui, route: &Route) {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.get(&dev_eui) != Some(route) {
            routes.put(dev_eui, route.clone());
        }
    }

    pub(super) fn find(&self, dev_eui: DevEui) -> Option<Route> {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.get(&dev_eui).cloned()
    }
}

/// Says who comes again with a message that the hub does not take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// Nobody; it is tried until the hub takes it.
    Here,
    /// Whoever sent it.
    Sender,
}

#[derive(Debug)]
pub(super) struct Intake {
    events: NetworkEvents,
    routes: Arc<Routes>,
    turns: Turns,
    /// Messages that came, and whether the hub has settled them.
    seen: Mutex<LruCache<String, bool>>,
    shutdown: CancellationToken,
}

impl Intake {
    pub(super) fn new(
        events: NetworkEvents,
        routes: Arc<Routes>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            events,
            routes,
            turns: Turns::default(),
            seen: Mutex::new(LruCache::new(REMEMBERED)),
            shutdown,
        }
    }

    /// Gives a message its place: those of a device are taken in the order in which this is called.
    pub(super) fn queue(&self, told: &Told) -> Turn {
        let is_message = !told.events.iter().all(is_outcome);
        self.turns.next((told.dev_eui, is_message))
    }

    /// Hands in a message when it is its turn, and says what the hub made of it.
    pub(super) async fn take(&self, mut turn: Turn, told: Told, retry: Retry) -> Settlement {
        let came = Instant::now();
        let (outcomes, messages): (Vec<_>, Vec<_>) = told.events.into_iter().partition(is_outcome);
        if messages.is_empty() {
            turn.wait().await;
        }
        for outcome in outcomes {
            let _no_message = self.events.handle(outcome).await;
        }
        turn.wait().await;
        let seen = told.id.as_ref().and_then(|id| self.seen(id));
        if seen == Some(true) {
            tracing::debug!(device.id = %told.dev_eui, "Message came again; it is dropped");
            return Settlement::Accepted;
        }
        self.routes.learn(told.dev_eui, &told.route);
        let mut worst = Settlement::Accepted;
        for event in messages {
            let again = seen.is_some();
            let name = told.id.as_deref();
            match self.hand_in(event, name, came, retry, again).await {
                Settlement::Accepted => {}
                settlement @ Settlement::RetryLater(_) => {
                    self.remember(told.id, false);
                    return settlement;
                }
                settlement => worst = settlement,
            }
        }
        self.remember(told.id, true);
        worst
    }

    async fn hand_in(
        &self,
        event: Event,
        name: Option<&str>,
        came: Instant,
        retry: Retry,
        mut again: bool,
    ) -> Settlement {
        // The same however often it is handed in.
        let id = name.and_then(|name| MessageId::new(name).ok());
        let id = id.unwrap_or_else(MessageId::random);
        let mut reading = None;
        // Of a frame that comes again nobody knows when it came first.
        let is_late = again;
        loop {
            let settlement = match &event {
                Event::Uplink(uplink) => {
                    let events = &self.events;
                    let closes = match is_late {
                        true => came,
                        false => events.closes(uplink, came),
                    };
                    let heard = heard(uplink, came);
                    let handed_in = events.hand_in(uplink, heard, closes, again, &mut reading);
                    handed_in.await
                }
                event => self.events.handle_as(event.clone(), id.clone()).await,
            };
            match settlement {
                Settlement::RetryLater(after) if retry == Retry::Here => {
                    tokio::select! {
                        () = self.shutdown.cancelled() => return settlement,
                        () = sleep(after) => {}
                    }
                }
                _ => return settlement,
            }
            again = true;
        }
    }

    fn seen(&self, id: &str) -> Option<bool> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(id).copied()
    }

    fn remember(&self, id: Option<String>, is_settled: bool) {
        if let Some(id) = id {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.put(id, is_settled);
        }
    }
}

/// Tells of what became of a downlink, which waits for nothing that the hub is to take.
fn is_outcome(event: &Event) -> bool {
    use Event::*;
    matches!(event, TransmitAck(_) | DeviceAck(_) | DownlinkFailed(_))
}

/// When the network server had a frame that came then: one that waited at a broker says nothing of
/// commands that were sent meanwhile. Clocks that differ only make it count later.
fn heard(uplink: &Uplink, came: Instant) -> Instant {
    let age = SystemTime::now().duration_since(uplink.received_at);
    came.checked_sub(age.unwrap_or_default()).unwrap_or(came)
}
