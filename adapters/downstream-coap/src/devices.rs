//! The devices behind one socket or one connection: what they ask, what the hub says to it, and what
//! the core wants of them. What carries the messages is beneath: [`MessageLayer`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use gateway_core::{
    DeviceId, ErrorKind, Ingress, Interest, Presence, Settlement, TwinReply, UpstreamError,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::layer::MessageLayer;
use crate::listener::{Exchange, Listeners, Poll};
use crate::proto::message::Message;
use crate::proto::udp::{RespondError, Responded};
use crate::registry::Order;
use crate::selection::Selection;
use crate::serve::Shared;

/// Orders of the core that wait for a task; they are taken at once.
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
}

/// What was asked of a twin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Whole(Selection),
    Desired(Selection),
    Reported,
}

/// Peers of one task, and the devices that listen behind them.
#[derive(Debug)]
pub(crate) struct Devices<L> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ingress: Ingress,
    pub(crate) endpoint: L,
    pub(crate) listeners: Listeners,
    pub(crate) jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Where the core's orders come from, for those who claim a device.
    pub(crate) sender: mpsc::Sender<Order>,
    start: Instant,
    /// The time of this turn.
    pub(crate) now: Instant,
    pub(crate) is_draining: bool,
}

impl<L: MessageLayer> Devices<L> {
    /// Begins with nobody; what the core orders comes out at the other end.
    pub(crate) fn new(
        shared: Arc<Shared>,
        ingress: Ingress,
        endpoint: L,
    ) -> (Self, mpsc::Receiver<Order>) {
        let (sender, orders) = mpsc::channel(ORDERS);
        let now = Instant::now();
        let devices = Self {
            shared,
            ingress,
            endpoint,
            listeners: Listeners::default(),
            jobs: FuturesUnordered::new(),
            sender,
            start: now,
            now,
            is_draining: false,
        };
        (devices, orders)
    }

    /// The time as the endpoint counts it.
    pub(crate) fn clock(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    /// When that is on the runtime's clock.
    pub(crate) fn at(&self, clock: Duration) -> Instant {
        self.start + clock
    }

    /// Begins a turn.
    pub(crate) fn wake(&mut self) {
        self.now = Instant::now();
    }

    /// Does what the time asks for.
    pub(crate) fn on_time(&mut self) {
        while let Some(device) = self.listeners.due(self.now) {
            self.expire(&device);
        }
    }

    /// Takes what the hub said, and whatever else it has said meanwhile.
    pub(crate) fn done(&mut self, done: Done) {
        self.take(done);
        while let Some(Some(done)) = self.jobs.next().now_or_never() {
            self.take(done);
        }
    }

    fn take(&mut self, done: Done) {
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
            Ok(Responded::Sent | Responded::Apart | Responded::Begun | Responded::Unwanted) => {}
            Ok(Responded::Challenged) => {
                tracing::debug!(peer = ?exchange.peer, "Peer asked to show that it receives");
            }
            Err(error) => {
                tracing::debug!(peer = ?exchange.peer, error = %error, "Answer went to nobody");
            }
        }
    }

    /// Forgets every device that listens: the way to them is gone.
    pub(crate) fn leave_all(&mut self, kind: ErrorKind) {
        for device in self.listeners.names() {
            self.leave(&device, kind);
        }
    }

    /// Takes nothing new any more.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
        for device in self.listeners.polling() {
            self.end_poll(&device);
        }
    }
}
