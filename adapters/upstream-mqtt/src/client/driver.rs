//! Opens a connection, then reads and writes for it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, sleep_until, timeout};

use super::codec::{self, ConnAck, Packet, ReadPackets};
use super::handle::Inbox;
use super::ledger::Bounds;
use super::options::Options;
use super::shared::{Served, Shared};
use super::state::{State, Terms};
use super::transport::Wire;
use crate::error::MqttError;

/// Read at once: at first, and at most once a connection has proved busy.
const READ: std::ops::RangeInclusive<usize> = 1024..=64 * 1024;
/// Room for writing that is kept while there is nothing to write.
const KEPT: usize = 64 * 1024;
/// How long the last words may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Greets the broker: CONNECT, then its answer. What was read behind it comes with it.
pub(super) async fn greet(
    wire: &mut Wire,
    options: &Options,
) -> Result<(ConnAck, BytesMut), MqttError> {
    wire.write_all(&codec::connect(options)?)
        .await
        .map_err(MqttError::Connect)?;
    wire.flush().await.map_err(MqttError::Connect)?;
    let mut buffer = BytesMut::new();
    let answer = loop {
        let max = options.limits.max_packet;
        let packet = ReadPackets::new(&mut buffer, options.version, max).next()?;
        match packet {
            Some(Packet::ConnAck(answer)) => break *answer,
            Some(_) => return Err(MqttError::Protocol("no CONNACK at first".into())),
            None => {}
        }
        buffer.reserve(*READ.start());
        let read = read_on(wire, &mut buffer).await;
        if read.map_err(MqttError::Connect)? == 0 {
            return Err(MqttError::Left);
        }
    };
    if answer.code != 0 {
        let (code, text) = (answer.code, answer.text);
        return Err(MqttError::Refused { code, text });
    }
    if answer.max_qos == 0 {
        return Err(MqttError::Unsupported("messages at least once"));
    }
    Ok((answer, buffer))
}

/// Reads what comes next. Zero at the end, which over TLS may come without a last word.
async fn read_on(from: &mut (impl AsyncRead + Unpin), into: &mut BytesMut) -> io::Result<usize> {
    match from.read_buf(into).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}

/// What holds on a connection after the broker's answer.
pub(super) fn terms(options: &Options, answer: &ConnAck) -> Terms {
    let limits = &options.limits;
    let asked = answer.server_keep_alive;
    Terms {
        version: options.version,
        bounds: Bounds {
            in_flight: limits.in_flight.clamp(1, answer.receive_maximum).into(),
            buffer: limits.buffer.max(1),
            queued: limits.queued,
        },
        receive: limits.receive.max(1),
        ordered_acks: options.ordered_acks,
        max_incoming: limits.max_packet,
        keep_alive: asked.map_or(options.keep_alive, |seconds| {
            Duration::from_secs(seconds.into())
        }),
        answer_timeout: limits.answer_timeout,
    }
}

/// Reads and writes for a connection. Dropped, it fails all that is on it.
pub(super) struct Driver {
    pub(super) served: Served,
    pub(super) wire: Wire,
    /// What was read and not looked at.
    pub(super) buffer: BytesMut,
    pub(super) inbox: Arc<dyn Inbox>,
    /// How long the broker may take to read something.
    pub(super) patience: Duration,
}

impl Driver {
    /// Runs until the connection is lost or is to end. Then all that was on it has failed.
    pub(super) async fn run(self) {
        let Self {
            served,
            wire,
            buffer,
            inbox,
            patience,
        } = self;
        let shared = &served.0;
        let (read, write) = split(wire);
        let mut writer = Writer {
            shared: shared.clone(),
            write,
            taken: BytesMut::new(),
            patience,
        };
        let lost = {
            let mut reading = pin!(read_packets(shared, read, buffer, inbox));
            let mut writing = pin!(writer.run());
            let mut watching = pin!(watch(shared));
            tokio::select! {
                biased;
                () = shared.end.cancelled() => None,
                error = &mut reading => Some(error),
                error = &mut writing => Some(error),
                error = &mut watching => Some(error),
            }
        };
        let last_words = async {
            if let Err(error) = writer.finish().await {
                tracing::debug!(error = %error, "The last words were not taken");
            }
        };
        match lost {
            None if shared.is_orderly() => {
                shared.with(State::put_disconnect);
                drop(timeout(CLOSE_PATIENCE, last_words).await);
                shared.conclude(MqttError::Closed);
            }
            None => shared.conclude(MqttError::Closed),
            Some(error) => {
                let has_words = matches!(error, MqttError::Protocol(_));
                tracing::debug!(error = %error, "A connection to the broker has ended");
                shared.conclude(error);
                if has_words {
                    drop(timeout(CLOSE_PATIENCE, last_words).await);
                }
            }
        }
    }
}

/// Reads until the broker closes, or says what cannot be.
async fn read_packets(
    shared: &Arc<Shared>,
    mut read: ReadHalf<Wire>,
    mut buffer: BytesMut,
    inbox: Arc<dyn Inbox>,
) -> MqttError {
    let mut room = *READ.start();
    loop {
        match shared.on_bytes(&mut buffer, &*inbox) {
            Ok(true) => {}
            Ok(false) => {
                // The broker waits with us: its side of the connection fills up.
                shared.room().await;
                continue;
            }
            Err(error) => return error,
        }
        // What a burst needed is not kept for good.
        if buffer.is_empty() && buffer.capacity() > 4 * room {
            buffer = BytesMut::new();
        }
        buffer.reserve(room);
        match read_on(&mut read, &mut buffer).await {
            Ok(0) => return MqttError::Left,
            Ok(read) if read >= room => room = (2 * room).min(*READ.end()),
            Ok(read) if read < room / 4 => room = (room / 2).max(*READ.start()),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %error, "Reading from the broker failed");
                return MqttError::Down;
            }
        }
    }
}

/// Asks for signs of life, and gives up on answers that do not come.
async fn watch(shared: &Shared) -> MqttError {
    loop {
        let now = Instant::now();
        let due = shared.with(|state| {
            state.on_time(now)?;
            Ok(state.next_deadline(now))
        });
        match due {
            Ok(deadline) => sleep_until(deadline).await,
            Err(error) => return error,
        }
    }
}

/// Writes what gathers, all of it at once: a system call and a TLS record for many packets.
struct Writer {
    shared: Arc<Shared>,
    write: WriteHalf<Wire>,
    /// Taken and not written yet.
    taken: BytesMut,
    patience: Duration,
}

impl Writer {
    async fn run(&mut self) -> MqttError {
        loop {
            let shared = self.shared.clone();
            shared.output.notified().await;
            // Whoever else has something to say says it now.
            tokio::task::yield_now().await;
            if let Err(error) = self.write_all().await {
                tracing::debug!(error = %error, "Writing to the broker failed");
                return MqttError::Down;
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
        if self.taken.capacity() > KEPT {
            self.taken = BytesMut::new();
        }
        Ok(())
    }

    /// Takes what has gathered, behind what was left of the last time. False if there is nothing.
    fn take(&mut self) -> bool {
        if self.taken.is_empty() {
            let empty = std::mem::take(&mut self.taken);
            self.taken = self.shared.take_output(empty);
        }
        !self.taken.is_empty()
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.write_all().await?;
        self.write.shutdown().await
    }
}
