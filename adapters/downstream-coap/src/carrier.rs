//! What stands between a socket and the message layer: nothing for plain UDP, else sessions.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::DeviceId;
use tokio::time::Instant;

use crate::dtls::{PskEntry, PskStore, SessionId};

/// Names a peer of one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PeerKey {
    /// Who sends from this address.
    Address(SocketAddr),
    /// Who has this session, at whatever address it is now.
    Session(SessionId),
}

/// What a carrier makes of a datagram, a message or the time.
#[derive(Debug)]
pub(crate) enum Carried {
    /// A CoAP message of a peer, which may be gone by now.
    Message {
        peer: PeerKey,
        sender: Sender,
        bytes: Bytes,
    },
    /// A datagram to be sent as it is.
    Datagram { to: SocketAddr, bytes: Bytes },
    /// The peer's session is over; everything that was known of it is forgotten.
    Closed { peer: PeerKey },
    /// A client waits until its identity was looked up: [`Carrier::identified`].
    Identify {
        session: SessionId,
        identity: String,
        store: Arc<dyn PskStore>,
        /// How long it waits.
        patience: Duration,
    },
}

/// Tells what a carrier knows of a message's sender.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    /// Where it sends from.
    pub(crate) address: SocketAddr,
    /// Who it is, if its session has proved that; else the request has to.
    pub(crate) device: Option<DeviceId>,
    /// It has shown that it receives at its address.
    pub(crate) is_proven: bool,
}

/// Makes CoAP messages of what a socket receives, and datagrams of what it is to send. It does no IO
/// and never waits: one socket task owns it and calls nothing else meanwhile.
pub(crate) trait Carrier: fmt::Debug + Send {
    /// Takes a datagram.
    fn receive(
        &mut self,
        now: Instant,
        source: SocketAddr,
        bytes: &[u8],
        out: &mut VecDeque<Carried>,
    );

    /// Sends a message; one to a peer that is gone is dropped.
    fn send(&mut self, now: Instant, peer: PeerKey, bytes: Bytes, out: &mut VecDeque<Carried>);

    /// Takes what a store says of an identity; `None` if it is unknown or cannot be looked up.
    fn identified(
        &mut self,
        now: Instant,
        session: SessionId,
        entry: Option<PskEntry>,
        out: &mut VecDeque<Carried>,
    );

    /// When [`on_timeout`](Self::on_timeout) is to be called next.
    fn next_timeout(&self) -> Option<Instant>;

    /// Does what the time asks for.
    fn on_timeout(&mut self, now: Instant, out: &mut VecDeque<Carried>);

    /// Takes leave of every peer: the socket is about to be closed.
    fn close(&mut self, now: Instant, out: &mut VecDeque<Carried>);
}

/// Carries messages as they are.
#[derive(Debug)]
pub(crate) struct Plain;

impl Carrier for Plain {
    fn receive(
        &mut self,
        _now: Instant,
        source: SocketAddr,
        bytes: &[u8],
        out: &mut VecDeque<Carried>,
    ) {
        out.push_back(Carried::Message {
            peer: PeerKey::Address(source),
            sender: Sender {
                address: source,
                device: None,
                is_proven: false,
            },
            bytes: Bytes::copy_from_slice(bytes),
        });
    }

    fn send(&mut self, _now: Instant, peer: PeerKey, bytes: Bytes, out: &mut VecDeque<Carried>) {
        if let PeerKey::Address(to) = peer {
            out.push_back(Carried::Datagram { to, bytes });
        }
    }

    fn identified(
        &mut self,
        _now: Instant,
        _session: SessionId,
        _entry: Option<PskEntry>,
        _out: &mut VecDeque<Carried>,
    ) {
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn on_timeout(&mut self, _now: Instant, _out: &mut VecDeque<Carried>) {}

    fn close(&mut self, _now: Instant, _out: &mut VecDeque<Carried>) {}
}
