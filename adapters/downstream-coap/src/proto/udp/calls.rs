//! Our requests to one peer.

use std::hash::Hash;
use std::time::Duration;

use super::context::Context;
use super::event::{CallError, CallId, Event};
use super::memory::{Print, Reply};
use super::outbox::{Letter, Purpose};
use super::peer::Peer;
use crate::proto::block::{BASE_MESSAGE_SIZE, Step, Transfer};
use crate::proto::message::{Datagram, Kind, Message, Token};

/// A request of ours that waits for its response.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) serial: u64,
    /// Those of the message sent last; each block has its own.
    token: Token,
    id: u16,
    is_confirmable: bool,
    pub(super) deadline: Duration,
    transfer: Transfer,
}

impl Peer {
    pub(super) fn request<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        request: Message,
        is_confirmable: bool,
    ) -> Result<u64, CallError> {
        if self.calls.len() >= cx.shared.config.limits.max_calls_per_peer {
            return Err(CallError::Busy);
        }
        let tag = cx.shared.random.next() as u32;
        let blocks = &cx.shared.config.blocks;
        let blocks = blocks.within(BASE_MESSAGE_SIZE, &request.options);
        let transfer = Transfer::new(request, tag, &blocks, false);
        let message = transfer.message();
        let serial = cx.serial();
        self.calls.push(Call {
            serial,
            token: Token::EMPTY,
            id: 0,
            is_confirmable,
            deadline: cx.now,
            transfer,
        });
        self.send_call(cx, self.calls.len() - 1, message);
        self.flush(cx);
        Ok(serial)
    }

    fn send_call<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, at: usize, message: Message) {
        let token = loop {
            // 32 bits, so that nobody off the path can guess it (RFC 7252, section 5.3.1).
            let token = Token::from(cx.shared.random.next() as u32);
            if self.calls.iter().all(|call| call.token != token) {
                break token;
            }
        };
        let id = self.fresh_id(cx);
        let call = &mut self.calls[at];
        call.token = token;
        call.id = id;
        call.deadline = cx.now + cx.shared.config.transmission.response_timeout;
        let message = message.with_token(token);
        let (serial, is_confirmable) = (call.serial, call.is_confirmable);
        let kind = match is_confirmable {
            true => Kind::Confirmable,
            false => Kind::NonConfirmable,
        };
        let bytes = Datagram { kind, id, message }.encode();
        match is_confirmable {
            true => {
                let purpose = Purpose::Call(serial);
                self.outbox.push(Letter { id, bytes, purpose });
            }
            false => cx.transmit(bytes),
        }
    }

    /// Takes a response that comes with the acknowledgement of its request.
    pub(super) fn on_piggybacked<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        datagram: Datagram,
    ) {
        let mut calls = self.calls.iter();
        let call = calls.find(|call| call.id == datagram.id);
        let Some(call) = call.filter(|call| call.token == datagram.message.token) else {
            return;
        };
        let serial = call.serial;
        if self.outbox.find(datagram.id).is_some() {
            self.outbox.settle(datagram.id);
            let mut response = datagram.message;
            let is_understood = response.options.sieve().is_ok();
            self.advance(cx, serial, is_understood.then_some(response));
        }
    }

    /// Takes a response that comes apart (RFC 7252, section 5.2.2).
    pub(super) fn on_response<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        datagram: Datagram,
        print: Print,
    ) {
        let is_confirmable = datagram.kind == Kind::Confirmable;
        if let Some(reply) = self.memory.find(print).cloned() {
            match reply {
                Reply::Acknowledgement if is_confirmable => self.acknowledge(cx, print.id),
                Reply::Datagram(bytes) if is_confirmable => self.send(cx, bytes),
                _ => {}
            }
            return;
        }
        let mut message = datagram.message;
        let mut calls = self.calls.iter();
        let known = calls
            .find(|call| call.token == message.token)
            .map(|call| (call.serial, call.id));
        let is_understood = message.options.sieve().is_ok();
        if is_confirmable && known.is_some() && is_understood {
            self.remember(cx, print, Reply::Acknowledgement);
            self.acknowledge(cx, print.id);
        } else if is_confirmable {
            let reset = Datagram::empty(Kind::Reset, print.id).encode();
            self.remember(cx, print, Reply::Datagram(reset.clone()));
            self.send(cx, reset);
        }
        let Some((serial, id)) = known else {
            return;
        };
        // The request has arrived, whatever became of its acknowledgement.
        self.outbox.settle(id);
        self.advance(cx, serial, is_understood.then_some(message));
    }

    /// Ends the non-confirmable request of this id, which the peer has reset.
    pub(super) fn on_call_reset<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, id: u16) {
        let mut calls = self.calls.iter();
        if let Some(call) = calls.find(|call| call.id == id && !call.is_confirmable) {
            self.finish(cx, call.serial, Err(CallError::Reset));
        }
    }

    /// Goes on with a request by its response; `None` if that has options that must be understood
    /// and are not (RFC 7252, section 5.4.1).
    fn advance<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        serial: u64,
        response: Option<Message>,
    ) {
        let Some(at) = self.calls.iter().position(|call| call.serial == serial) else {
            return;
        };
        let transfer = &mut self.calls[at].transfer;
        match response.map_or(Step::Failed, |response| transfer.on_response(response)) {
            Step::Send(message) => self.send_call(cx, at, message),
            Step::Done(response) => self.finish(cx, serial, Ok(response)),
            Step::Failed => self.finish(cx, serial, Err(CallError::Malformed)),
        }
    }

    pub(super) fn expire_calls<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>) {
        let now = cx.now;
        while let Some(call) = self.calls.iter().find(|call| call.deadline <= now) {
            self.finish(cx, call.serial, Err(CallError::TimedOut));
        }
    }

    pub(super) fn finish<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        serial: u64,
        result: Result<Message, CallError>,
    ) {
        if self.withdraw(serial) {
            let peer = cx.peer;
            let call = CallId { peer, serial };
            cx.tell(Event::Response { call, result });
        }
    }

    /// Gives up a call; a response that still comes is reset.
    pub(super) fn withdraw(&mut self, serial: u64) -> bool {
        let before = self.calls.len();
        self.calls.retain(|call| call.serial != serial);
        self.outbox
            .withdraw(|purpose| purpose == Purpose::Call(serial));
        self.calls.len() < before
    }
}
