//! Devices that listen: how they come to the hub's notice, and how it reaches them.

use futures_util::FutureExt as _;
use gateway_core::{
    Announcement, DeviceId, Downlink, ErrorKind, Interest, Presence, SessionEnd, TwinRequest,
    UpstreamError,
};

use crate::carrier::PeerKey;
use crate::downlink;
use crate::listener::{Call, Exchange, Observation, Poll, Registration, Topic, Vehicle, Way};
use crate::proto::message::{Code, Message};
use crate::proto::resource::failed;
use crate::proto::udp::{CallError, EndReason, NotificationOutcome, NotifyError, Responded};
use crate::registry::{Brought, Claim, Delivery, Order};
use crate::task::{Done, Part, SocketTask};

impl SocketTask {
    /// Notes that a device was heard; one that is a server listens from now on.
    pub(crate) fn heard(&mut self, device: &DeviceId, peer: PeerKey, is_child: bool) {
        let is_server = self.shared.config.commands.post_to.is_some();
        if !is_server && self.listeners.get(device).is_none() {
            return;
        }
        self.enter(device, peer, is_child, is_server);
        if is_server {
            self.reconcile(device);
        }
    }

    fn enter(&mut self, device: &DeviceId, peer: PeerKey, is_child: bool, is_server: bool) {
        let config = &self.shared.config;
        let claim = || {
            let (registry, orders) = (self.shared.registry.clone(), self.sender.clone());
            Claim::take(
                registry,
                device.clone(),
                orders,
                config.commands.max_waiting,
            )
        };
        let listener = self.listeners.enter(device, peer, self.now, claim);
        listener.is_child = is_child;
        listener.is_server |= is_server;
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
        self.enter(device, exchange.peer, is_child, false);
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
        self.enter(device, poll.exchange.peer, poll.is_child, false);
        let listener = self.listeners.get(device);
        let older = listener.and_then(|listener| listener.poll.replace(poll));
        if let Some(older) = older {
            self.answer(older.exchange, Message::new(older.code));
        }
        self.listeners.schedule(device);
        self.reconcile(device);
    }

    /// Answers a request that waited for a command in vain.
    pub(crate) fn end_poll(&mut self, device: &DeviceId) {
        let listener = self.listeners.get(device);
        if let Some(poll) = listener.and_then(|listener| listener.poll.take()) {
            self.answer(poll.exchange, Message::new(poll.code));
            self.reconcile(device);
        }
    }

    /// Sees to it that the hub knows what the device wants to hear.
    pub(crate) fn reconcile(&mut self, device: &DeviceId) {
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        if listener.is_announcing {
            return;
        }
        let interest = listener.interest();
        if interest == Interest::NONE {
            return self.leave(device, ErrorKind::UnknownDevice);
        }
        if interest == listener.announced {
            return self.admit(device);
        }
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
            Err(error) => {
                tracing::info!(device.id = %device, error = %error, "Hub refused the device");
                // An uplink behind which the device waits was accepted all the same.
                let is_get = |poll: &mut Poll| poll.code == Code::CONTENT;
                let refused = listener.poll.take_if(is_get).map(|poll| poll.exchange);
                let registrations = listener.registrations.drain(..);
                let refused: Vec<_> = refused
                    .into_iter()
                    .chain(registrations.map(|one| one.exchange))
                    .collect();
                for exchange in refused {
                    self.answer(exchange, failed(error.kind(), error.retry_after()));
                }
                self.leave(device, error.kind());
            }
        }
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
                    let (part, request) = (Part::Desired, TwinRequest::Get);
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
        // The endpoint has ended one at the same peer already.
        if let Some(older) = older.filter(|older| older.peer != observation.peer) {
            self.endpoint.end_observation(clock, older);
        }
    }

    /// Forgets a device that listens no more. What is not delivered goes back to the hub.
    fn leave(&mut self, device: &DeviceId, kind: ErrorKind) {
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

    /// Does what the core wants.
    pub(crate) fn obey(&mut self, order: Order) {
        match order {
            Order::Deliver(delivery) => {
                let device = delivery.downlink.device().clone();
                match self.listeners.get(&device) {
                    Some(listener) => {
                        listener.queue.push_back(delivery);
                        self.pump(&device);
                    }
                    None => delivery.end(Err(ErrorKind::UnknownDevice)),
                }
            }
            Order::End(end) => self.end(&end),
            Order::Leave { device, number } => {
                let listener = self.listeners.get(&device);
                if listener.is_some_and(|listener| listener.claim.number() == number) {
                    self.leave(&device, ErrorKind::Displaced);
                }
            }
        }
    }

    /// Tells a device that the hub ended its session: its observations end with an error.
    fn end(&mut self, end: &SessionEnd) {
        let Some(listener) = self.listeners.get(&end.device) else {
            return;
        };
        let observations = [listener.commands.take(), listener.desired.take()];
        let flight = listener.flight.take();
        let clock = self.clock();
        if let Some((vehicle, delivery)) = flight {
            self.stop(vehicle);
            delivery.end(Err(ErrorKind::Disconnected));
        }
        for observation in observations.into_iter().flatten() {
            self.listeners.ended(observation);
            let farewell = failed(end.reason, None);
            if self.endpoint.notify(clock, observation, farewell).is_err() {
                self.endpoint.end_observation(clock, observation);
            }
        }
        self.leave(&end.device, end.reason);
    }

    /// Sends a device's next command on its way, if the device is ready for it.
    pub(crate) fn pump(&mut self, device: &DeviceId) {
        let (clock, shared) = (self.clock(), self.shared.clone());
        loop {
            let Some(listener) = self.listeners.get(device) else {
                return;
            };
            if listener.flight.is_some() {
                break;
            }
            let Some(delivery) = listener.queue.pop_front() else {
                break;
            };
            if delivery.reply.is_closed() || delivery.deadline <= self.now {
                delivery.end(Err(ErrorKind::TimedOut));
                continue;
            }
            let child = listener.is_child.then_some(device);
            match listener.way(&delivery.downlink) {
                Way::Nowhere => delivery.end(Err(ErrorKind::UnknownDevice)),
                Way::Wait => {
                    listener.queue.push_front(delivery);
                    break;
                }
                Way::Notify(observation) => {
                    let message = match &delivery.downlink {
                        Downlink::Desired(patch) => Ok(downlink::desired(patch)),
                        _ => downlink::command(&delivery, child, Code::CONTENT, &shared.routes),
                    };
                    let message = match message {
                        Ok(message) => message,
                        Err(kind) => {
                            delivery.end(Err(kind));
                            continue;
                        }
                    };
                    match self.endpoint.notify(clock, observation, message) {
                        Ok(()) => {
                            let vehicle = Vehicle::Notification(observation);
                            listener.flight = Some((vehicle, delivery));
                        }
                        Err(NotifyError::Busy) => {
                            listener.queue.push_front(delivery);
                            self.listeners.hold(observation.peer, device);
                            break;
                        }
                        Err(_) => delivery.end(Err(ErrorKind::Disconnected)),
                    }
                }
                Way::Answer(poll) => {
                    let message = downlink::command(&delivery, child, poll.code, &shared.routes);
                    match message {
                        Ok(message) => {
                            listener.poll = None;
                            self.answer_with(poll, message, delivery);
                            return self.reconcile(device);
                        }
                        Err(kind) => delivery.end(Err(kind)),
                    }
                }
                Way::Post => {
                    let path = shared.config.commands.post_to.as_deref();
                    let message = match downlink::post(&delivery, path.unwrap_or_default()) {
                        Ok(message) => message,
                        Err(kind) => {
                            delivery.end(Err(kind));
                            continue;
                        }
                    };
                    match self.endpoint.request(clock, listener.peer, message, true) {
                        Ok(call) => {
                            listener.flight = Some((Vehicle::Call(call), delivery));
                            self.listeners.calls(call, device);
                        }
                        Err(_) => delivery.end(Err(ErrorKind::Throttled)),
                    }
                }
            }
        }
        self.listeners.schedule(device);
    }

    /// Gives a command to a request that waited for one.
    fn answer_with(&mut self, poll: Poll, message: Message, delivery: Delivery) {
        match self.respond(poll.exchange, message) {
            // Whether an answer was acknowledged is between the endpoint and the device.
            Ok(Responded::Sent) => delivery.end(Ok(Brought::Unconfirmed)),
            Ok(Responded::Challenged) | Err(_) => delivery.end(Err(ErrorKind::Disconnected)),
        }
    }

    /// Takes back what is on its way.
    fn stop(&mut self, vehicle: Vehicle) {
        let clock = self.clock();
        match vehicle {
            Vehicle::Notification(observation) => {
                self.endpoint.withdraw_notification(clock, observation);
            }
            Vehicle::Call(call) => {
                self.listeners.called(call);
                self.endpoint.cancel(clock, call);
            }
        }
    }

    pub(crate) fn on_notified(&mut self, observation: Observation, outcome: NotificationOutcome) {
        if let Some(device) = self.listeners.observer(observation) {
            self.notified(&device, observation, outcome);
            self.pump(&device);
        }
        for device in self.listeners.release(observation.peer) {
            self.pump(&device);
        }
    }

    fn notified(
        &mut self,
        device: &DeviceId,
        observation: Observation,
        outcome: NotificationOutcome,
    ) {
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        if let NotificationOutcome::Acknowledged { .. } = outcome {
            listener.silent_at = self.now + self.shared.config.timeouts.probe;
        }
        let is_ours =
            |(vehicle, _): &mut (Vehicle, Delivery)| *vehicle == Vehicle::Notification(observation);
        let Some((_, delivery)) = listener.flight.take_if(is_ours) else {
            return;
        };
        match outcome {
            NotificationOutcome::Acknowledged { is_whole: true } => {
                delivery.end(Ok(Brought::Confirmed));
            }
            // The device may not fetch the rest.
            NotificationOutcome::Acknowledged { is_whole: false } => {
                delivery.end(Ok(Brought::Unconfirmed));
            }
            NotificationOutcome::TimedOut => delivery.end(Err(ErrorKind::TimedOut)),
            // The device has registered anew, so that it gets it by the new registration.
            NotificationOutcome::Withdrawn => listener.queue.push_front(delivery),
            _ => delivery.end(Err(ErrorKind::Disconnected)),
        }
    }

    pub(crate) fn on_ended(&mut self, observation: Observation, reason: EndReason) {
        let Some(device) = self.listeners.ended(observation) else {
            return;
        };
        let Some(listener) = self.listeners.get(&device) else {
            return;
        };
        let is_it = |one: &mut Observation| *one == observation;
        for topic in [Topic::Commands, Topic::Desired] {
            if listener.observation(topic).take_if(is_it).is_some() {
                tracing::debug!(device.id = %device, ?topic, ?reason, "Observation ended");
            }
        }
        self.reconcile(&device);
        self.pump(&device);
    }

    pub(crate) fn on_response(&mut self, call: Call, result: Result<Message, CallError>) {
        let Some(device) = self.listeners.called(call) else {
            return;
        };
        let Some(listener) = self.listeners.get(&device) else {
            return;
        };
        let is_ours = |(vehicle, _): &mut (Vehicle, Delivery)| *vehicle == Vehicle::Call(call);
        if let Some((_, delivery)) = listener.flight.take_if(is_ours) {
            let outcome = downlink::posted(&delivery, result);
            delivery.end(outcome);
        }
        self.pump(&device);
    }

    /// Does what the time asks for.
    pub(crate) fn expire(&mut self, device: &DeviceId) {
        let now = self.now;
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        let is_late = |delivery: &Delivery| delivery.deadline <= now;
        listener.queue.retain(|delivery| !is_late(delivery));
        let flight = listener.flight.take_if(|(_, delivery)| is_late(delivery));
        let is_over = listener.poll.is_some_and(|poll| poll.deadline <= now);
        if let Some((vehicle, delivery)) = flight {
            delivery.end(Err(ErrorKind::TimedOut));
            self.stop(vehicle);
        }
        if is_over {
            self.end_poll(device);
        }
        self.probe(device);
        self.pump(device);
    }

    /// Asks a device that was silent for too long whether it is there: an observer by a notification
    /// that says nothing new. A server that was silent is gone.
    fn probe(&mut self, device: &DeviceId) {
        let (clock, now) = (self.clock(), self.now);
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        if listener.silent_at > now {
            return;
        }
        let (observation, message) = match (listener.commands, listener.desired) {
            (Some(observation), _) => (observation, Message::new(Code::CONTENT)),
            (None, Some(observation)) => (observation, downlink::no_change()),
            (None, None) => {
                listener.is_server = false;
                return self.reconcile(device);
            }
        };
        listener.silent_at = now + self.shared.config.timeouts.probe;
        match self.endpoint.notify(clock, observation, message) {
            // What else is on its way there tells as much.
            Ok(()) | Err(NotifyError::Busy) => {}
            Err(error) => {
                tracing::debug!(device.id = %device, error = %error, "Device could not be asked");
            }
        }
    }
}
