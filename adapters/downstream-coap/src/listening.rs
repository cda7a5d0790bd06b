//! Devices that listen: how they come to the hub's notice.

use futures_util::FutureExt as _;
use gateway_core::{
    Announcement, DEFAULT_RETRY_AFTER, DeviceId, ErrorKind, Interest, Presence, TwinRequest,
    UpstreamError,
};
use tokio::time::Instant;

use crate::carrier::PeerKey;
use crate::devices::{Devices, Done, Part};
use crate::downlink;
use crate::layer::MessageLayer;
use crate::listener::{Exchange, Observation, Poll, Registration, Topic, Vehicle};
use crate::proto::message::{Code, Message};
use crate::proto::resource::failed;
use crate::proto::udp::{EndReason, NotifyError};
use crate::registry::Claim;
use crate::selection::Selection;

impl<L: MessageLayer> Devices<L> {
    /// Notes that a device was heard; one that is a server listens from now on, unless it does so
    /// elsewhere.
    pub(crate) fn heard(&mut self, device: &DeviceId, peer: PeerKey, is_child: bool) {
        self.give_way(device);
        let is_server = self.shared.config.commands.post_to.is_some();
        if !is_server && self.listeners.get(device).is_none() {
            return;
        }
        self.enter(device, peer, is_child, None);
        if is_server {
            self.reconcile(device);
        }
    }

    /// Makes the device one that listens here; that it has asked for something, then, outweighs that
    /// it was heard.
    fn enter(&mut self, device: &DeviceId, peer: PeerKey, is_child: bool, asked: Option<Instant>) {
        self.give_way(device);
        let config = &self.shared.config;
        let claim = || {
            let (registry, orders) = (self.shared.registry.clone(), self.sender.clone());
            let max_waiting = config.commands.max_waiting;
            Claim::take(registry, device.clone(), orders, max_waiting, asked)
        };
        let entered = self.listeners.enter(device, peer, self.now, claim);
        let Some(listener) = entered else {
            return;
        };
        listener.is_child = is_child;
        listener.is_server |= config.commands.post_to.is_some();
        if let Some(at) = asked {
            listener.claim.ask(at);
        }
        let observes = listener.commands.is_some() || listener.desired.is_some();
        let patience = match listener.is_server && !observes {
            true => config.timeouts.idle,
            false => config.timeouts.probe,
        };
        listener.silent_at = self.now + patience;
        self.listeners.schedule(device);
    }

    /// Takes a wish to observe. It is answered when the hub knows that the device listens.
    pub(crate) fn register(
        &mut self,
        device: &DeviceId,
        exchange: Exchange,
        topic: Topic,
        is_child: bool,
    ) {
        self.enter(device, exchange.peer, is_child, Some(self.now));
        if let Some(listener) = self.listeners.get(device) {
            listener.registrations.push(Registration {
                exchange,
                topic,
                is_reading: false,
            });
        }
        self.reconcile(device);
    }

    /// Has a request wait for a command. One that waited already has waited long enough.
    pub(crate) fn listen_once(&mut self, device: &DeviceId, poll: Poll) {
        self.enter(device, poll.exchange.peer, poll.is_child, Some(poll.since));
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        listener.expected_until = None;
        listener.last_wait = Some(poll.exchange.serial);
        let older = listener.poll.replace(poll);
        let is_rest = |(vehicle, _): &mut (Vehicle, _)| matches!(vehicle, Vehicle::AnswerRest(_));
        // It does not want the rest of what it was given before, so that it gets it anew.
        if let Some((vehicle, delivery)) = listener.flight.take_if(is_rest) {
            listener.queue.push_front(delivery);
            self.stop(vehicle);
        }
        if let Some(older) = older {
            self.answer(older.exchange, Message::new(older.code));
        }
        self.listeners.schedule(device);
        self.reconcile(device);
    }

    /// Answers a request that waited for a command in vain.
    pub(crate) fn end_poll(&mut self, device: &DeviceId) {
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        let poll = listener.poll.take();
        listener.expected_until = match (&poll, self.is_draining) {
            (Some(_), false) => Some(self.now + self.shared.config.timeouts.command),
            _ => None,
        };
        if let Some(poll) = poll {
            self.answer(poll.exchange, Message::new(poll.code));
        }
        self.reconcile(device);
    }

    /// Sees to it that the hub knows what the device wants to hear.
    pub(crate) fn reconcile(&mut self, device: &DeviceId) {
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        if listener.is_announcing {
            return;
        }
        listener.claim.hold(listener.has_asked());
        let interest = listener.interest();
        if interest == Interest::NONE {
            return self.leave(device, ErrorKind::UnknownDevice);
        }
        if interest == listener.announced {
            listener.announce_at = None;
            return self.admit(device);
        }
        if listener.announce_at.is_some_and(|at| at > self.now) {
            return;
        }
        listener.announce_at = None;
        listener.is_announcing = true;
        let (ingress, device) = (self.ingress.clone(), device.clone());
        let announcement = Announcement::new(device.clone()).with_interest(interest);
        let job = async move {
            Done::Online {
                device,
                interest,
                result: ingress.online(announcement).await,
            }
        };
        self.jobs.push(job.boxed());
    }

    /// Takes the hub's word on a device that listens.
    pub(crate) fn announced(
        &mut self,
        device: &DeviceId,
        interest: Interest,
        result: Result<Presence, UpstreamError>,
    ) {
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        listener.is_announcing = false;
        match result {
            Ok(presence) => {
                if listener.presence.is_none() {
                    tracing::info!(device.id = %device, peer = ?listener.peer, "Device listens");
                }
                listener.presence = Some(presence);
                listener.announced = interest;
                self.reconcile(device);
            }
            Err(error) => self.refused(device, &error),
        }
    }

    /// Takes it that the hub does not know what the device wants to hear.
    fn refused(&mut self, device: &DeviceId, error: &UpstreamError) {
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        tracing::info!(device.id = %device, error = %error, "Hub refused the device");
        let (kind, after) = (error.kind(), error.retry_after());
        // What the hub has taken before stands, if it only cannot take a change now.
        let stands = match listener.presence.is_some() && error.is_retryable() {
            true => listener.announced,
            false => Interest::NONE,
        };
        listener.announce_at = Some(self.now + after.unwrap_or(DEFAULT_RETRY_AFTER));
        let poll = listener.poll.take_if(|_| !stands.messages);
        let registrations = std::mem::take(&mut listener.registrations).into_iter();
        let (kept, refused): (_, Vec<_>) = registrations.partition(|one| match one.topic {
            Topic::Commands => stands.messages,
            Topic::Desired => stands.desired,
        });
        listener.registrations = kept;
        for Registration { exchange, .. } in refused {
            self.answer(exchange, failed(kind, after));
        }
        if let Some(poll) = poll {
            // An uplink behind which the device waits was accepted all the same.
            let answer = match poll.code {
                Code::CONTENT => failed(kind, after),
                code => Message::new(code),
            };
            self.answer(poll.exchange, answer);
        }
        if stands == Interest::NONE {
            return self.dismiss(device, kind);
        }
        self.reconcile(device);
        self.pump(device);
    }

    /// Answers the wishes to observe of a device that the hub knows to listen.
    fn admit(&mut self, device: &DeviceId) {
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        let waiting = listener.registrations.iter_mut();
        let waiting = waiting.filter(|one| !one.is_reading);
        let waiting: Vec<_> = waiting
            .map(|one| {
                one.is_reading = one.topic == Topic::Desired;
                *one
            })
            .collect();
        for Registration {
            exchange, topic, ..
        } in waiting
        {
            match topic {
                Topic::Commands => {
                    self.observe(device, exchange, topic, Message::new(Code::CONTENT));
                }
                Topic::Desired => {
                    let (subject, observer) = (device.clone(), Some(device.clone()));
                    let (part, request) = (Part::Desired(Selection::All), TwinRequest::Get);
                    self.ask_twin(exchange, subject, part, request, observer);
                }
            }
        }
        let listener = self.listeners.get(device);
        // A registration that could not be had is not wanted any more.
        if listener.is_some_and(|listener| listener.interest() != listener.announced) {
            self.reconcile(device);
        }
        self.pump(device);
    }

    /// Answers a wish to observe with the first state.
    pub(crate) fn observe(
        &mut self,
        device: &DeviceId,
        exchange: Exchange,
        topic: Topic,
        answer: Message,
    ) {
        let clock = self.clock();
        let observed = self.endpoint.observe(clock, exchange, answer);
        let Some(listener) = self.listeners.get(device) else {
            if let Ok(Some(observation)) = observed {
                self.endpoint.end_observation(clock, observation);
            }
            return;
        };
        let registrations = &mut listener.registrations;
        registrations.retain(|one| one.exchange != exchange);
        let Ok(Some(observation)) = observed else {
            tracing::debug!(device.id = %device, observed = ?observed, "Device does not observe");
            return;
        };
        let older = listener.observation(topic).replace(observation);
        listener.silent_at = self.now + self.shared.config.timeouts.probe;
        self.listeners.observes(observation, device);
        self.listeners.schedule(device);
        // The endpoint knows one at another peer, or by another query, for another.
        if let Some(older) = older {
            self.endpoint.end_observation(clock, older);
        }
    }

    /// Forgets a device that listens no more. What is not delivered goes back to the hub.
    pub(crate) fn leave(&mut self, device: &DeviceId, kind: ErrorKind) {
        let Some(listener) = self.listeners.remove(device) else {
            return;
        };
        let clock = self.clock();
        for observation in [listener.commands, listener.desired].into_iter().flatten() {
            self.endpoint.end_observation(clock, observation);
        }
        if let Some((vehicle, delivery)) = listener.flight {
            self.stop(vehicle);
            delivery.end(Err(ErrorKind::Disconnected));
        }
        for delivery in listener.queue {
            delivery.end(Err(ErrorKind::UnknownDevice));
        }
        if let Some(poll) = listener.poll {
            self.answer(poll.exchange, Message::new(poll.code));
        }
        for registration in listener.registrations {
            self.answer(registration.exchange, failed(kind, None));
        }
        if listener.presence.is_some() {
            tracing::info!(device.id = %device, reason = %kind, "Device listens no more");
        }
    }

    /// Takes it that a peer's session is over, so that nothing can be posted there and nobody waits
    /// there; its observations end by themselves.
    pub(crate) fn gone(&mut self, peer: PeerKey) {
        let was_there = |poll: &mut Poll| poll.exchange.peer == peer;
        for device in self.listeners.heard_at(peer) {
            if let Some(listener) = self.listeners.get(&device) {
                listener.is_server = false;
                listener.poll.take_if(was_there);
                self.reconcile(&device);
            }
        }
    }

    pub(crate) fn on_ended(&mut self, observation: Observation, reason: EndReason) {
        let Some(device) = self.listeners.ended(observation) else {
            return;
        };
        let Some(listener) = self.listeners.get(&device) else {
            return;
        };
        let is_rest = |(vehicle, _): &mut (Vehicle, _)| *vehicle == Vehicle::Rest(observation);
        if let Some((_, delivery)) = listener.flight.take_if(is_rest) {
            listener.queue.push_front(delivery);
        }
        if reason == EndReason::TimedOut {
            // It is asked by what else it observes, at once.
            listener.silent_at = self.now;
        }
        let is_it = |one: &mut Observation| *one == observation;
        for topic in [Topic::Commands, Topic::Desired] {
            if listener.observation(topic).take_if(is_it).is_some() {
                tracing::debug!(device.id = %device, ?topic, ?reason, "Observation ended");
            }
        }
        self.reconcile(&device);
        self.pump(&device);
    }

    /// Asks a device that was silent for too long whether it is there. A server that was silent is
    /// gone.
    pub(crate) fn probe(&mut self, device: &DeviceId) {
        let now = self.now;
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        if listener.silent_at > now {
            return;
        }
        let Some(observation) = listener.commands.or(listener.desired) else {
            listener.is_server = false;
            return self.reconcile(device);
        };
        self.ask(device, observation);
    }

    /// Asks an observer whether it is there, by a notification that says nothing new. No deadline
    /// takes it back, so that one who does not acknowledge it is found out.
    pub(crate) fn ask(&mut self, device: &DeviceId, observation: Observation) {
        let clock = self.clock();
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        let message = match listener.desired == Some(observation) {
            true => downlink::no_change(),
            false => Message::new(Code::CONTENT),
        };
        let timeouts = &self.shared.config.timeouts;
        let asked = self.endpoint.notify(clock, observation, message);
        let patience = match asked {
            // What else is on its way there has come to its end by then, and may have told nothing.
            Err(NotifyError::Busy) => timeouts.command.min(timeouts.probe),
            _ => timeouts.probe,
        };
        listener.silent_at = self.now + patience;
        tracing::debug!(device.id = %device, ?asked, "Device was asked whether it is there");
    }
}
