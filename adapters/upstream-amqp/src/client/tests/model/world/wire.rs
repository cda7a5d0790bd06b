//! What goes over the wire, and when it is read.

use bytes::BytesMut;
use serde::Serialize;

use super::World;
use crate::client::frame::{self, Frame};
use crate::env::lock;

impl World {
    /// Has the hub read what is new in the output.
    pub(super) fn read(&mut self) {
        let state = lock(&self.hub.shared.state);
        let mut new = BytesMut::from(&state.out.peek()[self.seen..]);
        drop(state);
        self.seen += new.len();
        while let Some(frame) = Frame::split(&mut new, 512).unwrap() {
            let channel = frame.channel;
            if let Some((performative, payload)) = frame.performative().unwrap() {
                self.book.read(channel, performative, &payload);
            }
        }
        assert!(new.is_empty(), "the last frame is whole");
    }

    pub(super) fn write(&mut self) {
        self.read();
        self.hub
            .shared
            .with(|state| drop(state.take_output(BytesMut::new())));
        self.seen = 0;
    }

    pub(super) fn say(&mut self, channel: u16, performative: &impl Serialize, payload: &[u8]) {
        let mut bytes = BytesMut::new();
        frame::put(&mut bytes, channel, performative);
        bytes.extend_from_slice(payload);
        let size = (bytes.len() as u32).to_be_bytes();
        bytes[..4].copy_from_slice(&size);
        self.queue.push_back((channel, bytes.to_vec()));
    }

    /// Has the client hear the next frame.
    pub(super) fn hear(&mut self) {
        let Some((channel, bytes)) = self.queue.pop_front() else {
            return;
        };
        if self.is_over {
            return;
        }
        self.read();
        let frame = Frame::split(&mut BytesMut::from(&bytes[..]), 65_536);
        let frame = frame
            .ok()
            .flatten()
            .and_then(|frame| frame.performative().ok());
        let expected = match frame {
            Some(Some((performative, _))) => self.book.hear(channel, &performative),
            Some(None) => Ok(()),
            None => Err("it cannot be read"),
        };
        match (expected, self.hub.feed(&bytes)) {
            (Ok(()), Ok(())) => {}
            (Ok(()), Err(error)) if !self.is_strange => panic!("the client found fault: {error}"),
            // Once the client has said its close it says nothing more, so that its books are not known.
            (Err(_), Ok(())) if self.book.is_closed => {}
            (Err(fault), Ok(())) => panic!("the client took {fault}"),
            (_, Err(_)) => self.is_over = true,
        }
        self.read();
    }
}
