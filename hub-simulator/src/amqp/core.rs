//! What all sessions of a connection share: tokens, output, the hub, and the time of this turn.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::codec::encode::Outcome;
use super::events;
use super::link::{Kind, Link};
use super::tokens::Tokens;
use super::{AmqpError, Info, condition, endpoint};
use crate::clock::{invariant, iso8601};
use crate::cloud::Caller;
use crate::guid::Guid;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::events::EventBatch;
use crate::hub::peer::{Peer, Route};
use crate::hub::record::Accepted;
use crate::hub::registry::{AuthMethod, Grant, Principal};
use crate::hub::state::Now;
use crate::hub::throttle::Operation;
use crate::hub::{Hub, Sender};
use crate::provisioning::Login;

/// Handles that a connection's sessions have room for together, used or not.
const MAX_HANDLES: usize = 1 << 20;

/// Output of a turn from which on readers of events wait, so that one with much credit does not make
/// the hub hold everything that it is still to be sent.
const MAX_OUTPUT_A_TURN: usize = 256 * 1024;

/// Everything that a session needs besides itself.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) hub: Arc<Hub>,
    pub(crate) caller: Caller,
    pub(crate) peer: Arc<Peer>,
    pub(crate) tokens: Tokens,
    /// The device that uses the connection to be provisioned.
    pub(crate) provisioning: Option<Login>,
    pub(crate) out: BytesMut,
    pub(crate) now: Now,
    /// The largest frame both sides take.
    pub(crate) frame_limit: usize,
    /// Devices with links on this connection, and how many.
    devices: HashMap<Arc<str>, u32>,
    links: usize,
    /// Handles that all sessions have room for.
    handles: usize,
    /// Bytes of deliveries that have not ended, and of messages that wait for credit.
    held: usize,
    serials: u32,
    pub(crate) batch: Batch,
    /// How long what is being delivered has to wait under the hub's throttles.
    pub(crate) wait: Duration,
    /// Readers of events that wait until what they were sent is on its way.
    pub(crate) paused: BTreeSet<Route>,
    /// Settlements that a script delays, in the order they fall due.
    pub(crate) delayed: VecDeque<Delayed>,
}

/// Telemetry accepted since the record was last told.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) kept: Vec<Accepted>,
    pub(crate) count: u64,
    pub(crate) events: EventBatch,
}

/// A settlement to be sent later.
#[derive(Debug)]
pub(crate) struct Delayed {
    pub(crate) due: Instant,
    pub(crate) channel: u16,
    pub(crate) settlement: Settlement,
}

/// An outcome on its way to the peer.
#[derive(Debug)]
pub(crate) struct Settlement {
    pub(crate) handle: u32,
    pub(crate) serial: u32,
    pub(crate) delivery_id: u32,
    pub(crate) outcome: Outcome,
}

impl Core {
    pub(crate) fn new(caller: Caller, peer: Arc<Peer>, now: Now) -> Self {
        Self {
            hub: Arc::clone(&caller.hub),
            caller,
            peer,
            tokens: Tokens::default(),
            provisioning: None,
            out: BytesMut::new(),
            now,
            frame_limit: 512,
            devices: HashMap::new(),
            links: 0,
            handles: 0,
            held: 0,
            serials: 0,
            batch: Batch::default(),
            wait: Duration::ZERO,
            paused: BTreeSet::new(),
            delayed: VecDeque::new(),
        }
    }

    /// Turns to another hub of the cloud, before anything is open.
    pub(crate) fn move_to(&mut self, hub: Arc<Hub>) {
        if !Arc::ptr_eq(&hub, &self.hub) {
            self.hub.leave(self.peer.id);
            hub.adopt(&self.peer);
            self.hub = hub;
        }
    }

    /// Whether the connection may have one more link.
    pub(crate) fn has_room_for_link(&self) -> bool {
        self.links < self.hub.limits.links_per_connection
    }

    /// Asks for room for `count` more handles, so that sparse handles cannot eat all memory.
    pub(crate) fn reserve_handles(&mut self, count: usize) -> Result<(), AmqpError> {
        if self.handles + count > MAX_HANDLES {
            return Err(AmqpError::new(
                condition::RESOURCE_LIMIT,
                "The handles are too sparse.",
            ));
        }
        self.handles += count;
        Ok(())
    }

    pub(crate) fn release_handles(&mut self, count: usize) {
        self.handles -= count;
    }

    /// Counts bytes that the peer makes the hub hold for it.
    pub(crate) fn hold(&mut self, bytes: usize) {
        self.held += bytes;
    }

    pub(crate) fn holds_too_much(&self) -> bool {
        self.held > self.hub.limits.held_per_connection
    }

    pub(crate) fn release(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    /// Whether readers of events may send more in this turn.
    pub(crate) fn has_room_for_events(&self) -> bool {
        self.out.len() < MAX_OUTPUT_A_TURN
    }

    /// The serial number of the link that opens next.
    pub(crate) fn next_serial(&self) -> u32 {
        (self.serials + 1) & Route::MASK
    }

    /// Enters a link into the books; returns its serial number.
    pub(crate) fn link_opened(&mut self, device: Option<&Arc<str>>) -> u32 {
        self.serials = self.next_serial();
        self.links += 1;
        self.peer.links.store(self.links, Ordering::Relaxed);
        if let Some(device) = device {
            *self.devices.entry(Arc::clone(device)).or_default() += 1;
            self.peer
                .devices
                .store(self.devices.len(), Ordering::Relaxed);
            self.hub.state().link_opened(device);
        }
        self.hub.stir();
        self.serials
    }

    /// Takes a link out of the books.
    pub(crate) fn link_closed(&mut self, device: Option<&Arc<str>>) {
        self.links -= 1;
        self.peer.links.store(self.links, Ordering::Relaxed);
        if let Some(device) = device {
            if let Some(count) = self.devices.get_mut(device) {
                *count -= 1;
                if *count == 0 {
                    self.devices.remove(device);
                    if self.hub.limits.detach_frees_token {
                        self.tokens.remove_of(device);
                        self.token_count_changed();
                    }
                }
            }
            self.peer
                .devices
                .store(self.devices.len(), Ordering::Relaxed);
            self.hub.state().link_closed(device);
        }
        self.hub.stir();
    }

    /// Enters a token into the books.
    pub(crate) fn token_taken(&mut self, name: &str, grant: Grant) {
        if let Principal::Device(device) = &grant.principal
            && let Some(device) = self.hub.state().registry.peek_mut(device)
        {
            device.tokens_put += 1;
        }
        self.peer.tokens_put.fetch_add(1, Ordering::Relaxed);
        self.tokens.put(name, grant);
        self.token_count_changed();
    }

    pub(crate) fn token_count_changed(&mut self) {
        self.peer.tokens.store(self.tokens.len(), Ordering::Relaxed);
        self.hub.stir();
    }

    /// Whether a link of this kind may be open: somebody's token or certificate covers it, and its
    /// device is there. Tells who uses the link, if it is a device's.
    pub(crate) fn authorize(
        &self,
        kind: Kind,
        device: Option<&str>,
    ) -> Result<Option<Sender>, AmqpError> {
        let service: &[&str] = match kind {
            Kind::ServiceC2d => &["messages", "devicebound"],
            Kind::Feedback => &["messages", "serviceBound", "feedback"],
            Kind::FileNotifications => &["messages", "serviceBound", "filenotifications"],
            _ => &[],
        };
        if kind.needs_standard_tier() {
            let tier = self.hub.demand_standard_tier();
            tier.map_err(|error| {
                self.refusal_as(condition::NOT_ALLOWED, error.code, &error.message)
            })?;
        }
        match (kind, device) {
            _ if !service.is_empty() && self.tokens.allow_service(service) => Ok(None),
            (Kind::ProvisioningRequests | Kind::ProvisioningReplies, Some(address)) => {
                endpoint::provisioning::authorize(self, address).map(|()| None)
            }
            (Kind::ManagementRequests | Kind::ManagementReplies, _) => {
                events::authorize_management(self).map(|()| None)
            }
            // A connection that provisions is nothing else.
            (Kind::CbsRequests | Kind::CbsReplies, _) if self.provisioning.is_none() => Ok(None),
            (_, Some(id)) => self.sender(id).map(Some),
            _ => Err(self.uncovered()),
        }
    }

    /// Whether an open link may stay so.
    pub(crate) fn reauthorize(&self, link: &Link) -> Result<(), AmqpError> {
        match &link.consumer {
            Some(consumer) => consumer.authorize(self),
            None => self.authorize(link.kind, link.device.as_deref()).map(drop),
        }
    }

    /// The device or module, if it is usable and the connection may act as it: by a token, or by the
    /// certificate that it was opened with.
    fn sender(&self, id: &str) -> Result<Sender, AmqpError> {
        let mut state = self.hub.state();
        let (identity, auth) = match (self.tokens.acting_as(id), &self.caller.thumbprints) {
            (Some(auth), _) => (state.registry.usable(id), auth),
            (None, Some(shown)) => (
                state.registry.check_certificate(id, shown),
                AuthMethod::Certificate,
            ),
            (None, None) => return Err(self.uncovered()),
        };
        match identity {
            Ok(identity) => Ok(Sender { identity, auth }),
            Err(error) => Err(self.refusal(&error.into())),
        }
    }

    fn uncovered(&self) -> AmqpError {
        self.refusal(&HubError::new(
            ErrorCode::IotHubUnauthorized,
            "Unauthorized: no valid token of this connection covers the link.",
        ))
    }

    /// Sends a settlement later, among the others in the order they fall due.
    pub(crate) fn delay(&mut self, wait: Duration, channel: u16, settlement: Settlement) {
        let due = self.now.instant + wait;
        let at = self.delayed.partition_point(|other| other.due <= due);
        let delayed = Delayed {
            due,
            channel,
            settlement,
        };
        self.delayed.insert(at, delayed);
    }

    /// Asks the hub's throttles for operations; what is delivered now is settled when it is their turn.
    pub(crate) fn throttle(
        &mut self,
        operation: Operation,
        amount: usize,
    ) -> Result<(), AmqpError> {
        let wait = self
            .hub
            .throttles
            .take_many(operation, amount, self.now.instant)
            .map_err(|error| self.refusal(&error))?;
        self.wait = self.wait.max(wait);
        Ok(())
    }

    /// A refusal as AMQP words it.
    pub(crate) fn refusal(&self, error: &HubError) -> AmqpError {
        self.refusal_as(condition::of(error.code), error.code, &error.message)
    }

    /// A refusal under a condition: the description is JSON with code and tracking id, as the hub
    /// writes it, and the info map has both once more.
    pub(crate) fn refusal_as(
        &self,
        condition: &'static str,
        code: ErrorCode,
        message: &str,
    ) -> AmqpError {
        let time = iso8601(self.now.system);
        let stamp = invariant(self.now.system);
        let tracking = format!("{}-G:0-TimeStamp:{stamp}", Guid::random().simple());
        let number = code.number();
        let description = serde_json::json!({
            "errorCode": number,
            "trackingId": tracking,
            "message": message,
            "timestampUtc": time,
        });
        AmqpError::new(condition, description.to_string())
            .with("com.microsoft:tracking-id", Info::Text(tracking))
            .with(
                "com.microsoft:error-code",
                Info::Int(i32::try_from(number).unwrap_or(i32::MAX)),
            )
            .with("com.microsoft:is-filtered", Info::Bool(true))
    }

    /// Tells the record what was accepted in this turn.
    pub(crate) fn flush_batch(&mut self) {
        let batch = &mut self.batch;
        if batch.count > 0 {
            self.peer.messages.fetch_add(batch.count, Ordering::Relaxed);
            self.hub.record.add(batch.count, &mut batch.kept);
            self.hub.events.append(&mut batch.events, self.now.system);
            batch.count = 0;
            self.hub.stir();
        }
    }
}
