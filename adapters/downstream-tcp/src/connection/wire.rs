//! The socket: reads and writes side by side, in one task.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What is read at once.
pub(super) const READ_SIZE: usize = 4096;

/// What one turn with the socket brought.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Every byte is written and flushed.
    pub(super) drained: bool,
    /// Bytes read; zero is the end of the stream.
    pub(super) read: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    /// Bytes read and not decoded yet.
    pub(super) input: BytesMut,
    is_flushed: bool,
    /// The stream gets nothing more until it has passed on what it has.
    is_flushing: bool,
    backlog: Backlog,
}

/// Watches that bytes do not wait too long to be written and flushed: a TLS session takes what the
/// socket does not.
#[derive(Debug, Default)]
struct Backlog {
    /// When the bytes watched have to be out.
    deadline: Option<Instant>,
    /// How many are watched still and not written. Those that came later wait for the next watch,
    /// so that steady new output does not hide that old output is stuck.
    watched: usize,
}

impl Backlog {
    /// Notes what was written. True if that was all that is watched.
    fn wrote(&mut self, count: usize) -> bool {
        self.watched = self.watched.saturating_sub(count);
        self.deadline.is_some() && self.watched == 0
    }

    /// Notes that all that was written is out.
    fn flushed(&mut self) {
        if self.watched == 0 {
            self.deadline = None;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            is_flushed: true,
            is_flushing: false,
            backlog: Backlog::default(),
        }
    }

    /// Starts to watch output that has just come, and what the stream holds back.
    pub(super) fn watch(&mut self, output: &BytesMut, patience: Duration) {
        let is_out = output.is_empty() && self.is_flushed;
        if self.backlog.deadline.is_none() && !is_out {
            self.backlog = Backlog {
                deadline: Some(Instant::now() + patience),
                watched: output.len(),
            };
        }
    }

    /// When the output has to be out.
    pub(super) fn write_deadline(&self) -> Option<Instant> {
        self.backlog.deadline
    }

    /// Writes what there is and reads if asked to, until either makes progress.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn turn(&mut self, output: &mut BytesMut, read: bool) -> io::Result<Progress> {
        poll_fn(|cx| self.poll_turn(cx, output, read)).await
    }

    pub(super) fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        output: &mut BytesMut,
        read: bool,
    ) -> Poll<io::Result<Progress>> {
        let mut progress = Progress::default();
        match self.poll_drain(cx, output) {
            Poll::Ready(drained) => progress.drained = drained?,
            Poll::Pending => {}
        }
        if read {
            // On the stack, since memory of each connection's own would seldom be in the processor's
            // cache; what came takes no more room than it needs.
            let mut room = [MaybeUninit::uninit(); READ_SIZE];
            let mut came = ReadBuf::uninit(&mut room);
            if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, &mut came) {
                result?;
                self.input.extend_from_slice(came.filled());
                progress.read = Some(came.filled().len());
            }
        }
        match progress.drained || progress.read.is_some() {
            true => Poll::Ready(Ok(progress)),
            false => Poll::Pending,
        }
    }

    /// Writes and flushes everything; false if there was nothing to do.
    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        output: &mut BytesMut,
    ) -> Poll<io::Result<bool>> {
        if output.is_empty() && self.is_flushed {
            return Poll::Ready(Ok(false));
        }
        while !(output.is_empty() && self.is_flushed) {
            while !output.is_empty() && !self.is_flushing {
                let count = ready!(Pin::new(&mut self.stream).poll_write(cx, output))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                output.advance(count);
                self.is_flushed = false;
                self.is_flushing = self.backlog.wrote(count);
            }
            self.is_flushing = true;
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            (self.is_flushed, self.is_flushing) = (true, false);
            self.backlog.flushed();
        }
        // What one large message took is not kept for the connection's life.
        if output.try_reclaim(READ_SIZE + 1) {
            *output = BytesMut::new();
        }
        Poll::Ready(Ok(true))
    }

    /// Keeps no memory for input while there is none: a frame that was taken has its own then.
    pub(super) fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Writes the last bytes and says goodbye. What is stuck already has no more time for that than
    /// it had.
    pub(super) async fn close(self, output: &mut BytesMut, patience: Duration) {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let patience = self.write_deadline().map_or(patience, left);
        gateway_net::close(self.stream, output, patience).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_frame_taken_off_the_input_leaves_it_without_memory() {
        let frame = vec![b'x'; 2 * READ_SIZE];
        let (mut device, stream) = duplex(frame.len());
        device.write_all(&frame).await.unwrap();
        let mut wire = Wire::new(stream);
        let mut output = BytesMut::new();
        while wire.input.len() < frame.len() {
            wire.turn(&mut output, true).await.unwrap();
        }
        let taken = wire.input.split_to(frame.len()).freeze();
        wire.shrink();
        assert!(
            taken.is_unique(),
            "the input still holds the frame's memory"
        );
        assert_eq!(wire.input.capacity(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stuck_already_is_not_waited_for_as_long_again_at_the_end() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let (_device, stream) = duplex(1);
        let mut wire = Wire::new(stream);
        let mut output = BytesMut::from("stuck");
        let begun = Instant::now();
        wire.watch(&output, PATIENCE);
        drop(tokio::time::timeout(PATIENCE * 9 / 10, wire.turn(&mut output, true)).await);
        wire.close(&mut output, PATIENCE).await;
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test]
    async fn a_large_message_leaves_the_output_without_its_memory_and_a_small_one_with_it() {
        let (mut device, stream) = duplex(4 * READ_SIZE);
        let mut wire = Wire::new(stream);
        let mut output = BytesMut::new();
        for (length, is_kept) in [(READ_SIZE / 2, true), (16 * READ_SIZE, false)] {
            output.extend_from_slice(&vec![b'x'; length]);
            let mut heard = vec![0; length];
            let (written, heard) =
                tokio::join!(wire.turn(&mut output, false), device.read_exact(&mut heard));
            assert!(written.unwrap().drained && heard.is_ok());
            assert_eq!(output.try_reclaim(length), is_kept, "{length} bytes");
        }
    }
}
