//! One connection without IO and without a clock: frames in, frames out (AMQP 1.0, section 2.4).

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::Error as WireError;
use fe2o3_amqp_types::performatives::{Close, End, Performative};

use super::error::ClientError;
use super::frame::{Frame, MAX_FRAME_SIZE};
use super::outbox::{Outbox, Wakers};
use super::session::Session;

/// Begins that nobody waits for any more and the hub has not answered, with which a connection is worn
/// out: each keeps its channel. More than are given up at once while a hub that is well answers.
const MOST_UNANSWERED: usize = 64;

/// Names a session for as long as its connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionKey {
    channel: u16,
    serial: u32,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) out: Outbox,
    pub(super) wake: Wakers,
    sessions: Vec<Option<Session>>,
    by_remote: HashMap<u16, u16>,
    channel_max: u16,
    serials: u32,
    is_closing: bool,
    has_ended: bool,
}

impl State {
    pub(super) fn new(out: Outbox, channel_max: u16) -> Self {
        Self {
            out,
            wake: Wakers::default(),
            sessions: Vec::new(),
            by_remote: HashMap::new(),
            channel_max,
            serials: 0,
            is_closing: false,
            has_ended: false,
        }
    }

    pub(super) fn begin(&mut self) -> Result<SessionKey, ClientError> {
        if self.has_ended || self.is_closing {
            return Err(ClientError::Down);
        }
        let free = self.sessions.iter().position(Option::is_none);
        let channel = free.unwrap_or(self.sessions.len());
        if channel > usize::from(self.channel_max) {
            return Err(ClientError::Full("no channel is left on the connection"));
        }
        self.serials = self.serials.wrapping_add(1);
        let key = SessionKey {
            channel: channel as u16,
            serial: self.serials,
        };
        let session = Session::new(key.serial, key.channel, &mut self.out);
        match free {
            Some(channel) => self.sessions[channel] = Some(session),
            None => self.sessions.push(Some(session)),
        }
        Ok(key)
    }

    /// Tells whether so many begins are left unanswered that it should be given up.
    pub(super) fn is_worn_out(&self) -> bool {
        let sessions = self.sessions.iter().flatten();
        let unanswered = sessions.filter(|s| s.is_ending && s.remote_channel.is_none());
        unanswered.count() >= MOST_UNANSWERED
    }

    /// The session, with what it writes to and whom it wakes.
    pub(super) fn session(
        &mut self,
        key: SessionKey,
    ) -> Result<(&mut Session, &mut Outbox, &mut Wakers), ClientError> {
        match self.sessions.get_mut(usize::from(key.channel)) {
            Some(Some(session)) if session.serial == key.serial => {
                Ok((session, &mut self.out, &mut self.wake))
            }
            _ => Err(ClientError::Down),
        }
    }

    /// Lets go of a session: nobody holds it any more.
    pub(super) fn drop_session(&mut self, key: SessionKey) {
        let is_over = self.has_ended;
        let Ok((session, out, wake)) = self.session(key) else {
            return;
        };
        let has_ended = session.ended.is_some();
        if !has_ended && !is_over {
            session.end(out);
            session.fail(&ClientError::Down, wake);
        }
        // Else the hub's answer frees the channel.
        if has_ended || is_over {
            self.sessions[usize::from(key.channel)] = None;
        }
    }

    /// Takes all that is to be written, and has those that wait for room try again.
    pub(super) fn take_output(&mut self, empty: BytesMut) -> BytesMut {
        for session in self.sessions.iter_mut().flatten() {
            session.wake_blocked(&mut self.wake);
        }
        self.out.take(empty)
    }

    /// Says that the connection ends. What the hub still says is read until it says so too.
    pub(super) fn close(&mut self) {
        if !self.is_closing && !self.has_ended {
            self.is_closing = true;
            self.out.put(0, &Close { error: None });
            self.out.shut();
        }
    }

    /// Fails everything that is on the connection.
    pub(super) fn fail(&mut self, error: &ClientError) {
        self.has_ended = true;
        for session in self.sessions.iter_mut().flatten() {
            session.fail(error, &mut self.wake);
        }
    }

    /// Takes every whole frame off what was read. An error is the end of the connection.
    pub(super) fn on_bytes(&mut self, buffer: &mut BytesMut) -> Result<(), ClientError> {
        while let Some(frame) = Frame::split(buffer, MAX_FRAME_SIZE as usize)? {
            let channel = frame.channel;
            if let Some((performative, payload)) = frame.performative()? {
                self.on_frame(channel, performative, payload)?;
            }
        }
        match self.out.is_unread() {
            true => Err(ClientError::Malformed("the hub sends and does not read")),
            false => Ok(()),
        }
    }

    fn on_frame(
        &mut self,
        channel: u16,
        performative: Performative,
        payload: Bytes,
    ) -> Result<(), ClientError> {
        match performative {
            Performative::Open(_) => {
                return Err(ClientError::Malformed("a second open"));
            }
            Performative::Begin(begin) => {
                // This client answers no begin: the hub begins no session.
                let Some(local) = begin.remote_channel else {
                    return Err(ClientError::Malformed("a session that nobody asked for"));
                };
                let slot = self.sessions.get_mut(usize::from(local));
                let Some(session) = slot.and_then(Option::as_mut) else {
                    return Err(ClientError::Malformed("an answer to no begin"));
                };
                if session.remote_channel.is_some() {
                    return Err(ClientError::Malformed("a second answer to a begin"));
                }
                if self.by_remote.insert(channel, local).is_some() {
                    return Err(ClientError::Malformed("a channel that is in use"));
                }
                session.on_begin(channel, &begin, &mut self.wake);
                return Ok(());
            }
            Performative::Close(close) => {
                let error = close.error.map_or(ClientError::Down, Into::into);
                self.close();
                return Err(error);
            }
            _ => {}
        }
        let Some(&local) = self.by_remote.get(&channel) else {
            return Err(ClientError::Malformed(
                "a frame on a channel without a session",
            ));
        };
        let slot = self.sessions.get_mut(usize::from(local));
        let Some(session) = slot.and_then(Option::as_mut) else {
            return Err(ClientError::Malformed(
                "a frame on a channel without a session",
            ));
        };
        if let Performative::End(end) = performative {
            self.by_remote.remove(&channel);
            self.on_end(local, end.error);
            return Ok(());
        }
        if session.is_ending {
            // Nothing can be answered after our end (section 2.5.7), and nobody is there to hear.
            return Ok(());
        }
        let (out, wake) = (&mut self.out, &mut self.wake);
        match performative {
            Performative::Attach(attach) => session.on_attach(&attach, out, wake)?,
            Performative::Flow(flow) => session.on_flow(&flow, out, wake),
            Performative::Transfer(transfer) => session.on_transfer(transfer, &payload, out, wake),
            Performative::Disposition(disposition) => {
                session.on_disposition(disposition, out, wake)?;
            }
            Performative::Detach(detach) => session.on_detach(detach, out, wake),
            Performative::Open(_)
            | Performative::Begin(_)
            | Performative::End(_)
            | Performative::Close(_) => {}
        }
        Ok(())
    }

    fn on_end(&mut self, channel: u16, error: Option<WireError>) {
        let slot = &mut self.sessions[usize::from(channel)];
        let Some(session) = slot else { return };
        // Ours was said by its holder, who is gone then.
        let is_dropped = session.is_ending;
        if !session.is_ending {
            session.is_ending = true;
            self.out.put(channel, &End { error: None });
        }
        let error = error.map_or(ClientError::Down, Into::into);
        session.fail(&error, &mut self.wake);
        if is_dropped {
            *slot = None;
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl State {
    pub(super) fn census(&self) -> super::session::Census {
        let mut census = super::session::Census::default();
        for session in self.sessions.iter().flatten() {
            session.count(&mut census);
        }
        census.names += self.by_remote.len();
        census
    }
}
