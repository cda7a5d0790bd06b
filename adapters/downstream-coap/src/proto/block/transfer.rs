//! A request of ours, its body and that of its response cut into blocks where they are too large.

use bytes::BytesMut;

use super::Block;
use crate::proto::config::BlockConfig;
use crate::proto::message::{Code, Message, Token, option};

/// One request, from its first message to the whole response.
#[derive(Debug)]
pub(crate) struct Transfer {
    request: Message,
    exponent: u8,
    /// The request's body goes in blocks.
    is_cut: bool,
    /// Bytes of the request's body that the peer has.
    sent: usize,
    /// The response, as far as it has come.
    response: Option<(Message, BytesMut)>,
    max_body: usize,
    /// The largest payload that the peer may send at a time; a stream's peer may send many blocks.
    is_stream: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Send(Message),
    Done(Message),
    /// The peer does not keep to the blocks, or its body is too large.
    Failed,
}

impl Transfer {
    /// Begins a request. A body in blocks gets this tag (RFC 9175, section 3).
    pub(crate) fn new(
        mut request: Message,
        tag: u32,
        config: &BlockConfig,
        is_stream: bool,
    ) -> Self {
        let exponent = Block::exponent_of(config.size);
        let is_cut = request.payload.len() > config.size;
        if is_cut {
            request.options.set_uint(option::REQUEST_TAG, tag);
            let size = request.payload.len() as u32;
            request.options.set_uint(option::SIZE1, size);
        }
        Self {
            request,
            exponent,
            is_cut,
            sent: 0,
            response: None,
            max_body: config.max_body,
            is_stream,
        }
    }

    /// The message to send now; its token is the caller's to set.
    pub(crate) fn message(&self) -> Message {
        let mut message = self.request.clone();
        message.token = Token::EMPTY;
        let size = Block::new(0, self.exponent).size();
        if let Some((_, body)) = &self.response {
            message.payload.clear();
            message.options.remove(option::SIZE1);
            let block = Block::new((body.len() / size) as u32, self.exponent);
            block.write(&mut message.options, option::BLOCK2);
        } else if self.is_cut {
            let end = (self.sent + size).min(message.payload.len());
            let more = end < message.payload.len();
            message.payload = message.payload.slice(self.sent..end);
            let block = Block::new((self.sent / size) as u32, self.exponent).with_more(more);
            block.write(&mut message.options, option::BLOCK1);
            if self.sent > 0 {
                message.options.remove(option::SIZE1);
            }
        }
        message
    }

    /// Takes the response to the message sent last.
    pub(crate) fn on_response(&mut self, response: Message) -> Step {
        let block1 = Block::read(&response.options, option::BLOCK1);
        let size = Block::new(0, self.exponent).size();
        if self.response.is_none() && response.code == Code::CONTINUE {
            let next = self.sent + size;
            let here = Block::new((self.sent / size) as u32, self.exponent);
            let is_here = block1.is_some_and(|block| {
                block.offset() == here.offset() && block.exponent <= self.exponent
            });
            if !is_here || next >= self.request.payload.len() {
                return Step::Failed;
            }
            self.exponent = block1.map_or(self.exponent, |block| block.exponent);
            self.sent = next;
            return Step::Send(self.message());
        }
        let smaller = block1.filter(|block| block.exponent < self.exponent);
        if let (Code::TOO_LARGE, 0, Some(block)) = (response.code, self.sent, smaller) {
            self.exponent = block.exponent;
            self.is_cut = true;
            return Step::Send(self.message());
        }
        self.collect(response)
    }

    fn collect(&mut self, response: Message) -> Step {
        let block = Block::read(&response.options, option::BLOCK2);
        let (mut whole, mut body) = match (self.response.take(), block) {
            (None, None) => return self.done(response),
            (None, Some(block)) if block.number > 0 => return Step::Failed,
            (None, Some(_)) => (response.clone(), BytesMut::new()),
            (Some(_), None) if !response.code.is_success() => return Step::Done(response),
            (Some(_), None) => return Step::Failed,
            (Some((whole, body)), Some(_)) => {
                let etag = |message: &Message| message.options.get(option::ETAG).cloned();
                if whole.code != response.code || etag(&whole) != etag(&response) {
                    return Step::Failed;
                }
                (whole, body)
            }
        };
        let Some(block) = block else {
            return Step::Failed;
        };
        let length = response.payload.len();
        let is_sound = match (block.exponent, block.more) {
            (Block::MANY, more) => {
                self.is_stream && (!more || length > 0 && length.is_multiple_of(block.size()))
            }
            (_, true) => length == block.size(),
            (_, false) => length <= block.size(),
        };
        if !is_sound || block.offset() != body.len() || body.len() + length > self.max_body {
            return Step::Failed;
        }
        body.extend_from_slice(&response.payload);
        if block.more {
            // What has come is a multiple of every block size in question: they only get smaller.
            self.exponent = self.exponent.min(block.exponent);
            self.response = Some((whole, body));
            return Step::Send(self.message());
        }
        whole.payload = body.freeze();
        whole.options.remove(option::BLOCK2);
        self.done(whole)
    }

    fn done(&self, response: Message) -> Step {
        match response.payload.len() > self.max_body {
            true => Step::Failed,
            false => Step::Done(response),
        }
    }
}
