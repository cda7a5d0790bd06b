//! One socket and its task: datagrams, the time, the hub's verdicts and the core's orders meet here.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use gateway_core::{
    DeviceId, Ingress, Interest, Presence, ServeContext, Settlement, TwinReply, UpstreamError,
};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::carrier::{Carried, Carrier, PeerKey};
use crate::dtls::{PskEntry, PskStore, SessionId};
use crate::listener::{Exchange, Listeners, Poll};
use crate::proto::Seed;
use crate::proto::message::Message;
use crate::proto::udp::{Endpoint, Event, RespondError, Responded};
use crate::registry::Order;
use crate::serve::Shared;

/// Datagrams that are read before anything else gets a turn.
const BATCH: usize = 64;
/// The largest datagram that there is.
const MAX_DATAGRAM: usize = 65_535;
/// Orders of the core that wait for the task; they are taken at once.
const ORDERS: usize = 1024;

/// What a request waited for at the hub.
#[derive(Debug)]
pub(crate) enum Done {
    Settled {
        exchange: Exchange,
        settlement: Settlement,
        /// The device waits for a command behind it.
        poll: Option<(DeviceId, Poll)>,
    },
    Twin {
        exchange: Exchange,
        part: Part,
        result: Result<TwinReply, UpstreamError>,
        /// Who registers for the desired properties by it.
        observer: Option<DeviceId>,
    },
    Online {
        device: DeviceId,
        interest: Interest,
        result: Result<Presence, UpstreamError>,
    },
    Identified {
        session: SessionId,
        entry: Option<PskEntry>,
    },
}

/// What was asked of a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Desired,
    Reported,
}

/// A socket, its peers, and the devices that listen behind them.
#[derive(Debug)]
pub(crate) struct SocketTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ingress: Ingress,
    pub(crate) endpoint: Endpoint<PeerKey>,
    pub(crate) carrier: Box<dyn Carrier>,
    pub(crate) listeners: Listeners,
    pub(crate) jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Where the core's orders come from, for those who claim a device.
    pub(crate) sender: mpsc::Sender<Order>,
    orders: mpsc::Receiver<Order>,
    socket: UdpSocket,
    buffer: Vec<u8>,
    carried: VecDeque<Carried>,
    start: Instant,
    /// The time of this turn.
    pub(crate) now: Instant,
    pub(crate) is_draining: bool,
    /// When a task that drains ends, whatever is not acknowledged.
    leave_at: Option<Instant>,
}

impl SocketTask {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ingress: Ingress,
        socket: UdpSocket,
        carrier: Box<dyn Carrier>,
        seed: Seed,
    ) -> Self {
        let (sender, orders) = mpsc::channel(ORDERS);
        let now = Instant::now();
        Self {
            endpoint: Endpoint::new(shared.config.endpoint.clone(), seed),
            shared,
            ingress,
            carrier,
            listeners: Listeners::default(),
            jobs: FuturesUnordered::new(),
            sender,
            orders,
            socket,
            buffer: vec![0; MAX_DATAGRAM],
            carried: VecDeque::new(),
            start: now,
            now,
            is_draining: false,
            leave_at: None,
        }
    }

    /// Serves until the context's shutdown fires and what is in flight has settled.
    pub(crate) async fn run(mut self, context: ServeContext) {
        let mut sleep = std::pin::pin!(sleep_until(self.now));
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
            tokio::select! {
                () = context.shutdown.cancelled(), if !self.is_draining => {
                    self.now = Instant::now();
                    self.drain();
                }
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => {
                    self.now = Instant::now();
                    self.done(done);
                    while let Some(Some(done)) = self.jobs.next().now_or_never() {
                        self.done(done);
                    }
                }
                Some(order) = self.orders.recv() => {
                    self.now = Instant::now();
                    self.obey(order);
                    while let Ok(order) = self.orders.try_recv() {
                        self.obey(order);
                    }
                }
                readable = self.socket.readable() => {
                    self.now = Instant::now();
                    match readable {
                        Ok(()) => self.read(),
                        Err(error) => tracing::debug!(error = %error, "Socket not readable"),
                    }
                }
                () = &mut sleep, if due.is_some() => {
                    self.now = Instant::now();
                    self.on_time();
                }
            }
        }
        self.carrier.close(self.now, &mut self.carried);
        self.flush().await;
    }

    /// The time as the endpoint counts it.
    pub(crate) fn clock(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    fn due(&self) -> Option<Instant> {
        let endpoint = self.endpoint.next_timeout();
        let times = [
            endpoint.map(|since| self.start + since),
            self.carrier.next_timeout(),
            self.listeners.next_timeout(),
            self.leave_at,
        ];
        times.into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        let clock = self.clock();
        self.endpoint.on_timeout(clock);
        self.carrier.on_timeout(self.now, &mut self.carried);
        while let Some(device) = self.listeners.due(self.now) {
            self.expire(&device);
        }
    }

    fn read(&mut self) {
        for _ in 0..BATCH {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((length, source)) => {
                    let bytes = &self.buffer[..length];
                    let (now, carried) = (self.now, &mut self.carried);
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
            while let Some(event) = self.endpoint.poll_event() {
                self.on_event(event);
            }
            while let Some(transmit) = self.endpoint.poll_transmit() {
                let (peer, bytes) = (transmit.peer, transmit.bytes);
                self.carrier.send(self.now, peer, bytes, &mut self.carried);
            }
            match self.carried.pop_front() {
                Some(Carried::Message { peer, bytes }) => self.take(peer, &bytes),
                Some(Carried::Datagram { to, bytes }) => self.write(to, &bytes).await,
                Some(Carried::Closed { peer }) => {
                    let clock = self.clock();
                    self.endpoint.forget(clock, peer);
                }
                Some(Carried::Identify {
                    session,
                    identity,
                    store,
                    patience,
                }) => {
                    let job = async move {
                        let found = timeout(patience, find(&*store, &identity)).await;
                        let entry = found.unwrap_or_default();
                        Done::Identified { session, entry }
                    };
                    self.jobs.push(job.boxed());
                }
                None => return,
            }
        }
    }

    fn take(&mut self, peer: PeerKey, bytes: &[u8]) {
        let Some(sender) = self.carrier.sender(peer) else {
            return;
        };
        let clock = self.clock();
        self.endpoint.receive(clock, peer, sender.is_proven, bytes);
    }

    async fn write(&mut self, to: SocketAddr, bytes: &Bytes) {
        // A full buffer empties at the speed of the network card, so that this wait is short.
        if let Err(error) = self.socket.send_to(bytes, to).await {
            tracing::debug!(error = %error, peer = %to, "Datagram not sent");
        }
    }

    fn on_event(&mut self, event: Event<PeerKey>) {
        match event {
            Event::Request(incoming) => self.on_request(incoming),
            Event::Response { call, result } => self.on_response(call, result),
            Event::Notified {
                observation,
                outcome,
            } => self.on_notified(observation, outcome),
            Event::Ended {
                observation,
                reason,
            } => self.on_ended(observation, reason),
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Settled {
                exchange,
                settlement,
                poll,
            } => self.settled(exchange, settlement, poll),
            Done::Twin {
                exchange,
                part,
                result,
                observer,
            } => self.twin_done(exchange, part, result, observer),
            Done::Online {
                device,
                interest,
                result,
            } => self.announced(&device, interest, result),
            Done::Identified { session, entry } => {
                let (now, carried) = (self.now, &mut self.carried);
                self.carrier.identified(now, session, entry, carried);
            }
        }
    }

    /// Answers a request.
    pub(crate) fn respond(
        &mut self,
        exchange: Exchange,
        message: Message,
    ) -> Result<Responded, RespondError> {
        let clock = self.clock();
        self.endpoint.respond(clock, exchange, message)
    }

    /// Answers a request whose sender may have gone, which makes no difference.
    pub(crate) fn answer(&mut self, exchange: Exchange, message: Message) {
        match self.respond(exchange, message) {
            Ok(Responded::Sent) => {}
            Ok(Responded::Challenged) => {
                tracing::debug!(peer = ?exchange.peer, "Peer asked to show that it receives");
            }
            Err(error) => {
                tracing::debug!(peer = ?exchange.peer, error = %error, "Answer went to nobody");
            }
        }
    }

    fn drain(&mut self) {
        self.is_draining = true;
        for device in self.listeners.polling() {
            self.end_poll(&device);
        }
    }

    /// Tells whether nothing is in flight any more, or was waited for long enough.
    fn has_ended(&mut self) -> bool {
        if !self.is_draining || !self.jobs.is_empty() {
            return false;
        }
        let farewell = self.shared.config.timeouts.farewell;
        let leave_at = *self.leave_at.get_or_insert(self.now + farewell);
        let is_quiet = self.endpoint.stats().pending == 0 && !self.listeners.has_flights();
        is_quiet || self.now >= leave_at
    }
}

/// Looks an identity up; what cannot be looked up is as good as unknown.
async fn find(store: &dyn PskStore, identity: &str) -> Option<PskEntry> {
    let found = store.find(identity).await;
    found.unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error);
        tracing::warn!(error = %error, ?cause, "Identity not looked up");
        None
    })
}
