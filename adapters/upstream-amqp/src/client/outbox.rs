//! What waits to be written, and who is to be woken.

use std::fmt;
use std::task::Waker;

use bytes::BytesMut;
use serde::Serialize;

use super::frame::{self, Transfer};

/// Bytes that may wait to be written, beyond the room, before a hub that sends and does not read is
/// given up.
const UNREAD: usize = 8 << 20;

/// Frames that gather until the connection's writer takes them all at once.
pub(super) struct Outbox {
    buffer: BytesMut,
    /// Bytes above which no message is added; the frames that links and settlement need are.
    room: usize,
    largest_frame: usize,
    /// The close has been said, and with it the last word (section 2.4.3).
    is_shut: bool,
}

/// What gathers is tokens and what devices say: it stays out of sight.
impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("len", &self.buffer.len())
            .field("is_shut", &self.is_shut)
            .finish_non_exhaustive()
    }
}

impl Outbox {
    pub(super) fn new(room: usize, largest_frame: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            room,
            largest_frame,
            is_shut: false,
        }
    }

    pub(super) fn put(&mut self, channel: u16, performative: &impl Serialize) {
        if !self.is_shut {
            frame::put(&mut self.buffer, channel, performative);
        }
    }

    pub(super) fn put_transfer(
        &mut self,
        channel: u16,
        handle: u32,
        transfer: Transfer,
        payload: &[u8],
    ) {
        if !self.is_shut {
            frame::put_transfer(&mut self.buffer, channel, handle, transfer, payload);
        }
    }

    /// Keeps the connection alive, if nothing else does.
    pub(super) fn put_heartbeat(&mut self) {
        if !self.is_shut && self.buffer.is_empty() {
            frame::put_empty(&mut self.buffer);
        }
    }

    /// Lets nothing follow what is there.
    pub(super) fn shut(&mut self) {
        self.is_shut = true;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Tells whether more waits than a hub that reads leaves there.
    pub(super) fn is_unread(&self) -> bool {
        self.buffer.len() > self.room + UNREAD
    }

    pub(super) fn has_room(&self) -> bool {
        self.buffer.len() < self.room && !self.is_shut
    }

    /// Bytes of a message that a transfer frame carries at most.
    pub(super) fn largest_piece(&self) -> usize {
        self.largest_frame - frame::HEADER - frame::TRANSFER_OVERHEAD
    }

    /// Takes all that has gathered, in exchange for an empty buffer.
    pub(super) fn take(&mut self, empty: BytesMut) -> BytesMut {
        std::mem::replace(&mut self.buffer, empty)
    }
}

/// Gathers whom to wake, since that is done without the lock.
#[derive(Debug, Default)]
pub(super) struct Wakers(Vec<Waker>);

impl Wakers {
    pub(super) fn add(&mut self, waker: Option<Waker>) {
        self.0.extend(waker);
    }

    pub(super) fn wake(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Outbox {
    /// What has gathered.
    pub(super) fn peek(&self) -> &[u8] {
        &self.buffer
    }
}
