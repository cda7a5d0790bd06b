//! One connection and its task: bytes, the time, the hub's verdicts and the core's orders meet here.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::StreamExt as _;
use gateway_core::{ErrorKind, Ingress};
use gateway_net::Place;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clocks::{Clocks, Due};
use super::layer::{StreamEvent, StreamLayer};
use super::wire::{Moved, Wire};
use crate::carrier::{PeerKey, Sender};
use crate::devices::Devices;
use crate::proto::tcp::{Closed, Session};
use crate::registry::Order;
use crate::serve::Shared;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// We let go of it, and say so.
    Released(&'static str),
    /// The peer was told why, or wants it: what is open is answered still.
    Closed(&'static str),
    /// Nothing can be written any more.
    Lost(&'static str),
}

impl End {
    fn reason(self) -> &'static str {
        match self {
            Self::Released(reason) | Self::Closed(reason) | Self::Lost(reason) => reason,
        }
    }
}

pub(super) struct Connection {
    devices: Devices<StreamLayer>,
    orders: mpsc::Receiver<Order>,
    sender: Sender,
    clocks: Clocks,
    /// Why nothing more is read.
    end: Option<End>,
    /// When a connection that drains ends, whatever is not confirmed.
    leave_at: Option<Instant>,
    hello_by: Instant,
    _place: Place,
}

impl Connection {
    /// Begins with a peer whose settings must have come by then.
    pub(super) fn new(
        shared: Arc<Shared>,
        ingress: Ingress,
        session: Session,
        (address, place): (SocketAddr, Place),
        hello_by: Instant,
    ) -> Self {
        let layer = StreamLayer::new(session, PeerKey::Address(address));
        let (devices, orders) = Devices::new(shared, ingress, layer);
        Self {
            clocks: Clocks::new(devices.now, hello_by),
            devices,
            orders,
            sender: Sender {
                address,
                device: None,
                is_proven: true,
            },
            end: None,
            leave_at: None,
            hello_by,
            _place: place,
        }
    }

    /// Where it comes from.
    pub(super) fn address(&self) -> SocketAddr {
        self.sender.address
    }

    /// When its settings must have come.
    pub(super) fn hello_by(&self) -> Instant {
        self.hello_by
    }

    /// Serves the peer to its end.
    pub(super) async fn run<S>(mut self, stream: S, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let bounds = self.devices.shared.config.connections.clone();
        let mut wire = Wire::new(stream);
        let mut alarm = pin!(sleep_until(self.devices.now));
        loop {
            self.act();
            if self.has_ended() {
                break;
            }
            wire.fill(self.devices.endpoint.session());
            let unwritten = wire.unwritten() + self.devices.endpoint.session().unwritten();
            let reads = self.end.is_none() && unwritten <= bounds.max_unwritten;
            let is_lost = matches!(self.end, Some(End::Lost(_)));
            let writes = !is_lost && !wire.is_flushed();
            self.clocks.turn(self.devices.now, reads, writes);
            let due = self.due();
            if let Some(due) = due
                && due != alarm.deadline()
            {
                alarm.as_mut().reset(due);
            }
            let devices = &mut self.devices;
            tokio::select! {
                () = shutdown.cancelled(), if !devices.is_draining => {
                    devices.wake();
                    devices.drain();
                }
                Some(done) = devices.jobs.next(), if !devices.jobs.is_empty() => {
                    devices.wake();
                    devices.done(done);
                }
                Some(order) = self.orders.recv() => {
                    devices.wake();
                    self.obey(order);
                }
                moved = wire.turn(reads, writes) => {
                    devices.wake();
                    self.moved(moved, &mut wire);
                }
                () = &mut alarm, if due.is_some() => {
                    devices.wake();
                    self.on_time();
                }
            }
        }
        let end = self.end.unwrap_or(End::Released("the gateway stops"));
        let (peer, reason) = (self.sender.address, end.reason());
        tracing::debug!(%peer, reason, "Connection ended");
        // Gives the devices up before the peer can know: it may come back at once.
        self.devices.leave_all(ErrorKind::Disconnected);
        let session = self.devices.endpoint.session();
        match end {
            End::Lost(_) => return,
            End::Released(_) => session.release(),
            End::Closed(_) => {}
        }
        wire.close(session, bounds.write).await;
    }

    fn moved<S>(&mut self, moved: io::Result<Moved>, wire: &mut Wire<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let moved = match moved {
            Ok(moved) => moved,
            Err(error) => {
                tracing::debug!(error = %error, peer = %self.sender.address, "Connection lost");
                return self.end(End::Lost("connection lost"));
            }
        };
        if moved.written {
            self.clocks.written(self.devices.now);
        }
        match moved.read {
            Some(0) => self.end(End::Closed("closed by the device")),
            Some(_) => self.read(wire),
            None => {}
        }
    }

    /// Takes the messages off what was read.
    fn read<S: AsyncRead + AsyncWrite + Unpin>(&mut self, wire: &mut Wire<S>) {
        let before = wire.input.len();
        let clock = self.devices.clock();
        let received = self.devices.endpoint.receive(clock, &mut wire.input);
        let rest = wire.input.len();
        self.clocks.heard(self.devices.now, before, rest);
        if self.devices.endpoint.session().has_settings() {
            self.clocks.greeted();
        }
        wire.shrink();
        self.act();
        if let Err(closed) = received {
            tracing::debug!(peer = %self.sender.address, error = %closed, "Session ended");
            self.end(match closed {
                Closed::Aborted => End::Lost("aborted by the device"),
                Closed::Protocol(reason) => End::Closed(reason),
            });
        }
    }

    /// Acts on everything that happened.
    fn act(&mut self) {
        let (devices, mut is_released) = (&mut self.devices, false);
        while let Some(event) = devices.endpoint.poll_event() {
            match event {
                StreamEvent::Request(request) => devices.on_request(request, &self.sender),
                StreamEvent::Response { call, result } => devices.on_response(call, result),
                StreamEvent::Notified {
                    observation,
                    outcome,
                } => devices.on_notified(observation, outcome),
                StreamEvent::Answered { exchange } => devices.on_answered(exchange, Ok(())),
                StreamEvent::AnswerFetched { exchange } => devices.on_answer_fetched(exchange),
                StreamEvent::NotificationFetched { observation } => {
                    devices.on_notification_fetched(observation);
                }
                StreamEvent::Ended {
                    observation,
                    reason,
                } => devices.on_ended(observation, reason),
                StreamEvent::Released => is_released = true,
            }
        }
        if is_released {
            self.end(End::Closed("released by the device"));
        }
    }

    /// Does what the core wants. A connection whose last device listens elsewhere now, or was ended
    /// by the hub, is over.
    fn obey(&mut self, order: Order) {
        let is_farewell = matches!(order, Order::Leave(_) | Order::End(_));
        self.devices.obey(order);
        if is_farewell && self.devices.listeners.is_empty() {
            self.end(End::Released(
                "its device was ended, or came by another way",
            ));
        }
    }

    /// Reads nothing more. What is open at the hub is answered still.
    fn end(&mut self, end: End) {
        if self.end.is_none() || matches!(end, End::Lost(_)) {
            self.end = Some(end);
        }
        self.devices.drain();
        self.devices.leave_all(ErrorKind::Disconnected);
    }

    fn due(&mut self) -> Option<Instant> {
        let bounds = &self.devices.shared.config.connections;
        let device = self.clocks.due(bounds).map(|(at, _)| at);
        let clock = self.devices.clock();
        let bodies = self.devices.endpoint.session().on_timeout(clock);
        let times = [
            device,
            bodies.map(|clock| self.devices.at(clock)),
            self.devices.listeners.next_timeout(),
            self.leave_at,
        ];
        times.into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        self.devices.on_time();
        let bounds = &self.devices.shared.config.connections;
        let now = self.devices.now;
        match self.clocks.due(bounds) {
            Some((at, due)) if at <= now => match due {
                Due::Ping => {
                    self.devices.endpoint.ask();
                    self.clocks.asked(now);
                }
                Due::Hello => self.end(End::Closed("no settings came")),
                Due::Message => self.end(End::Closed("a message took too long")),
                Due::Pong => self.end(End::Lost("the device is silent")),
                Due::Write => self.end(End::Lost("the device reads nothing")),
            },
            _ => {}
        }
    }

    /// Tells whether nothing is in flight any more, or was waited for long enough.
    fn has_ended(&mut self) -> bool {
        let devices = &mut self.devices;
        if !devices.is_draining || !devices.jobs.is_empty() {
            return false;
        }
        if self.end.is_some() {
            return true;
        }
        let farewell = devices.shared.config.timeouts.farewell;
        let leave_at = *self.leave_at.get_or_insert(devices.now + farewell);
        let is_quiet = devices.endpoint.session().pending() == 0
            && !devices.listeners.has_flights()
            && devices.shared.answers.is_idle();
        is_quiet || devices.now >= leave_at
    }
}
