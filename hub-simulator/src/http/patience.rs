//! A line that gives up on a peer which does not read.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Fails a write that has made no progress for too long.
pub(super) struct PatientLine<L> {
    line: L,
    patience: Duration,
    /// Rings when the write that waits has waited too long.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<L> PatientLine<L> {
    pub(super) fn new(line: L, patience: Duration) -> Self {
        Self {
            line,
            patience,
            waiting: None,
        }
    }

    pub(super) fn into_inner(self) -> L {
        self.line
    }

    /// Passes on what a write came to, unless it has waited too long.
    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = None;
            return result;
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        waiting
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<L: AsyncRead + Unpin> AsyncRead for PatientLine<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_read(cx, into)
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for PatientLine<L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.line).poll_write(cx, bytes);
        self.bound(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.line).poll_flush(cx);
        self.bound(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.line).poll_shutdown(cx);
        self.bound(cx, result)
    }
}
