//! A client, the futures of its holders, and the hub at its other end.

mod client;
mod end;
mod frames;
mod hub;
mod strange;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::acts::Act;
use super::book::{self, Book, Tag};
use crate::client::error::ClientError;
use crate::client::handle::{Delivery, Receiver, Sender, Session};
use crate::client::link::Delivery as Incoming;
use crate::client::session::{LinkId, Outcome, SessionEvent};
use crate::client::state::SessionKey;
use crate::client::tests::Task;
use crate::client::tests::hub::Hub;

/// Channels and handles are few, so that they are used again.
const CHANNEL_MAX: u16 = 2;
const HANDLE_MAX: u32 = 3;
/// What the hub picks its own from.
const CHANNELS: u16 = 5;
const HANDLES: u32 = 6;

/// What a future is for.
#[derive(Debug, Clone)]
enum Job {
    Begin,
    Attach(String),
    Send(Tag),
    Settled(Tag),
    Receive(String),
    Stop(String),
    Close,
    Watch,
}

/// What became of it.
enum Came {
    Session(Result<Session, ClientError>),
    Sender(Result<Sender, ClientError>),
    Receiver(Result<Receiver, ClientError>),
    Sent(Result<Option<Delivery>, ClientError>),
    Settled(Result<Outcome, ClientError>),
    Received(Result<Incoming, ClientError>),
    Held(Result<Incoming, ClientError>),
    Stopped(Result<(), ClientError>),
    Closed,
    Event(Session, SessionEvent),
}

struct Link {
    name: String,
    half: Half,
    /// Messages sent, and the last received.
    sent: u32,
    last: Option<u32>,
}

#[derive(Clone)]
enum Half {
    Sender(Arc<Mutex<Sender>>),
    Receiver(Arc<Mutex<Receiver>>),
}

pub(in crate::client) struct World {
    hub: Hub,
    book: Book,
    /// Bytes of the output that the hub has read, though they are not written yet.
    seen: usize,
    /// What the hub has said and the client has not heard.
    queue: VecDeque<(u16, Vec<u8>)>,
    sessions: Vec<Session>,
    links: Vec<Link>,
    ids: Vec<(SessionKey, LinkId, String)>,
    received: Vec<(String, u32)>,
    /// Links of settled messages that are held.
    held: Vec<String>,
    tasks: Vec<(Job, Task<Came>)>,
    names: u32,
    deliveries: u32,
    is_strange: bool,
    hub_closed: bool,
    is_over: bool,
}

fn pick<T>(mut list: Vec<T>, which: u8) -> Option<T> {
    match list.len() {
        0 => None,
        len => Some(list.swap_remove(usize::from(which) % len)),
    }
}

impl World {
    pub(super) fn new(room: usize, is_strange: bool) -> Self {
        Self {
            hub: Hub::with(room, 512, CHANNEL_MAX),
            book: Book {
                is_strange,
                ..Book::default()
            },
            seen: 0,
            queue: VecDeque::new(),
            sessions: Vec::new(),
            links: Vec::new(),
            ids: Vec::new(),
            received: Vec::new(),
            held: Vec::new(),
            tasks: Vec::new(),
            names: 0,
            deliveries: u32::MAX - 4,
            is_strange,
            hub_closed: false,
            is_over: false,
        }
    }

    /// Begins sessions, and attaches links to them.
    pub(super) fn open(&mut self, windows: &[u32], links: usize) {
        for window in windows {
            self.act(Act::Begin);
            self.act(Act::Serve(*window));
        }
        for link in 0..links {
            self.act(match link % 3 {
                2 => Act::AttachReceiver(link as u8, 2),
                _ => Act::AttachSender(link as u8),
            });
            self.act(Act::Serve(0));
        }
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Hear(frames) => (0..frames).for_each(|_| self.hear()),
            Act::Run => self.run(),
            Act::Serve(window) => self.serve(window),
            Act::Write => self.write(),
            Act::Begin
            | Act::AttachSender(_)
            | Act::AttachReceiver(..)
            | Act::Send(..)
            | Act::SendSettled(..)
            | Act::Receive(_)
            | Act::Hold(_)
            | Act::Done(_)
            | Act::Stop(_)
            | Act::Settle(..)
            | Act::WatchSession(_)
            | Act::CloseLink(_)
            | Act::DropLink(_)
            | Act::DropSession(_)
            | Act::Cancel(_)
            | Act::Poll(_)
            | Act::Close => self.client(act),
            _ if self.hub_closed || self.is_over => {}
            Act::Strange(strange) => self.strange(strange),
            act => self.hub(act),
        }
        self.read();
    }
}
