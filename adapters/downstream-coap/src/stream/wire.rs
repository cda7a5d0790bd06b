//! A connection's bytes: reads and writes side by side, in one task.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::proto::tcp::Session;

/// Room made for one read.
const READ_SIZE: usize = 2048;
/// Room below which more is made.
const LEAST_ROOM: usize = 512;

/// What one turn brought.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Bytes were written, or all of them flushed.
    pub(super) written: bool,
    /// Bytes read; zero is the end of the stream.
    pub(super) read: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    /// Bytes read that are no whole message yet.
    pub(super) input: BytesMut,
    output: BytesMut,
    is_flushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            is_flushed: true,
        }
    }

    /// Takes what the session has to say, when everything before it is written.
    pub(super) fn fill(&mut self, session: &mut Session) {
        if self.output.is_empty() && session.unwritten() > 0 {
            self.output = session.take_output();
            self.is_flushed = false;
        }
    }

    /// Bytes that were taken and are not written yet.
    pub(super) fn unwritten(&self) -> usize {
        self.output.len()
    }

    /// Tells whether there is nothing to write.
    pub(super) fn is_flushed(&self) -> bool {
        self.is_flushed
    }

    /// Reads and writes, each if asked to, until either makes progress.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn turn(&mut self, reads: bool, writes: bool) -> io::Result<Moved> {
        poll_fn(|cx| self.poll_turn(cx, reads, writes)).await
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        reads: bool,
        writes: bool,
    ) -> Poll<io::Result<Moved>> {
        let mut moved = Moved::default();
        if writes && let Poll::Ready(written) = self.poll_write(cx) {
            written?;
            moved.written = true;
        }
        if reads {
            if self.input.capacity() - self.input.len() < LEAST_ROOM {
                self.input.reserve(READ_SIZE);
            }
            if let Poll::Ready(count) = pin!(self.stream.read_buf(&mut self.input)).poll(cx) {
                moved.read = Some(count?);
            }
        }
        match moved.written || moved.read.is_some() {
            true => Poll::Ready(Ok(moved)),
            false => Poll::Pending,
        }
    }

    /// Writes what can be written at once; flushes behind the last byte.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut is_written = false;
        while !self.output.is_empty() {
            let Poll::Ready(count) = Pin::new(&mut self.stream).poll_write(cx, &self.output) else {
                return match is_written {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Pending,
                };
            };
            match count? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.output.advance(count),
            }
            is_written = true;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.is_flushed = true;
        self.output = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Gives back what the messages read took. How much that was the buffer does not tell: what is
    /// cut off it holds on to all of it.
    pub(super) fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Writes the last bytes and says goodbye.
    pub(super) async fn close(self, session: &mut Session, patience: Duration) {
        let last = self.output.chain(session.take_output());
        gateway_net::close(self.stream, last, patience).await;
    }
}
