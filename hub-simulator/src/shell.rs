//! The task around a connection's engine: reads, lets the engine work, writes what has gathered in
//! one go.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use crate::hub::peer::{Notice, Peer};
use crate::hub::state::Now;
use crate::line::Line;

/// Room for one read.
const READ_CHUNK: usize = 32 * 1024;
/// Output that may wait before the hub stops reading.
const MAX_WAITING_OUTPUT: usize = 1024 * 1024;
/// Output that may wait at all: what a peer that does not read makes the hub hold.
const HOPELESS_OUTPUT: usize = 64 * 1024 * 1024;
/// Reads that may follow each other before something is written.
const READS_A_WRITE: u32 = 8;
/// How long a closed connection waits for its peer: to take the last words, then to hang up.
const LINGER: Duration = Duration::from_secs(2);

/// A protocol as a state machine without IO or clock: bytes and notices in, bytes out, the time
/// passed in.
pub(crate) trait Engine {
    /// Consumes what is whole of `input`.
    fn input(&mut self, input: &mut BytesMut, now: Now);

    /// Takes a notice of the hub; what concerns the line itself comes back as an order.
    fn notice(&mut self, notice: Notice, now: Now) -> Option<LineOrder>;

    /// Does what has become due.
    fn on_time(&mut self, now: Now);

    /// When `on_time` next has something to do.
    fn next_deadline(&self) -> Instant;

    /// Goes on with what it held back to be written later; called while there is room for output.
    fn resume(&mut self, _now: Now) {}

    /// Ends a turn: what gathered for efficiency is written out.
    fn end_turn(&mut self);

    /// Takes the output gathered so far.
    fn take_output(&mut self) -> BytesMut;

    /// How much later than made its output leaves.
    fn latency(&self) -> Duration;

    /// Whether nothing is read or said any more.
    fn is_closed(&self) -> bool;
}

/// What the task around an engine has to do itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineOrder {
    Cut,
    Freeze(bool),
}

/// Output on its way, each piece with the time it may leave.
#[derive(Debug, Default)]
struct Outbound {
    pieces: VecDeque<(Instant, BytesMut)>,
    waiting: usize,
    needs_flush: bool,
}

impl Outbound {
    fn push(&mut self, piece: BytesMut, leaves: Instant) {
        if !piece.is_empty() {
            self.waiting += piece.len();
            self.pieces.push_back((leaves, piece));
        }
    }

    fn is_done(&self) -> bool {
        self.pieces.is_empty() && !self.needs_flush
    }

    fn next_leave(&self) -> Option<Instant> {
        self.pieces.front().map(|(leaves, _)| *leaves)
    }

    fn has_work(&self, now: Instant) -> bool {
        self.next_leave()
            .map_or(self.needs_flush, |leaves| leaves <= now)
    }

    /// Writes what may leave, and flushes when all of it is written.
    ///
    /// # Cancel safety
    /// Safe: what was written is accounted for at once.
    async fn work(&mut self, line: &mut (impl AsyncWrite + Unpin), now: Instant) -> io::Result<()> {
        while let Some((leaves, piece)) = self.pieces.front_mut()
            && *leaves <= now
        {
            let written = line.write(piece).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.needs_flush = true;
            self.waiting -= written;
            piece.advance(written);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        line.flush().await?;
        self.needs_flush = false;
        Ok(())
    }
}

/// Drives one connection until it ends; `peer` is its mailbox.
pub(crate) async fn drive(mut line: impl Line, peer: &Peer, mut connection: impl Engine) {
    let mut input = BytesMut::new();
    let mut outbound = Outbound::default();
    let mut frozen = false;
    let mut reads = 0;
    let mut give_up = None;
    let mut timer = pin!(sleep_until(connection.next_deadline()));
    tracing::info!(connection = %peer.id, "Connection is open");
    loop {
        let now = Now::read();
        for notice in peer.collect() {
            match connection.notice(notice, now) {
                Some(LineOrder::Cut) => {
                    line.reset_on_drop();
                    tracing::info!(connection = %peer.id, "Connection is cut by script");
                    return;
                }
                Some(LineOrder::Freeze(freeze)) => frozen = freeze,
                None => {}
            }
        }
        if frozen {
            peer.posted().await;
            continue;
        }
        if connection.next_deadline() <= now.instant {
            connection.on_time(now);
        }
        if outbound.waiting < MAX_WAITING_OUTPUT {
            connection.resume(now);
        }
        connection.end_turn();
        outbound.push(connection.take_output(), now.instant + connection.latency());
        if outbound.waiting > HOPELESS_OUTPUT {
            line.reset_on_drop();
            tracing::warn!(connection = %peer.id, bytes = outbound.waiting, "Connection is cut: its peer does not read");
            return;
        }
        if connection.is_closed() {
            let until = *give_up.get_or_insert(now.instant + connection.latency() + LINGER);
            if outbound.is_done() || now.instant >= until {
                break;
            }
        }
        let deadline = give_up.unwrap_or_else(|| connection.next_deadline());
        let may_read = !connection.is_closed()
            && outbound.waiting < MAX_WAITING_OUTPUT
            && reads < READS_A_WRITE;
        let may_write = outbound.has_work(now.instant);
        if !may_write {
            reads = 0;
        }
        let wake = outbound
            .next_leave()
            .filter(|_| !may_write)
            .map_or(deadline, |leaves| leaves.min(deadline));
        // Moving the timer costs more than letting it ring for nothing now and then.
        if wake < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(wake);
        }
        input.reserve(READ_CHUNK);
        let event = tokio::select! {
            biased;
            () = peer.posted() => Ok(Event::Woken),
            read = read_or_write(&mut line, &mut input, &mut outbound, now.instant, may_read, may_write) => read,
            () = timer.as_mut() => Ok(Event::Woken),
        };
        match event {
            Ok(Event::Woken) => {}
            Ok(Event::Written) => reads = 0,
            Ok(Event::Read(0)) => {
                tracing::info!(connection = %peer.id, "Connection is closed by its peer");
                return;
            }
            Ok(Event::Read(_)) => {
                reads += 1;
                connection.input(&mut input, Now::read());
                if input.is_empty() && input.capacity() > 4 * READ_CHUNK {
                    input = BytesMut::new();
                }
            }
            Err(error) => {
                tracing::info!(connection = %peer.id, %error, "Connection is lost");
                return;
            }
        }
    }
    drop(connection);
    tracing::info!(connection = %peer.id, "Connection is closed");
    linger(line).await;
}

enum Event {
    Woken,
    Written,
    Read(usize),
}

/// Reads if there is something to read, else writes.
async fn read_or_write(
    line: &mut (impl AsyncRead + AsyncWrite + Unpin),
    input: &mut BytesMut,
    outbound: &mut Outbound,
    now: Instant,
    may_read: bool,
    may_write: bool,
) -> io::Result<Event> {
    poll_fn(|cx| {
        if may_read && let Poll::Ready(read) = pin!(line.read_buf(input)).poll(cx) {
            return Poll::Ready(read.map(Event::Read));
        }
        if may_write && let Poll::Ready(written) = pin!(outbound.work(line, now)).poll(cx) {
            return Poll::Ready(written.map(|()| Event::Written));
        }
        Poll::Pending
    })
    .await
}

/// Hangs up in a way that lets the peer read the last words before it.
pub(crate) async fn linger(mut line: impl Line) {
    let hang_up = async {
        line.shutdown().await?;
        let mut sink = [0; 1024];
        while line.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    match timeout(LINGER, hang_up).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "The peer was gone first"),
        Err(_elapsed) => tracing::trace!("The peer does not hang up"),
    }
}
