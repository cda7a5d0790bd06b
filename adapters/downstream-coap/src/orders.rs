//! What the core wants of a device, and which task does it.

use gateway_core::{DeviceId, ErrorKind, SessionEnd};
use tokio::sync::mpsc::error::TrySendError;

use crate::devices::Devices;
use crate::layer::MessageLayer;
use crate::proto::resource::failed;
use crate::registry::Order;

impl<L: MessageLayer> Devices<L> {
    /// Does what the core wants.
    pub(crate) fn obey(&mut self, order: Order) {
        match order {
            Order::Deliver(delivery) => {
                let device = delivery.downlink.device().clone();
                self.give_way(&device);
                match self.listeners.get(&device) {
                    Some(listener) => {
                        listener.queue.push_back(delivery);
                        self.pump(&device);
                    }
                    None => self.pass_on(&device, Order::Deliver(delivery)),
                }
            }
            Order::End(end) => self.end(end),
            Order::Leave(device) => self.give_way(&device),
        }
    }

    /// Leaves a device to the task that speaks with it by now, if that is another one, with all that
    /// is not delivered.
    pub(crate) fn give_way(&mut self, device: &DeviceId) {
        let listener = self.listeners.get(device);
        let Some(listener) = listener.filter(|listener| listener.claim.is_lost()) else {
            return;
        };
        let flight = listener.flight.take();
        let mut undelivered = std::mem::take(&mut listener.queue);
        if let Some((vehicle, delivery)) = flight {
            self.stop(vehicle);
            undelivered.push_front(delivery);
        }
        self.leave(device, ErrorKind::Displaced);
        for delivery in undelivered {
            self.pass_on(device, Order::Deliver(delivery));
        }
    }

    /// Passes an order on to the task that speaks with the device, if there is one.
    fn pass_on(&self, device: &DeviceId, order: Order) {
        let (order, kind) = match self.shared.registry.find(device) {
            Some(seat) => match seat.orders.try_send(order) {
                Ok(()) => return,
                Err(TrySendError::Full(order)) => (order, ErrorKind::Throttled),
                Err(TrySendError::Closed(order)) => (order, ErrorKind::UnknownDevice),
            },
            None => (order, ErrorKind::UnknownDevice),
        };
        if let Order::Deliver(delivery) = order {
            delivery.end(Err(kind));
        }
    }

    /// Tells a device that the hub ended its session.
    fn end(&mut self, end: SessionEnd) {
        self.give_way(&end.device);
        let device = end.device.clone();
        if self.listeners.get(&device).is_none() {
            return self.pass_on(&device, Order::End(end));
        }
        self.dismiss(&device, end.reason);
    }

    /// Forgets a device that listens, and tells it why: its observations end with an error.
    pub(crate) fn dismiss(&mut self, device: &DeviceId, kind: ErrorKind) {
        let Some(listener) = self.listeners.get(device) else {
            return;
        };
        let observations = [listener.commands.take(), listener.desired.take()];
        let clock = self.clock();
        for observation in observations.into_iter().flatten() {
            self.listeners.ended(observation);
            self.endpoint
                .dismiss(clock, observation, failed(kind, None));
        }
        self.leave(device, kind);
    }
}
