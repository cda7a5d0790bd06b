//! One socket and its task: datagrams, the time, the hub's verdicts and the core's orders meet here.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use gateway_core::{Ingress, ServeContext};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::carrier::{Carried, Carrier, PeerKey, Sender};
use crate::devices::Devices;
use crate::dtls::{PskEntry, PskStoreError, SessionId};
use crate::proto::udp::{Endpoint, Event};
use crate::registry::Order;
use crate::serve::Shared;

/// Datagrams that are read before anything else gets a turn.
const BATCH: usize = 64;
/// The largest datagram that there is.
const MAX_DATAGRAM: usize = 65_535;

/// What a store says of an identity.
type Lookup = (SessionId, Result<Option<PskEntry>, PskStoreError>);

/// A socket, its peers, and the devices that listen behind them.
#[derive(Debug)]
pub(crate) struct SocketTask {
    devices: Devices<Endpoint<PeerKey>>,
    carrier: Box<dyn Carrier>,
    lookups: FuturesUnordered<BoxFuture<'static, Lookup>>,
    failed_lookups: u64,
    orders: mpsc::Receiver<Order>,
    socket: Arc<UdpSocket>,
    buffer: Vec<u8>,
    carried: VecDeque<Carried>,
    /// When a task that drains ends, whatever is not acknowledged.
    leave_at: Option<Instant>,
}

impl SocketTask {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ingress: Ingress,
        socket: Arc<UdpSocket>,
        carrier: Box<dyn Carrier>,
        endpoint: Endpoint<PeerKey>,
    ) -> Self {
        let (devices, orders) = Devices::new(shared, ingress, endpoint);
        Self {
            devices,
            carrier,
            lookups: FuturesUnordered::new(),
            failed_lookups: 0,
            orders,
            socket,
            buffer: vec![0; MAX_DATAGRAM],
            carried: VecDeque::new(),
            leave_at: None,
        }
    }

    /// Serves until the context's shutdown fires and what is in flight has settled.
    pub(crate) async fn run(mut self, context: ServeContext) {
        let mut sleep = std::pin::pin!(sleep_until(self.devices.now));
        loop {
            self.flush().await;
            if self.has_ended() {
                break;
            }
            let due = self.due();
            if let Some(due) = due
                && due != sleep.deadline()
            {
                sleep.as_mut().reset(due);
            }
            let devices = &mut self.devices;
            tokio::select! {
                () = context.shutdown.cancelled(), if !devices.is_draining => {
                    devices.wake();
                    devices.drain();
                }
                Some(done) = devices.jobs.next(), if !devices.jobs.is_empty() => {
                    devices.wake();
                    devices.done(done);
                }
                Some(lookup) = self.lookups.next(), if !self.lookups.is_empty() => {
                    devices.wake();
                    self.looked_up(lookup);
                }
                Some(order) = self.orders.recv() => {
                    devices.wake();
                    devices.obey(order);
                    while let Ok(order) = self.orders.try_recv() {
                        devices.obey(order);
                    }
                }
                readable = self.socket.readable() => {
                    devices.wake();
                    match readable {
                        Ok(()) => self.read(),
                        Err(error) => tracing::debug!(error = %error, "Socket not readable"),
                    }
                }
                () = &mut sleep, if due.is_some() => {
                    devices.wake();
                    self.on_time();
                }
            }
        }
        self.carrier.close(self.devices.now, &mut self.carried);
        self.flush().await;
    }

    fn due(&self) -> Option<Instant> {
        let endpoint = self.devices.endpoint.next_timeout();
        let times = [
            endpoint.map(|clock| self.devices.at(clock)),
            self.carrier.next_timeout(),
            self.devices.listeners.next_timeout(),
            self.leave_at,
        ];
        times.into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        let clock = self.devices.clock();
        self.devices.endpoint.on_timeout(clock);
        let now = self.devices.now;
        self.carrier.on_timeout(now, &mut self.carried);
        self.devices.on_time();
    }

    fn read(&mut self) {
        for _ in 0..BATCH {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((length, source)) => {
                    let bytes = &self.buffer[..length];
                    let (now, carried) = (self.devices.now, &mut self.carried);
                    self.carrier.receive(now, source, bytes, carried);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // What became of a datagram of ours: nobody is there any more.
                Err(error) => tracing::trace!(error = %error, "Socket told of an error"),
            }
        }
    }

    /// Acts on everything that happened, and sends what is to be sent.
    async fn flush(&mut self) {
        loop {
            self.act(None);
            while let Some(transmit) = self.devices.endpoint.poll_transmit() {
                let (peer, bytes) = (transmit.peer, transmit.bytes);
                let (now, carried) = (self.devices.now, &mut self.carried);
                self.carrier.send(now, peer, bytes, carried);
            }
            match self.carried.pop_front() {
                Some(Carried::Message {
                    peer,
                    sender,
                    bytes,
                }) => self.take(peer, &sender, &bytes),
                Some(Carried::Datagram { to, bytes }) => self.write(to, &bytes).await,
                Some(Carried::Closed { peer }) => {
                    let clock = self.devices.clock();
                    self.devices.endpoint.forget(clock, peer);
                    self.devices.gone(peer);
                }
                Some(Carried::Identify {
                    session,
                    identity,
                    store,
                    patience,
                }) => {
                    let find = async move { store.find(&identity).await };
                    // It is the program's own, and must not take all sessions along.
                    let find = AssertUnwindSafe(timeout(patience, find)).catch_unwind();
                    let found = find.map(move |found| match found {
                        Ok(found) => (session, found.unwrap_or(Ok(None))),
                        Err(_) => (session, Err(PskStoreError::new("it panicked"))),
                    });
                    self.lookups.push(found.boxed());
                }
                None => return,
            }
        }
    }

    fn take(&mut self, peer: PeerKey, sender: &Sender, bytes: &[u8]) {
        let clock = self.devices.clock();
        let endpoint = &mut self.devices.endpoint;
        endpoint.receive(clock, peer, sender.is_proven, bytes);
        self.act(Some(sender));
    }

    /// Takes what a store says of an identity; what cannot be looked up is as good as unknown.
    fn looked_up(&mut self, (session, found): Lookup) {
        let entry = found.unwrap_or_else(|error| {
            self.failed_lookups += 1;
            let (count, cause) = (self.failed_lookups, std::error::Error::source(&error));
            // Not a line for each: strangers are looked up as well.
            if count.is_power_of_two() {
                tracing::warn!(count, error = %error, ?cause, "Identities not looked up");
            }
            None
        });
        let (now, carried) = (self.devices.now, &mut self.carried);
        self.carrier.identified(now, session, entry, carried);
    }

    async fn write(&mut self, to: SocketAddr, bytes: &Bytes) {
        // A full buffer empties at the speed of the network card, so that this wait is short.
        if let Err(error) = self.socket.send_to(bytes, to).await {
            tracing::debug!(error = %error, peer = %to, "Datagram not sent");
        }
    }

    /// Acts on everything that happened. Requests come of messages only, and of their sender.
    fn act(&mut self, sender: Option<&Sender>) {
        while let Some(event) = self.devices.endpoint.poll_event() {
            match event {
                Event::Request(incoming) => {
                    if let Some(sender) = sender {
                        self.devices.on_request(incoming.into(), sender);
                    }
                }
                Event::Response { call, result } => self.devices.on_response(call, result),
                Event::Notified {
                    observation,
                    outcome,
                } => self.devices.on_notified(observation, outcome),
                Event::Answered { exchange, result } => self.devices.on_answered(exchange, result),
                Event::AnswerFetched { exchange } => self.devices.on_answer_fetched(exchange),
                Event::NotificationFetched { observation } => {
                    self.devices.on_notification_fetched(observation);
                }
                Event::Ended {
                    observation,
                    reason,
                } => self.devices.on_ended(observation, reason),
            }
        }
    }

    /// Tells whether nothing is in flight any more, or was waited for long enough.
    fn has_ended(&mut self) -> bool {
        let devices = &self.devices;
        if !devices.is_draining || !devices.jobs.is_empty() {
            return false;
        }
        let farewell = devices.shared.config.timeouts.farewell;
        let leave_at = *self.leave_at.get_or_insert(devices.now + farewell);
        let is_quiet = devices.endpoint.stats().pending == 0
            && !devices.listeners.has_flights()
            && devices.shared.answers.is_idle();
        is_quiet || devices.now >= leave_at
    }
}
