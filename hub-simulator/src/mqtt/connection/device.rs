//! A device that is connected: how it comes, what it says, how it goes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::connect::Client;
use super::subscriptions::subscriber;
use super::{Core, End};
use crate::hub::Sender;
use crate::hub::device::Feed;
use crate::hub::error::HubError;
use crate::hub::peer::{ConnectionId, Notice, Route};
use crate::hub::state::HubState;
use crate::mqtt::acks::Acks;
use crate::mqtt::codec::{Packet, PubAck, Publish};
use crate::mqtt::session::Session;

/// Acknowledgements that may wait: one for every packet identifier.
const MAX_WAITING_ACKS: usize = 65_535;

/// A connected device or module.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) sender: Sender,
    max_silence: Duration,
    expires: Option<Instant>,
    /// Sent unless the device takes its leave.
    pub(super) will: Option<Publish>,
    pub(super) acks: Acks,
    /// Answers that wait for their turn under a throttle, in the order they fall due.
    pub(super) later: BTreeMap<(Instant, u64), (String, Bytes)>,
    /// How many answers have ever waited.
    put_off: u64,
}

impl Device {
    /// Makes this connection the one that acts for the device, and takes up its session; tells
    /// whether there was one.
    pub(super) fn open(client: Client, core: &mut Core) -> (Self, bool) {
        let id = &client.sender.identity;
        let (present, former) = {
            let mut state = core.hub.state();
            state.link_opened(id);
            open_session(&mut state, id, core, client.clean)
        };
        if let Some(former) = former {
            core.hub.post_to(former, Notice::Displaced(Route(0)));
        }
        core.peer.devices.store(1, Ordering::Relaxed);
        core.peer.sessions.store(1, Ordering::Relaxed);
        core.peer.links.store(1, Ordering::Relaxed);
        let tokens = usize::from(client.expires.is_some());
        core.peer.tokens.store(tokens, Ordering::Relaxed);
        core.hub.stir();
        tracing::info!(device.id = %id, connection = %core.peer.id, session_present = present, "Device is connected");
        let device = Self {
            sender: client.sender,
            max_silence: client.max_silence,
            expires: client.expires,
            will: client.will,
            acks: Acks::default(),
            later: BTreeMap::new(),
            put_off: 0,
        };
        (device, present)
    }

    /// Listens again to what the session is subscribed to.
    pub(super) fn resume(&mut self, core: &mut Core) {
        let channels: Vec<_> = self
            .look_at_session(core, |session| session.channels().collect())
            .unwrap_or_default();
        for channel in channels {
            self.listen(core, channel);
        }
        self.pump(core);
    }

    pub(super) fn identity(&self) -> &str {
        &self.sender.identity
    }

    /// Whether it lives by a token, rather than by a certificate.
    pub(super) fn has_token(&self) -> bool {
        self.expires.is_some()
    }

    pub(super) fn max_silence(&self) -> Duration {
        self.max_silence
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let later = self.later.keys().next().map(|(due, _)| *due);
        [self.expires, self.acks.next_due(), later]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn on_time(&mut self, core: &mut Core) -> Result<(), End> {
        self.send_acks(core);
        while let Some(next) = self.later.first_entry()
            && next.key().0 <= core.now.instant
        {
            let (topic, payload) = next.remove();
            core.publish(topic, payload);
        }
        match self.expires {
            Some(expires) if expires <= core.now.instant => Err(End::refused("Token Invalid.")),
            _ => Ok(()),
        }
    }

    pub(super) fn packet(&mut self, core: &mut Core, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.published(core, publish),
            Packet::PubAck(PubAck { pkid }) => {
                self.acknowledged(core, pkid);
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.subscribe(core, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(core, &unsubscribe),
            Packet::PingReq => {
                core.send(&Packet::PingResp);
                Ok(())
            }
            Packet::Disconnect => Err(End::Disconnect),
            Packet::Connect(_) => Err(End::refused("the client is connected already")),
            Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {
                Err(End::refused("QoS 2 is not supported"))
            }
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(End::refused("the packet is the server's to send"))
            }
        }
    }

    pub(super) fn notice(&mut self, core: &mut Core, notice: Notice) -> Result<(), End> {
        match notice {
            Notice::MessageReady(_) => self.pump(core),
            Notice::Desired(_, patch) => self.desired_changed(core, patch),
            Notice::Method(_, call) => self.called(core, call),
            Notice::Displaced(_) => {
                return Err(End::refused("another connection acts for the device"));
            }
            Notice::Disabled(id) if *id == *self.identity() => {
                let usable = core.hub.state().registry.usable(self.identity());
                usable.map_err(|error| self.turned_away(error.to_string()))?;
            }
            Notice::Removed(id) if *id == *self.identity() => {
                let hub = core.hub.state().registry.short_name().to_owned();
                let error = HubError::not_registered(&id, &hub);
                return Err(self.turned_away(error.to_string()));
            }
            Notice::Disabled(_) | Notice::Removed(_) | Notice::Stolen(..) | Notice::Order(_) => {}
        }
        Ok(())
    }

    /// The end of a device that may not be here any more: its will counts no longer.
    fn turned_away(&mut self, reason: String) -> End {
        self.will = None;
        End::Refused(reason)
    }

    /// Publishes at most once, later.
    pub(super) fn put_off(&mut self, due: Instant, topic: String, payload: Bytes) {
        self.put_off += 1;
        self.later.insert((due, self.put_off), (topic, payload));
    }

    // Acknowledgements of publications.

    pub(super) fn send_acks(&mut self, core: &mut Core) {
        while let Some(pkid) = self.acks.pop(core.now.instant) {
            core.send(&Packet::PubAck(PubAck::new(pkid)));
        }
    }

    pub(super) fn release_acks(&mut self, core: &mut Core) {
        self.acks.release(core.now.instant);
        self.send_acks(core);
    }

    /// Refuses a client that publishes on and on without waiting for what a script holds back.
    pub(super) fn check_acks(&self) -> Result<(), End> {
        if self.acks.len() < MAX_WAITING_ACKS {
            Ok(())
        } else {
            Err(End::refused("too many publications are in flight"))
        }
    }

    // The end.

    pub(super) fn close(mut self, core: &mut Core, send_will: bool) {
        if let Some(will) = self.will.take()
            && send_will
        {
            self.send_will(core, will);
        }
        let id = self.identity();
        let mut state = core.hub.state();
        for feed in [Feed::Messages, Feed::Methods, Feed::Desired] {
            state.unsubscribe(id, feed, &subscriber(core));
        }
        close_session(&mut state, id, core);
        state.link_closed(id);
        drop(state);
        for counter in [
            &core.peer.devices,
            &core.peer.sessions,
            &core.peer.links,
            &core.peer.tokens,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        core.hub.stir();
        tracing::info!(device.id = id, connection = %core.peer.id, "Device is disconnected");
    }
}

/// Takes up a device's session or begins one; returns whether there was one to take up, and the
/// connection that has lost it.
fn open_session(
    state: &mut HubState,
    id: &str,
    core: &Core,
    clean: bool,
) -> (bool, Option<ConnectionId>) {
    let Some(device) = state.registry.get_mut(id) else {
        return (false, None);
    };
    let former = device.mqtt.as_ref().map(|session| session.owner());
    let locks = device
        .mqtt
        .as_mut()
        .map(|session| session.in_flight_mut().let_go());
    let present = match &mut device.mqtt {
        Some(session) if !clean && session.is_persistent() => {
            session.resume(core.peer.id);
            true
        }
        slot => {
            *slot = Some(Box::new(Session::new(core.peer.id, clean)));
            false
        }
    };
    state.let_go(id, &locks.unwrap_or_default(), core.now);
    (present, former)
}

/// Leaves a session to the next connection, or ends it; unless another connection has it by now.
fn close_session(state: &mut HubState, id: &str, core: &Core) {
    let Some(device) = state.registry.get_mut(id) else {
        return;
    };
    let own = device.mqtt.as_mut();
    let Some(session) = own.filter(|session| session.owner() == core.peer.id) else {
        return;
    };
    let locks = session.in_flight_mut().let_go();
    if !session.is_persistent() {
        device.mqtt = None;
    }
    state.let_go(id, &locks, core.now);
}
