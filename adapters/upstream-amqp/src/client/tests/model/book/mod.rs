//! What a hub knows of a client from what it reads and says, kept apart from the client's own books.
//!
//! It reads all that is written at once; what it says is heard later. So each rule is held against
//! what the client had heard by the time it wrote.

mod hear;
mod read;

use std::collections::{HashMap, HashSet};

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::performatives::Performative;

use crate::client::link::FIRST;
use crate::client::session::Outcome;

/// The hub's first transfer of a session.
pub(super) const HUB_FIRST: u32 = u32::MAX - 3;
/// The hub's first delivery of a link, as it counts them.
pub(super) const HUB_COUNT: u32 = u32::MAX - 2;

/// A message's link and its number on that.
pub(super) type Tag = (String, u32);

#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) sessions: Vec<Session>,
    /// The first verdict heard of each message.
    pub(super) verdicts: HashMap<Tag, Outcome>,
    /// Links of which the client has said or heard the end, one way or another.
    pub(super) over: HashSet<String>,
    /// The client has said its close.
    pub(super) is_closed: bool,
    /// The hub does what it must not: what it has sent is not what the client has.
    pub(super) is_strange: bool,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) channel: u16,
    /// What the hub calls it, since it has said so, and since the client has heard.
    pub(super) said_channel: Option<u16>,
    hub_channel: Option<u16>,
    pub(super) has_begun: bool,
    pub(super) is_ended: bool,
    /// The hub has said its end, and the client has heard it.
    pub(super) hub_ended: bool,
    pub(super) heard_end: bool,
    pub(super) handle_max: u32,
    pub(super) next_transfer: u32,
    next_delivery: u32,
    /// Transfers seen and then still taken, as last heard.
    window: (u32, u32),
    pub(super) links: Vec<Link>,
    pub(super) deliveries: Vec<Delivery>,
    heard_transfers: u32,
    /// What the hub has sent.
    pub(super) sent: Vec<Sent>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) handle: u32,
    /// The client sends on it.
    pub(super) is_sender: bool,
    /// What the hub calls it, since it has said so, and since the client has heard.
    pub(super) said_handle: Option<u32>,
    hub_handle: Option<u32>,
    pub(super) is_refused: bool,
    pub(super) is_attached: bool,
    pub(super) is_detached: bool,
    /// The hub has said its detach, and the client has heard it.
    pub(super) hub_detached: bool,
    heard_detach: bool,
    /// Deliveries seen and then still taken, as last heard.
    credit: (u32, u32),
    pub(super) delivery_count: u32,
    partial: Option<(u32, BytesMut)>,
    /// Up to which delivery the hub may send, and what it has sent and the client has heard.
    pub(super) limit: u32,
    pub(super) hub_count: u32,
    heard_count: u32,
    /// The message of which not all frames are heard.
    hears: Option<u32>,
    open: u32,
    /// The client wants to hear how it stands, and nothing more of it.
    pub(super) echo: bool,
    pub(super) is_stopped: bool,
    /// Most messages that the client wants to have.
    pub(super) target: u32,
}

/// A message of the client's.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) id: u32,
    tag: Option<Tag>,
    pub(super) link: usize,
    /// Nothing more is to be said of it; or the hub has said it, though it was not heard yet.
    pub(super) is_settled: bool,
    pub(super) is_judged: bool,
}

/// A message of the hub's.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) id: u32,
    pub(super) link: usize,
    pub(super) is_settled: bool,
    pub(super) is_heard: bool,
}

impl Session {
    pub(super) fn is_over(&self) -> bool {
        self.is_ended && self.heard_end
    }

    fn by_handle(&mut self, handle: u32) -> Option<&mut Link> {
        let live = |link: &&mut Link| link.handle == handle && !link.is_over();
        self.links.iter_mut().find(live)
    }

    /// The link that the client knows the hub's handle to be of.
    fn heard_handle(&mut self, handle: u32) -> Option<usize> {
        let knows = |link: &Link| {
            link.hub_handle == Some(handle)
                && (link.is_attached || link.is_refused)
                && !link.heard_detach
        };
        self.links.iter().position(knows)
    }
}

impl Link {
    pub(super) fn is_over(&self) -> bool {
        self.is_detached && self.heard_detach
    }
}

impl Book {
    /// Reads a frame of the client's, and fails the test if it must not have been written.
    pub(super) fn read(&mut self, channel: u16, frame: Performative, payload: &Bytes) {
        assert!(!self.is_closed, "{frame:?} after the close");
        if let Performative::Close(_) = frame {
            self.is_closed = true;
            return;
        }
        let known = |session: &&mut Session| session.channel == channel && !session.is_over();
        let session = self.sessions.iter_mut().find(known);
        if let Performative::Begin(begin) = frame {
            assert!(session.is_none(), "channel {channel} is in use");
            self.sessions.push(Session::begun(channel, &begin));
            return;
        }
        let session = session.unwrap_or_else(|| panic!("{frame:?} on no session"));
        assert!(!session.is_ended, "{frame:?} after the end");
        match frame {
            Performative::Attach(attach) => session.read_attach(attach),
            Performative::Flow(flow) => session.read_flow(&flow, self.is_strange),
            Performative::Transfer(transfer) => session.read_transfer(&transfer, payload),
            Performative::Disposition(disposition) => session.read_disposition(&disposition),
            Performative::Detach(detach) => {
                assert!(detach.closed);
                let link = session.by_handle(detach.handle.0).expect("a link");
                assert!(!link.is_detached, "a second detach");
                link.is_detached = true;
                self.over.insert(link.name.clone());
            }
            Performative::End(_) => {
                session.is_ended = true;
                let names = session.links.iter().map(|link| link.name.clone());
                self.over.extend(names);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Notes that the client hears this. An error says why the client must give up the connection.
    pub(super) fn hear(&mut self, channel: u16, frame: &Performative) -> Result<(), &'static str> {
        if let Performative::Begin(begin) = frame {
            let in_use = self.heard(channel).is_some();
            let asked = begin.remote_channel;
            let mut sessions = self.sessions.iter_mut();
            let session = sessions.find(|session| {
                Some(session.channel) == asked && !session.is_over() && !session.has_begun
            });
            return match session {
                None => Err("an answer to no begin"),
                Some(_) if in_use => Err("a channel twice"),
                Some(session) => {
                    session.has_begun = true;
                    session.hub_channel = Some(channel);
                    session.said_channel = Some(channel);
                    session.handle_max = begin.handle_max.0;
                    session.window = (FIRST, begin.incoming_window);
                    Ok(())
                }
            };
        }
        if let Performative::Close(_) = frame {
            return Err("the close");
        }
        let Some(at) = self.heard(channel) else {
            return Err("no session");
        };
        let session = &mut self.sessions[at];
        if let Performative::End(_) = frame {
            session.heard_end = true;
            let names = session.links.iter().map(|link| link.name.clone());
            self.over.extend(names);
            return Ok(());
        }
        if session.is_ended {
            return Ok(());
        }
        match frame {
            Performative::Attach(attach) => return session.hear_attach(attach),
            Performative::Flow(flow) => session.hear_flow(flow),
            Performative::Transfer(transfer) => session.hear_transfer(transfer),
            Performative::Disposition(disposition) => {
                let heard = session.hear_disposition(disposition)?;
                for (tag, outcome) in heard {
                    self.verdicts.entry(tag).or_insert(outcome);
                }
            }
            Performative::Detach(detach) => {
                if let Some(link) = session.heard_handle(detach.handle.0) {
                    let link = &mut session.links[link];
                    link.heard_detach = true;
                    self.over.insert(link.name.clone());
                }
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    /// The session that the client knows the hub's channel to be of.
    fn heard(&self, channel: u16) -> Option<usize> {
        let knows = |session: &Session| {
            session.hub_channel == Some(channel) && session.has_begun && !session.heard_end
        };
        self.sessions.iter().position(knows)
    }
}

/// A message says which link it is for.
pub(super) fn write_tag((name, number): &Tag, size: usize) -> Bytes {
    let mut message = format!("{name}#{number}|").into_bytes();
    message.resize(message.len().max(size), b'x');
    message.push(b'.');
    message.into()
}

pub(super) fn read_tag(message: &[u8]) -> Tag {
    let head = message.split(|byte| *byte == b'|').next().unwrap();
    let (name, number) = std::str::from_utf8(head).unwrap().split_once('#').unwrap();
    (name.to_owned(), number.parse().unwrap())
}
