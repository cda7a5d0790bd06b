//! The hub behind every protocol: registry, queues, twins, calls, record. No IO in here.

pub(crate) mod access;
pub(crate) mod bulk;
pub(crate) mod calls;
pub(crate) mod device;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod feedback;
pub(crate) mod identities;
pub(crate) mod identity;
pub(crate) mod identity_record;
pub(crate) mod identity_write;
pub(crate) mod keys;
pub(crate) mod message;
pub(crate) mod openings;
pub(crate) mod peer;
pub(crate) mod query;
pub(crate) mod queue;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod sas;
pub(crate) mod search;
pub(crate) mod stamps;
pub(crate) mod state;
pub(crate) mod throttle;
pub(crate) mod twin;
pub(crate) mod twins;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::amqp::events::encode;
use crate::faults::{Script, Settling, code_of};
use crate::limits::Limits;
use error::{ErrorCode, HubError};
use events::{EventBatch, EventLog, EventRetention, Layout};
use peer::{ConnectionId, Notice, Peer};
use record::{Accepted, Record};
use registry::{AuthMethod, Registry};
use state::{HubState, Now};
use throttle::{Operation, Throttles};

/// Who sends telemetry, as the hub has found out.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub(crate) identity: Arc<str>,
    pub(crate) auth: AuthMethod,
}

/// What all connections of one simulator share.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) host: String,
    pub(crate) limits: Limits,
    pub(crate) record: Record,
    pub(crate) events: Arc<EventLog>,
    pub(crate) script: Script,
    pub(crate) throttles: Throttles,
    state: Mutex<HubState>,
    peers: Mutex<BTreeMap<ConnectionId, Arc<Peer>>>,
    opened: AtomicU64,
    /// Stirred whenever what `HubStats` shows may have changed.
    changed: watch::Sender<()>,
    /// Stirred when the state's next deadline may have come nearer.
    clock: Arc<Notify>,
}

impl Hub {
    pub(crate) fn new(registry: Registry, limits: Limits, record: Record) -> Self {
        let clock = Arc::new(Notify::new());
        let retention = EventRetention::of(record.mode());
        Self {
            events: Arc::new(EventLog::new(Layout::default(), retention)),
            host: registry.host().to_owned(),
            state: Mutex::new(HubState::new(registry, &limits, Arc::clone(&clock))),
            record,
            throttles: Throttles::new(limits.size),
            script: Script::default(),
            peers: Mutex::default(),
            opened: AtomicU64::new(0),
            changed: watch::Sender::new(()),
            clock,
            limits,
        }
    }

    /// Lays out the log of events anew.
    pub(crate) fn with_events(mut self, events: EventLog) -> Self {
        self.events = Arc::new(events);
        self
    }

    /// The state; held for a few look-ups at a time and never across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a new connection into the books.
    pub(crate) fn join(&self) -> Arc<Peer> {
        let peer = Arc::new(Peer::new());
        self.adopt(&peer);
        peer
    }

    /// Enters a connection that another hub has let go.
    pub(crate) fn adopt(&self, peer: &Arc<Peer>) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.peers().insert(peer.id, Arc::clone(peer));
        self.stir();
    }

    /// Takes a connection out of the books.
    pub(crate) fn leave(&self, id: ConnectionId) {
        self.peers().remove(&id);
        self.stir();
    }

    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// The open connections, oldest first.
    pub(crate) fn connections(&self) -> Vec<Arc<Peer>> {
        self.peers().values().cloned().collect()
    }

    pub(crate) fn broadcast(&self, notice: &Notice) {
        for peer in self.connections() {
            peer.post(notice.clone());
        }
    }

    pub(crate) fn post_to(&self, id: ConnectionId, notice: Notice) {
        if let Some(peer) = self.peers().get(&id) {
            peer.post(notice);
        }
    }

    /// Takes telemetry messages that did not come by AMQP, which has a faster way of its own, all or
    /// none; tells how their settlement goes out.
    ///
    /// # Errors
    /// Refuses what is too large or too much, and what a script rejects.
    pub(crate) fn accept(
        &self,
        messages: Vec<Accepted>,
        sender: &Sender,
        now: Now,
    ) -> Result<Settling, HubError> {
        let device = identity::split(&sender.identity).0;
        if let Some(error) = self.script.rejection(&sender.identity) {
            tracing::debug!(device.id = device, condition = %error.condition, "Telemetry is rejected by script");
            return Err(HubError::new(code_of(&error.condition), error.description));
        }
        let size = messages.iter().map(Accepted::size).sum();
        let limit = self.limits.max_telemetry_size;
        if size > limit {
            let text = format!("The message or batch is over {limit} bytes.");
            return Err(HubError::new(ErrorCode::MessageTooLarge, text));
        }
        let throttles = &self.throttles;
        let wait = throttles.take_many(Operation::D2c, messages.len(), now.instant)?;
        throttles.count_message(size, now.system)?;
        let count = messages.len() as u64;
        self.record
            .counter(&sender.identity)
            .fetch_add(count, Ordering::Relaxed);
        let stamps = {
            let mut state = self.state();
            state.active(&sender.identity, now.system);
            state.stamps(sender)
        };
        if let Some(partition) = self.events.partition_of(&stamps.device_id) {
            let mut batch = EventBatch::default();
            for message in &messages {
                batch.push(partition, &stamps, &encode::telemetry(message));
            }
            self.events.append(&mut batch, now.system);
        }
        let stamped = messages.into_iter().map(|mut message| {
            message.stamps = Some(Arc::clone(&stamps));
            message
        });
        let mode = self.record.mode();
        let mut kept = stamped.filter_map(|message| mode.keep(message)).collect();
        self.record.add(count, &mut kept);
        self.stir();
        tracing::debug!(device.id = device, count, "Telemetry is accepted");
        Ok(self.script.settling().no_sooner_than(wait))
    }

    /// Refuses what the basic tier is without: messages to devices, methods and twins.
    pub(crate) fn demand_standard_tier(&self) -> Result<(), HubError> {
        if self.limits.basic_tier {
            let text = "The hub is of the basic tier, which does not have this feature.";
            return Err(HubError::new(ErrorCode::InvalidOperation, text));
        }
        Ok(())
    }

    /// Lets everybody who waits for a condition look again.
    pub(crate) fn stir(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Drives locks and times to live; runs until it is dropped.
    pub(crate) async fn run_clock(self: Arc<Self>) {
        loop {
            let next = self.state().next_deadline();
            match next {
                None => self.clock.notified().await,
                Some(deadline) => tokio::select! {
                    () = self.clock.notified() => {}
                    () = tokio::time::sleep_until(deadline) => self.state().tick(Now::read()),
                },
            }
        }
    }
}
