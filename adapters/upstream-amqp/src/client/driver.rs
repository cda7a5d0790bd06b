//! Opens a connection, then reads and writes for it.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use fe2o3_amqp::frames::sasl;
use fe2o3_amqp_types::definitions::Milliseconds;
use fe2o3_amqp_types::performatives::{ChannelMax, MaxFrameSize, Open, Performative};
use fe2o3_amqp_types::sasl::{SaslCode, SaslInit};
use serde_amqp::primitives::Symbol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::error::{ClientError, OpenError};
use super::frame::{self, Frame, MAX_FRAME_SIZE};
use super::handle::{Session, Shared};
use super::outbox::Outbox;
use super::state::State;
use crate::env::lock;

/// Sessions of a connection, as Azure IoT Hub allows them.
const CHANNEL_MAX: u16 = 8191;
/// Read at once.
const READ: usize = 64 * 1024;
/// Our own silence at least, however often a hub wants to hear from us.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);
/// How long the last words may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

const SASL_HEADER: &[u8; 8] = b"AMQP\x03\x01\x00\x00";
const AMQP_HEADER: &[u8; 8] = b"AMQP\x00\x01\x00\x00";

/// How a connection is to be.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) container: String,
    pub(crate) host: String,
    /// Silence of the hub after which the connection is lost, and how long it may leave unread what
    /// we say.
    pub(crate) idle_timeout: Duration,
    /// Our own silence after which an empty frame goes out.
    pub(crate) heartbeat: Duration,
    /// Bytes that gather before messages wait.
    pub(crate) buffer: usize,
}

/// One connection. Its driver runs until it is lost or this says that it ends.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) shared: Arc<Shared>,
}

/// Reads and writes for a connection. Dropped, it fails all that is on it.
#[derive(Debug)]
pub(crate) struct Driver<S> {
    shared: Served,
    read: ReadHalf<S>,
    write: WriteHalf<S>,
    /// What was read and not looked at.
    buffer: BytesMut,
    idle_timeout: Duration,
    heartbeat: Duration,
}

/// A connection for as long as it is driven.
#[derive(Debug)]
struct Served(Arc<Shared>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.with(|state| state.fail(&ClientError::Down));
    }
}

impl Connection {
    /// Greets the hub: SASL ANONYMOUS, then AMQP.
    ///
    /// Cancel safe: the stream is dropped with it.
    pub(crate) async fn open<S: AsyncRead + AsyncWrite>(
        stream: S,
        options: Options,
    ) -> Result<(Self, Driver<S>), OpenError> {
        let (read, write) = split(stream);
        let mut greeting = Greeting {
            read,
            write,
            buffer: BytesMut::new(),
        };
        greeting.sasl(&options.host).await?;
        let open = greeting.open(&options).await?;
        let largest = open.max_frame_size.0.min(MAX_FRAME_SIZE) as usize;
        if largest < 512 {
            return Err(ClientError::Malformed("a largest frame below 512 bytes").into());
        }
        let channel_max = open.channel_max.0.min(CHANNEL_MAX);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(
                Outbox::new(options.buffer, largest),
                channel_max,
            )),
            output: Notify::new(),
        });
        // The hub may want to hear from us more often: half its time-out leaves room for delay.
        let asked = open.idle_time_out.filter(|time| *time > 0);
        let asked = asked.map(|time: Milliseconds| Duration::from_millis(u64::from(time) / 2));
        let driver = Driver {
            shared: Served(shared.clone()),
            read: greeting.read,
            write: greeting.write,
            buffer: greeting.buffer,
            idle_timeout: options.idle_timeout,
            heartbeat: asked
                .map_or(options.heartbeat, |asked| asked.min(options.heartbeat))
                .max(SHORTEST_HEARTBEAT),
        };
        Ok((Self { shared }, driver))
    }

    /// Begins a session.
    ///
    /// Cancel safe: it is ended once the hub has begun it.
    pub(crate) async fn begin(&self) -> Result<Session, ClientError> {
        Session::begin(self.shared.clone()).await
    }

    /// Tells whether the hub has left so many begins unanswered that it should be given up.
    pub(crate) fn is_worn_out(&self) -> bool {
        self.shared.with(|state| state.is_worn_out())
    }
}

/// The exchange before frames flow freely.
struct Greeting<S> {
    read: ReadHalf<S>,
    write: WriteHalf<S>,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite> Greeting<S> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write.write_all(bytes).await?;
        self.write.flush().await
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match self.read.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn header(&mut self, expected: &[u8; 8]) -> Result<(), OpenError> {
        while self.buffer.len() < expected.len() {
            self.read_more().await?;
        }
        match self.buffer.split_to(expected.len()) == expected[..] {
            true => Ok(()),
            false => Err(ClientError::Malformed("another protocol").into()),
        }
    }

    async fn frame(&mut self) -> Result<Frame, OpenError> {
        loop {
            if let Some(frame) = Frame::split(&mut self.buffer, MAX_FRAME_SIZE as usize)? {
                return Ok(frame);
            }
            self.read_more().await?;
        }
    }

    /// Section 5.3.2. Who the devices are, tokens say later.
    async fn sasl(&mut self, host: &str) -> Result<(), OpenError> {
        self.write(SASL_HEADER).await?;
        self.header(SASL_HEADER).await?;
        let sasl::Frame::Mechanisms(offered) = self.frame().await?.sasl()? else {
            return Err(OpenError::Sasl);
        };
        let anonymous = Symbol::from("ANONYMOUS");
        if !offered.sasl_server_mechanisms.0.contains(&anonymous) {
            return Err(OpenError::Sasl);
        }
        let mut init = BytesMut::new();
        let choice = SaslInit {
            mechanism: anonymous,
            initial_response: None,
            hostname: Some(host.to_owned()),
        };
        frame::put_sasl(&mut init, &sasl::Frame::Init(choice));
        self.write(&init).await?;
        match self.frame().await?.sasl()? {
            sasl::Frame::Outcome(outcome) if outcome.code == SaslCode::Ok => Ok(()),
            _ => Err(OpenError::Sasl),
        }
    }

    /// Section 2.4.1.
    async fn open(&mut self, options: &Options) -> Result<Open, OpenError> {
        let mut greeting = BytesMut::from(&AMQP_HEADER[..]);
        let open = Open {
            container_id: options.container.clone(),
            hostname: Some(options.host.clone()),
            max_frame_size: MaxFrameSize(MAX_FRAME_SIZE),
            channel_max: ChannelMax(CHANNEL_MAX),
            // Half of what we wait, since the hub may use all that it is told (section 2.4.5).
            idle_time_out: Some((options.idle_timeout / 2).as_millis() as Milliseconds),
            outgoing_locales: None,
            incoming_locales: None,
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        };
        frame::put(&mut greeting, 0, &open);
        self.write(&greeting).await?;
        self.header(AMQP_HEADER).await?;
        loop {
            match self.frame().await?.performative()? {
                Some((Performative::Open(open), _)) => return Ok(open),
                Some((Performative::Close(close), _)) => {
                    let error = close.error.map_or(ClientError::Down, Into::into);
                    return Err(error.into());
                }
                Some(_) => return Err(ClientError::Malformed("no open").into()),
                None => {}
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite> Driver<S> {
    /// Runs until the connection is lost, or until `close` and the hub's answer to it. Then all that
    /// was on it has failed.
    pub(crate) async fn run(self, close: CancellationToken) -> ClientError {
        let Self {
            shared: served,
            read,
            write,
            buffer,
            idle_timeout,
            heartbeat,
        } = self;
        let shared = &served.0;
        let mut writer = Writer {
            shared: shared.clone(),
            write,
            taken: BytesMut::new(),
            heartbeat,
            patience: idle_timeout,
        };
        let ended = {
            let mut reading = pin!(read_frames(shared, read, buffer, idle_timeout));
            let mut writing = pin!(writer.run());
            let mut either = pin!(async {
                tokio::select! {
                    error = &mut reading => error,
                    error = &mut writing => error,
                }
            });
            tokio::select! {
                error = &mut either => error,
                () = close.cancelled() => {
                    shared.with(State::close);
                    let answered = timeout(CLOSE_PATIENCE, either).await;
                    answered.unwrap_or(ClientError::Down)
                }
            }
        };
        shared.with(|state| state.fail(&ended));
        // Our answer to the hub's close.
        drop(timeout(CLOSE_PATIENCE, writer.finish()).await);
        ended
    }
}

/// Reads until the hub closes, says what cannot be, or falls silent.
async fn read_frames<S: AsyncRead>(
    shared: &Shared,
    mut read: ReadHalf<S>,
    mut buffer: BytesMut,
    idle_timeout: Duration,
) -> ClientError {
    loop {
        if let Err(error) = shared.with(|state| state.on_bytes(&mut buffer)) {
            return error;
        }
        buffer.reserve(READ);
        match timeout(idle_timeout, read.read_buf(&mut buffer)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0)) => return ClientError::Down,
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "Reading from the hub failed");
                return ClientError::Down;
            }
            Err(_) => {
                tracing::debug!(?idle_timeout, "The hub is silent");
                return ClientError::Down;
            }
        }
    }
}

/// Writes what gathers, all of it at once: a system call and a TLS record for many frames.
struct Writer<S> {
    shared: Arc<Shared>,
    write: WriteHalf<S>,
    /// Taken and not written yet.
    taken: BytesMut,
    heartbeat: Duration,
    /// How long the hub may take to read something.
    patience: Duration,
}

impl<S: AsyncWrite> Writer<S> {
    async fn run(&mut self) -> ClientError {
        loop {
            let shared = self.shared.clone();
            if timeout(self.heartbeat, shared.output.notified())
                .await
                .is_err()
            {
                shared.with(|state| state.out.put_heartbeat());
            }
            // Whoever else has something to say says it now.
            tokio::task::yield_now().await;
            if let Err(error) = self.write_all().await {
                tracing::debug!(error = %error, "Writing to the hub failed");
                return ClientError::Down;
            }
        }
    }

    async fn write_all(&mut self) -> io::Result<()> {
        while self.take() {
            while !self.taken.is_empty() {
                let written = timeout(self.patience, self.write.write_buf(&mut self.taken));
                if written.await?? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            timeout(self.patience, self.write.flush()).await??;
        }
        Ok(())
    }

    /// Takes what has gathered, behind what was left of the last time. False if there is nothing.
    fn take(&mut self) -> bool {
        if self.taken.is_empty() {
            let empty = std::mem::take(&mut self.taken);
            let mut state = lock(&self.shared.state);
            self.taken = state.take_output(empty);
            let mut wake = std::mem::take(&mut state.wake);
            drop(state);
            wake.wake();
        }
        !self.taken.is_empty()
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.write_all().await?;
        self.write.shutdown().await
    }
}
