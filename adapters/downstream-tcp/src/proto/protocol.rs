//! The seam for a protocol of one's own.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gateway_core::{
    Delivered, DeviceId, Downlink, ErrorKind, Settlement, TwinReply, TwinRequest, Uplink,
};

use super::framing::FrameError;
use super::login::{Login, Peer, Refusal};

/// Speaks a protocol over one connection, without IO and without a clock.
///
/// The connection reads, waits and writes; the protocol says what bytes mean and which bytes go
/// out. Every hook may append bytes and requests to its [`Actions`]. The hooks that not every
/// protocol needs do nothing unless written.
///
/// The order of calls: `on_connect`; then `decode` and `on_frame` in turn, of which one has to
/// [`identify`](Actions::identify) the device before anything else is allowed; while the login is
/// judged no frame is decoded; `on_login` tells the verdict; from then on everything may come;
/// `on_close` is the last. It is the only one where there are [too many
/// connections](CloseReason::TooManyConnections).
pub trait Protocol: Send + 'static {
    /// Takes the next frame off the front of the input; none if it is not whole yet.
    ///
    /// Most protocols hand this to a [`FrameCodec`](super::FrameCodec).
    ///
    /// # Errors
    /// The bytes are no frame; see [`FrameError::is_fatal`].
    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, FrameError>;

    /// Begins: a device that its certificate names can be identified here.
    fn on_connect(&mut self, _peer: &Peer, _actions: &mut Actions) {}

    /// Takes a frame.
    fn on_frame(&mut self, frame: Bytes, actions: &mut Actions);

    /// Tells that bytes were no frame; after a fatal error, `on_close` follows.
    fn on_frame_error(&mut self, _error: &FrameError, _actions: &mut Actions) {}

    /// Tells what became of a login; after a refusal, `on_close` follows, unless the device was in
    /// before: then what stood stands.
    fn on_login(&mut self, verdict: Result<&DeviceId, &Refusal>, actions: &mut Actions);

    /// Tells what became of an uplink. Only [`Settlement::Accepted`] allows an acknowledgement.
    ///
    /// A connection that ends lets what is in flight settle, and gives back all else as
    /// [`Settlement::RetryLater`]; what is asked for on that answer is dropped.
    fn on_settled(&mut self, token: u64, settlement: Settlement, actions: &mut Actions);

    /// Brings the answer to [`Actions::twin`].
    fn on_twin(
        &mut self,
        _token: u64,
        _answer: Result<TwinReply, Refusal>,
        _actions: &mut Actions,
    ) {
    }

    /// Writes something for the device, and says whether it will confirm it.
    ///
    /// # Errors
    /// The kind of reason why it cannot be written, now or ever. Default: `Unsupported`.
    fn on_command(
        &mut self,
        _command: Command<'_>,
        _actions: &mut Actions,
    ) -> Result<Confirmation, ErrorKind> {
        Err(ErrorKind::Unsupported)
    }

    /// Tells that nobody waits for the confirmation of a command any more.
    fn on_command_expired(&mut self, _tag: u64) {}

    /// How often [`on_heartbeat`](Self::on_heartbeat) is called; asked once, after `on_connect`.
    fn heartbeat(&self) -> Option<Duration> {
        None
    }

    /// Is called in the interval of [`heartbeat`](Self::heartbeat).
    fn on_heartbeat(&mut self, _actions: &mut Actions) {}

    /// Ends: the last bytes. Not called when the device itself is gone.
    fn on_close(&mut self, _reason: CloseReason, _actions: &mut Actions) {}
}

/// Makes a protocol for each connection. Any function from a peer to a protocol is one.
pub trait ProtocolFactory: Send + Sync + 'static {
    /// Makes the protocol of a new connection.
    fn protocol(&self, peer: &Peer) -> Box<dyn Protocol>;
}

impl<F, P> ProtocolFactory for F
where
    F: Fn(&Peer) -> P + Send + Sync + 'static,
    P: Protocol,
{
    fn protocol(&self, peer: &Peer) -> Box<dyn Protocol> {
        Box::new(self(peer))
    }
}

/// Is something to bring to the device.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Command<'a> {
    /// Ties the confirmation to it; counts up from 1 on every connection.
    pub tag: u64,
    /// What to bring; never [`Downlink::End`], which comes as [`CloseReason::Ended`].
    pub downlink: &'a Downlink,
    /// How long somebody waits for the confirmation.
    pub time_left: Duration,
}

impl<'a> Command<'a> {
    /// Makes a command.
    #[must_use]
    pub const fn new(tag: u64, downlink: &'a Downlink, time_left: Duration) -> Self {
        Self {
            tag,
            downlink,
            time_left,
        }
    }
}

/// Says whether a device confirms a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// It does: [`Actions::done`] with the command's tag follows, or the time runs out.
    Awaited,
    /// It does not: the command counts as sent when its bytes are written.
    Never,
}

/// Says why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The protocol asked for it with [`Actions::close`].
    Protocol,
    /// The device did not identify itself in time.
    HelloTimeout,
    /// The device began a frame and did not end it in time.
    FrameTimeout,
    /// No frame came for a long time.
    IdleTimeout,
    /// Bytes were no frame, and the next one cannot be found.
    BadFrame,
    /// The login was refused, at once or by the hub later.
    Refused(Refusal),
    /// The same device has a newer connection.
    Replaced,
    /// The hub ended the device's session.
    Ended {
        /// Why.
        reason: ErrorKind,
        /// What to tell the device or its maker besides.
        detail: Option<&'static str>,
    },
    /// There are as many connections as the gateway allows.
    TooManyConnections,
    /// The gateway shuts down; the device may come back.
    Shutdown,
}

impl CloseReason {
    /// The reason in lower-case words joined by underscores, as used in logs and on wires.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => "closed",
            Self::HelloTimeout => "hello_timeout",
            Self::FrameTimeout => "frame_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::BadFrame => "bad_frame",
            Self::Refused(refusal) => refusal.reason.as_str(),
            Self::Replaced => "replaced",
            Self::Ended { reason, .. } => reason.as_str(),
            Self::TooManyConnections => "too_many_connections",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Is something that a protocol asks its connection for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Request {
    /// See [`Actions::identify`].
    Identify(Login),
    /// See [`Actions::uplink`].
    Uplink {
        /// Comes back with the settlement.
        token: u64,
        /// The message.
        uplink: Uplink,
    },
    /// See [`Actions::twin`].
    Twin {
        /// Comes back with the answer.
        token: u64,
        /// The question.
        request: TwinRequest,
    },
    /// See [`Actions::done`].
    Done {
        /// The command's tag.
        tag: u64,
        /// How it ended.
        result: Result<Delivered, ErrorKind>,
    },
    /// See [`Actions::close`].
    Close,
}

/// Collects what a protocol wants done: bytes for the device, and requests to the connection.
#[derive(Debug, Default)]
pub struct Actions {
    pub(crate) output: BytesMut,
    pub(crate) requests: Vec<Request>,
}

impl Actions {
    /// Makes an empty collection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes on their way to the device; append to them only.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Asks that the device be let in, that it stay in by a new token of its own, or that it hear
    /// something else from now on: one that came by a token needs it for that too.
    /// [`Protocol::on_login`] tells the verdict.
    pub fn identify(&mut self, login: Login) {
        self.requests.push(Request::Identify(login));
    }

    /// Sends an uplink of the identified device on its way. [`Protocol::on_settled`] tells, under
    /// this token, what became of it. One of any other device is refused.
    pub fn uplink(&mut self, token: u64, uplink: Uplink) {
        self.requests.push(Request::Uplink { token, uplink });
    }

    /// Asks the hub about the device's twin. [`Protocol::on_twin`] brings the answer. A
    /// connection's requests are made one after the other, in order.
    pub fn twin(&mut self, token: u64, request: TwinRequest) {
        self.requests.push(Request::Twin { token, request });
    }

    /// Tells how a command ended: the device has it, answered it, or refused it (`Rejected` for
    /// good, `Throttled` for now). What comes too late is dropped, and counted if it answers a
    /// method; unknown tags are ignored.
    pub fn done(&mut self, tag: u64, result: Result<Delivered, ErrorKind>) {
        self.requests.push(Request::Done { tag, result });
    }

    /// Ends the connection once what is in flight has settled and every byte is written.
    pub fn close(&mut self) {
        self.requests.push(Request::Close);
    }

    /// Takes the requests out, for a protocol's own tests.
    pub fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }
}
