//! How commands and changes reach devices that listen.

use gateway_core::{DeviceId, Downlink, ErrorKind};

use crate::devices::Devices;
use crate::downlink;
use crate::layer::MessageLayer;
use crate::listener::{Call, Exchange, Observation, Poll, Vehicle, Way};
use crate::proto::message::{Code, Message};
use crate::proto::udp::{AnswerError, CallError, NotificationOutcome, NotifyError, Responded};
use crate::registry::{Brought, Delivery};

impl<L: MessageLayer> Devices<L> {
    /// Sends a device's next command on its way, if the device is ready for it.
    pub(crate) fn pump(&mut self, device: &DeviceId) {
        let (clock, shared) = (self.clock(), self.shared.clone());
        let form = (&shared.routes, self.endpoint.options_room());
        loop {
            let Some(listener) = self.listeners.get(device) else {
                return;
            };
            let is_done = |(vehicle, delivery): &mut (Vehicle, Box<Delivery>)| {
                // Who has answered a method does not need the rest of it.
                !matches!(vehicle, Vehicle::Notification(_) | Vehicle::Call(_))
                    && delivery.reply.is_closed()
            };
            if let Some((vehicle, _)) = listener.flight.take_if(is_done) {
                self.stop(vehicle);
                continue;
            }
            if listener.flight.is_some() {
                break;
            }
            let Some((delivery, way)) = listener.next_delivery() else {
                break;
            };
            if delivery.reply.is_closed() || delivery.deadline <= self.now {
                delivery.end(Err(ErrorKind::TimedOut));
                continue;
            }
            let child = listener.is_child.then_some(device);
            match way {
                Way::Nowhere => delivery.end(Err(ErrorKind::UnknownDevice)),
                Way::Notify(observation) => {
                    let message = match &delivery.downlink {
                        Downlink::Desired(patch) => Ok(downlink::desired(patch)),
                        _ => downlink::command(&delivery, child, Code::CONTENT, form),
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
                    let message = downlink::command(&delivery, child, poll.code, form);
                    match message {
                        Ok(message) => {
                            listener.poll = None;
                            self.answer_with(device, poll, message, delivery);
                            return self.reconcile(device);
                        }
                        Err(kind) => delivery.end(Err(kind)),
                    }
                }
                Way::Post => {
                    let path = shared.config.commands.post_to.as_deref();
                    let message = match downlink::post(&delivery, path.unwrap_or_default(), form.1)
                    {
                        Ok(message) => message,
                        Err(kind) => {
                            delivery.end(Err(kind));
                            continue;
                        }
                    };
                    match self.endpoint.request(clock, listener.peer, message) {
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

    /// Gives a command to a request that waited for one. The device is expected to ask again, for
    /// what has come meanwhile.
    fn answer_with(
        &mut self,
        device: &DeviceId,
        poll: Poll,
        message: Message,
        delivery: Box<Delivery>,
    ) {
        let (clock, exchange) = (self.clock(), poll.exchange);
        let responded = self.endpoint.give(clock, exchange, message);
        let expected_until = self.now + self.shared.config.timeouts.command;
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        match responded {
            // Nothing acknowledges what goes with an acknowledgement.
            Ok(Responded::Sent) => delivery.end(Ok(Brought::Unconfirmed)),
            Ok(Responded::Apart) => {
                listener.flight = Some((Vehicle::Answer(exchange), delivery));
                self.listeners.answers(exchange, device);
            }
            Ok(Responded::Begun) => {
                listener.flight = Some((Vehicle::AnswerRest(exchange), delivery));
                self.listeners.answers(exchange, device);
            }
            Ok(Responded::Challenged | Responded::Unwanted) => {
                listener.queue.push_front(delivery);
            }
            Err(_) => return delivery.end(Err(ErrorKind::Disconnected)),
        }
        if let Some(listener) = self.listeners.get(device) {
            listener.expected_until = Some(expected_until);
        }
        self.listeners.schedule(device);
    }

    /// Takes back what is on its way.
    pub(crate) fn stop(&mut self, vehicle: Vehicle) {
        let clock = self.clock();
        match vehicle {
            Vehicle::Notification(observation) => {
                self.endpoint.withdraw_notification(clock, observation);
            }
            // The device has acknowledged it.
            Vehicle::Rest(_) => {}
            Vehicle::AnswerRest(exchange) => drop(self.listeners.answered(exchange)),
            Vehicle::Answer(exchange) => {
                self.listeners.answered(exchange);
                self.endpoint.forget_answer(clock, exchange);
            }
            Vehicle::Call(call) => {
                self.listeners.called(call);
                self.endpoint.cancel(clock, call);
            }
        }
    }

    pub(crate) fn on_notified(&mut self, observation: Observation, outcome: NotificationOutcome) {
        let device = self.listeners.observer(observation);
        if let Some(device) = &device {
            self.notified(device, observation, outcome);
        }
        // Those that waited go first: they would wait for as long as it has commands.
        for held in self.listeners.release(observation.peer) {
            self.pump(&held);
        }
        if let Some(device) = &device {
            self.pump(device);
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
        let is_ours = |(vehicle, _): &mut (Vehicle, Box<Delivery>)| {
            *vehicle == Vehicle::Notification(observation)
        };
        let Some((_, delivery)) = listener.flight.take_if(is_ours) else {
            return;
        };
        match outcome {
            NotificationOutcome::Acknowledged { is_whole: true } => {
                delivery.end(Ok(Brought::Confirmed));
            }
            NotificationOutcome::Acknowledged { is_whole: false } => {
                listener.flight = Some((Vehicle::Rest(observation), delivery));
            }
            NotificationOutcome::TimedOut => delivery.end(Err(ErrorKind::TimedOut)),
            // The device has registered anew, so that it gets it by the new registration.
            NotificationOutcome::Withdrawn => listener.queue.push_front(delivery),
            _ => delivery.end(Err(ErrorKind::Disconnected)),
        }
    }

    /// Takes it that the device has asked for the last block of a notification. Whether that has
    /// arrived nobody can tell.
    pub(crate) fn on_notification_fetched(&mut self, observation: Observation) {
        if let Some(device) = self.listeners.observer(observation) {
            let outcome = Ok(Brought::Unconfirmed);
            self.landed(&device, Vehicle::Rest(observation), outcome);
        }
    }

    /// Takes it that the device has asked for the last block of an answer.
    pub(crate) fn on_answer_fetched(&mut self, exchange: Exchange) {
        if let Some(device) = self.listeners.answered(exchange) {
            let outcome = Ok(Brought::Unconfirmed);
            self.landed(&device, Vehicle::AnswerRest(exchange), outcome);
        }
    }

    /// Takes how an answer ended that the device was to acknowledge.
    pub(crate) fn on_answered(&mut self, exchange: Exchange, result: Result<(), AnswerError>) {
        if let Some(device) = self.listeners.answered(exchange) {
            let outcome = match result {
                Ok(()) => Ok(Brought::Confirmed),
                Err(AnswerError::TimedOut) => Err(ErrorKind::TimedOut),
                Err(_) => Err(ErrorKind::Disconnected),
            };
            self.landed(&device, Vehicle::Answer(exchange), outcome);
        }
    }

    fn landed(&mut self, device: &DeviceId, by: Vehicle, outcome: Result<Brought, ErrorKind>) {
        let is_it = |(vehicle, _): &mut (Vehicle, Box<Delivery>)| *vehicle == by;
        let listener = self.listeners.get(device);
        if let Some((_, delivery)) = listener.and_then(|listener| listener.flight.take_if(is_it)) {
            delivery.end(outcome);
            self.pump(device);
        }
    }

    pub(crate) fn on_response(&mut self, call: Call, result: Result<Message, CallError>) {
        let Some(device) = self.listeners.called(call) else {
            return;
        };
        let Some(listener) = self.listeners.get(&device) else {
            return;
        };
        let is_ours = |(vehicle, _): &mut (Vehicle, Box<Delivery>)| *vehicle == Vehicle::Call(call);
        if let Some((_, delivery)) = listener.flight.take_if(is_ours) {
            let outcome = downlink::posted(&delivery, result);
            delivery.end(outcome);
        }
        self.pump(&device);
    }

    /// Does what the time asks for.
    pub(crate) fn expire(&mut self, device: &DeviceId) {
        let now = self.now;
        self.give_way(device);
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        let is_late = |delivery: &Delivery| delivery.deadline <= now;
        for delivery in std::mem::take(&mut listener.queue) {
            match is_late(&delivery) {
                true => delivery.end(Err(ErrorKind::TimedOut)),
                false => listener.queue.push_back(delivery),
            }
        }
        if listener.announce_at.is_some_and(|at| at <= now) {
            self.reconcile(device);
        }
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        let is_over = |poll: Poll| poll.deadline <= now;
        if listener.poll.is_some_and(is_over) || listener.expected_until.is_some_and(|at| at <= now)
        {
            self.end_poll(device);
        }
        self.probe(device);
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        let flight = listener.flight.take_if(|(_, delivery)| is_late(delivery));
        let Some((vehicle, delivery)) = flight else {
            return self.pump(device);
        };
        delivery.end(Err(ErrorKind::TimedOut));
        self.stop(vehicle);
        match vehicle {
            // Its end is told yet, and must not be taken for that of the next one, which goes then:
            // behind the question whether anybody is there, or commands that come again and again
            // would keep up the looks of an observer that is gone (RFC 7641, section 4.5).
            Vehicle::Notification(observation) => {
                self.ask(device, observation);
                self.listeners.schedule(device);
            }
            _ => self.pump(device),
        }
    }
}
