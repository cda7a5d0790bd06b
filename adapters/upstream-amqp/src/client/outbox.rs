//! What waits to be written, and who waits to be woken.

use std::task::Waker;

use bytes::BytesMut;
use serde::Serialize;

use super::frame;

/// Frames that gather until the connection's writer takes them all at once.
#[derive(Debug)]
pub(super) struct Outbox {
    buffer: BytesMut,
    /// Bytes above which no message is added; the frames that links and settlement need are.
    room: usize,
    largest_frame: usize,
    blocked: Vec<Waker>,
}

impl Outbox {
    pub(super) fn new(room: usize, largest_frame: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            room,
            largest_frame,
            blocked: Vec::new(),
        }
    }

    pub(super) fn largest_frame(&self) -> usize {
        self.largest_frame
    }

    pub(super) fn put(&mut self, channel: u16, performative: &impl Serialize) {
        frame::put(&mut self.buffer, channel, performative);
    }

    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.buffer.len() < self.room
    }

    /// Has a message wait for room.
    pub(super) fn block(&mut self, waker: &Waker) {
        self.blocked.push(waker.clone());
    }

    /// Takes all that has gathered, in exchange for an empty buffer.
    pub(super) fn take(&mut self, empty: BytesMut, wake: &mut Wakers) -> BytesMut {
        self.blocked
            .drain(..)
            .for_each(|waker| wake.add(Some(waker)));
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
