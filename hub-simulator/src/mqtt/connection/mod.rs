//! A connection as a state machine: bytes and notices in, bytes out, the time passed in.

mod connect;
mod device;
mod messages;
mod methods;
mod registrant;
mod subscriptions;
mod telemetry;
#[cfg(test)]
mod tests;
mod twin;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::codec::{self, ConnAck, ConnectReturnCode, Malformed, Packet, Publish, QoS};
use crate::cloud::Caller;
use crate::faults::Order;
use crate::hub::Hub;
use crate::hub::peer::{Notice, Peer};
use crate::hub::state::Now;
use crate::shell::{Engine, LineOrder};
use connect::Admission;
use device::Device;
use registrant::Registrant;

/// Room for a CONNECT: nobody is known yet, so that less is believed.
const MAX_CONNECT: usize = 128 * 1024;
/// Room for a request to the provisioning service, whose payload is 64 KB at most.
const MAX_REQUEST: usize = 128 * 1024;
/// Room for topic and packet identifier beside the payload of a PUBLISH.
const MAX_PUBLISH_HEADER: usize = 2 + codec::MAX_TEXT + 2;

const SILENT: &str = "the client is silent for longer than its keep-alive";

/// What all phases of a connection share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) caller: Caller,
    pub(crate) hub: Arc<Hub>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) out: BytesMut,
    pub(crate) now: Now,
}

impl Core {
    pub(crate) fn send(&mut self, packet: &Packet) {
        codec::write(packet, &mut self.out);
    }

    /// Publishes at most once.
    pub(crate) fn publish(&mut self, topic: String, payload: Bytes) {
        self.publish_any(Publish::from_bytes(topic, QoS::AtMostOnce, payload));
    }

    /// Publishes at least once; `dup` tells that it was sent under `pkid` before.
    pub(crate) fn publish_acked(&mut self, topic: String, payload: Bytes, pkid: u16, dup: bool) {
        let mut publish = Publish::from_bytes(topic, QoS::AtLeastOnce, payload);
        (publish.pkid, publish.dup) = (pkid, dup);
        self.publish_any(publish);
    }

    /// The id of a request or the name of a method may leave the topic too long to be sent.
    fn publish_any(&mut self, publish: Publish) {
        if publish.topic.len() > codec::MAX_TEXT {
            tracing::warn!(connection = %self.peer.id, "Message is dropped: its topic is too long");
        } else {
            self.send(&Packet::Publish(publish));
        }
    }

    /// Moves into the books of another hub.
    fn move_to(&mut self, hub: Arc<Hub>) {
        if !Arc::ptr_eq(&hub, &self.hub) {
            self.hub.leave(self.peer.id);
            hub.adopt(&self.peer);
            self.hub = hub;
        }
    }
}

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The client has taken its leave.
    Disconnect,
    /// The line is gone.
    Lost,
    /// The hub closes it; MQTT has no other way to refuse.
    Refused(String),
}

impl End {
    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }
}

impl From<Malformed> for End {
    fn from(error: Malformed) -> Self {
        Self::Refused(error.to_string())
    }
}

#[derive(Debug)]
enum Phase {
    Connecting,
    /// A script lets the client wait for its CONNACK.
    Unanswered,
    Device(Box<Device>),
    /// A device at the provisioning service.
    Registrant(Box<Registrant>),
    Closed,
}

/// One MQTT connection.
#[derive(Debug)]
pub(crate) struct Connection {
    core: Core,
    phase: Phase,
    opened: Instant,
    last_packet: Instant,
    /// Since when a packet has been incomplete.
    partial: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(caller: Caller, peer: Arc<Peer>, now: Now) -> Self {
        let core = Core {
            hub: Arc::clone(&caller.hub),
            caller,
            peer,
            out: BytesMut::new(),
            now,
        };
        Self {
            core,
            phase: Phase::Connecting,
            opened: now.instant,
            last_packet: now.instant,
            partial: None,
        }
    }

    /// Takes all whole packets.
    fn packets(&mut self, input: &mut BytesMut) -> Result<(), End> {
        loop {
            let max_size = match &self.phase {
                Phase::Connecting => MAX_CONNECT,
                Phase::Device(_) => self.core.hub.limits.max_telemetry_size + MAX_PUBLISH_HEADER,
                Phase::Registrant(_) => MAX_REQUEST,
                Phase::Unanswered | Phase::Closed => {
                    input.clear();
                    return Ok(());
                }
            };
            let packet = match codec::read(input, max_size) {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(()),
                Err(Malformed::Level) if matches!(self.phase, Phase::Connecting) => {
                    self.answer(ConnectReturnCode::RefusedProtocolVersion, false);
                    return Err(Malformed::Level.into());
                }
                Err(error) => return Err(error.into()),
            };
            self.last_packet = self.core.now.instant;
            self.partial = None;
            self.packet(packet)?;
        }
    }

    fn packet(&mut self, packet: Packet) -> Result<(), End> {
        match (&mut self.phase, packet) {
            (Phase::Connecting, Packet::Connect(connect)) => self.connect(connect),
            (Phase::Connecting, _) => Err(End::refused("the first packet is no CONNECT")),
            (Phase::Device(device), packet) => device.packet(&mut self.core, packet),
            (Phase::Registrant(registrant), packet) => registrant.packet(&mut self.core, packet),
            (Phase::Unanswered | Phase::Closed, _) => Ok(()),
        }
    }

    fn connect(&mut self, connect: codec::Connect) -> Result<(), End> {
        match connect::judge(&mut self.core, connect) {
            Ok(Admission::Unanswered) => {
                self.phase = Phase::Unanswered;
                Ok(())
            }
            Ok(Admission::Device(client)) => {
                let (mut device, session_present) = Device::open(client, &mut self.core);
                self.answer(ConnectReturnCode::Success, session_present);
                device.resume(&mut self.core);
                self.phase = Phase::Device(Box::new(device));
                Ok(())
            }
            Ok(Admission::Registrant(registrant)) => {
                self.answer(ConnectReturnCode::Success, false);
                self.phase = Phase::Registrant(Box::new(registrant));
                Ok(())
            }
            Err(refusal) => {
                self.answer(refusal.code, false);
                Err(End::Refused(refusal.reason))
            }
        }
    }

    fn answer(&mut self, code: ConnectReturnCode, session_present: bool) {
        let answer = ConnAck::new(code, session_present);
        self.core.send(&Packet::ConnAck(answer));
    }

    fn close(&mut self, end: &End) {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        if let Phase::Device(device) = phase {
            device.close(&mut self.core, *end != End::Disconnect);
        }
        if let End::Refused(reason) = end {
            tracing::info!(connection = %self.core.peer.id, reason, "Connection is closed by the hub");
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), End> {
        let Phase::Device(device) = &mut self.phase else {
            return match order {
                Order::Close(error) => Err(End::Refused(error.description)),
                _ => Ok(()),
            };
        };
        let is_own = |id: Option<&str>| id.is_none_or(|id| id == device.identity());
        match order {
            Order::Close(error) => Err(End::Refused(error.description)),
            Order::EndSessions(id, error) if is_own(id.as_deref()) => {
                Err(End::Refused(error.description))
            }
            Order::Detach(id, _kind, error) if is_own(id.as_deref()) => {
                Err(End::Refused(error.description))
            }
            Order::ExpireTokens(id) if is_own(id.as_deref()) && device.has_token() => {
                Err(End::refused("Token Invalid."))
            }
            Order::Release => {
                device.release_acks(&mut self.core);
                Ok(())
            }
            Order::EndSessions(..)
            | Order::Detach(..)
            | Order::ExpireTokens(_)
            | Order::Cut
            | Order::Freeze(_) => Ok(()),
        }
    }

    fn due(&mut self) -> Result<(), End> {
        let (now, limits) = (self.core.now.instant, &self.core.hub.limits);
        if self
            .partial
            .is_some_and(|since| now >= since + limits.mqtt_packet_timeout)
        {
            return Err(End::refused("a packet takes too long to arrive"));
        }
        match &mut self.phase {
            Phase::Connecting | Phase::Unanswered => {
                if now >= self.opened + limits.mqtt_connect_timeout {
                    return Err(End::refused("the client is not connected in time"));
                }
                Ok(())
            }
            Phase::Device(device) => {
                if now >= self.last_packet + device.max_silence() {
                    return Err(End::refused(
                        "the client is silent for longer than its keep-alive",
                    ));
                }
                device.on_time(&mut self.core)
            }
            Phase::Registrant(registrant) => {
                if now >= self.last_packet + registrant.max_silence {
                    return Err(End::refused(SILENT));
                }
                registrant.on_time(&self.core)
            }
            Phase::Closed => Ok(()),
        }
    }

    fn end_with(&mut self, result: Result<(), End>) {
        if let Err(end) = result {
            self.close(&end);
        }
    }
}

impl Engine for Connection {
    fn input(&mut self, input: &mut BytesMut, now: Now) {
        self.core.now = now;
        let result = self.packets(input);
        self.end_with(result);
        let waits = !input.is_empty() && !self.is_closed();
        self.partial = waits.then(|| self.partial.unwrap_or(now.instant));
    }

    fn notice(&mut self, notice: Notice, now: Now) -> Option<LineOrder> {
        self.core.now = now;
        let result = match (&mut self.phase, notice) {
            (_, Notice::Order(Order::Cut)) => return Some(LineOrder::Cut),
            (_, Notice::Order(Order::Freeze(frozen))) => return Some(LineOrder::Freeze(frozen)),
            (_, Notice::Order(order)) => self.obey(order),
            (Phase::Device(device), notice) => device.notice(&mut self.core, notice),
            _ => Ok(()),
        };
        self.end_with(result);
        None
    }

    fn on_time(&mut self, now: Now) {
        self.core.now = now;
        let result = self.due();
        self.end_with(result);
    }

    fn next_deadline(&self) -> Instant {
        let limits = &self.core.hub.limits;
        let partial = self.partial.map(|since| since + limits.mqtt_packet_timeout);
        let own = match &self.phase {
            Phase::Connecting | Phase::Unanswered | Phase::Closed => {
                self.opened + limits.mqtt_connect_timeout
            }
            Phase::Device(device) => {
                let silence = self.last_packet + device.max_silence();
                device
                    .next_deadline()
                    .map_or(silence, |own| own.min(silence))
            }
            Phase::Registrant(registrant) => {
                let silence = self.last_packet + registrant.max_silence;
                registrant.expires.map_or(silence, |own| own.min(silence))
            }
        };
        partial.map_or(own, |partial| partial.min(own))
    }

    fn end_turn(&mut self) {}

    fn take_output(&mut self) -> BytesMut {
        self.core.out.split()
    }

    fn latency(&self) -> Duration {
        self.core.hub.script.latency()
    }

    fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close(&End::Lost);
        self.core.hub.leave(self.core.peer.id);
    }
}
