//! Bodies of requests, put together from their blocks (RFC 7959, section 2.5).

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{Block, name};
use crate::proto::budget::{Budget, Share};
use crate::proto::config::{BlockConfig, LimitConfig};
use crate::proto::message::{Code, Message, option};
use crate::proto::random::Random;

/// Bodies of one peer that are not whole yet.
#[derive(Debug, Default)]
pub(crate) struct Assemblies(Vec<Assembly>);

#[derive(Debug)]
struct Assembly {
    name: u64,
    body: BytesMut,
    forget_at: Duration,
    /// The bytes of the body.
    share: Share,
}

/// What became of a block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The request is whole; its response says so with this option.
    Whole(Message, Option<Block>),
    /// There is this to say, and nothing to do yet.
    Answer(Message),
}

impl Assemblies {
    /// Takes a request, or a block of one.
    pub(crate) fn take(
        &mut self,
        mut request: Message,
        now: Duration,
        (config, limits): (&BlockConfig, &LimitConfig),
        (bytes, random): (&Budget, &Random),
    ) -> Taken {
        let Some(block) = Block::read(&request.options, option::BLOCK1) else {
            return match request.payload.len() > config.max_body {
                true => Taken::Answer(too_large(config)),
                false => Taken::Whole(request, None),
            };
        };
        let length = request.payload.len();
        let is_sound = match (block.more, block.exponent) {
            (true, Block::MANY) => length > 0 && length.is_multiple_of(block.size()),
            (true, _) => length == block.size(),
            (false, Block::MANY) => true,
            (false, _) => length <= block.size(),
        };
        if !is_sound {
            return Taken::Answer(answer(Code::BAD_REQUEST, block));
        }
        let announced = request.options.uint(option::SIZE1).unwrap_or(0) as usize;
        let offset = block.offset();
        let end = offset.saturating_add(length);
        let name = name(&request, true, random);
        if end.max(announced) > config.max_body {
            self.0.retain(|assembly| assembly.name != name);
            return Taken::Answer(too_large(config));
        }
        if offset == 0 {
            self.0.retain(|assembly| assembly.name != name);
            if !block.more {
                return Taken::Whole(request, Some(block));
            }
            if self.0.len() >= config.max_per_peer {
                self.0.remove(0);
            }
            self.0.push(Assembly {
                name,
                body: BytesMut::new(),
                forget_at: now,
                share: bytes.share(),
            });
        }
        let Some(at) = self.0.iter().position(|assembly| assembly.name == name) else {
            return Taken::Answer(answer(Code::INCOMPLETE, block));
        };
        let assembly = &mut self.0[at];
        assembly.forget_at = now + config.timeout;
        if block.more && offset > 0 && end == assembly.body.len() {
            // The answer to this block was lost, and with it the id that it came under.
            return Taken::Answer(answer(Code::CONTINUE, block));
        }
        if offset != assembly.body.len() {
            return Taken::Answer(answer(Code::INCOMPLETE, block));
        }
        if !assembly.share.take(length) {
            self.0.remove(at);
            return Taken::Answer(unavailable(limits));
        }
        assembly.body.extend_from_slice(&request.payload);
        if block.more {
            let wanted = block.at_most(Block::exponent_of(config.size));
            let is_first = offset == 0 && block.exponent != Block::MANY;
            let said = if is_first { wanted } else { block };
            return Taken::Answer(answer(Code::CONTINUE, said));
        }
        let whole = self.0.remove(at);
        request.payload = whole.body.freeze();
        Taken::Whole(request, Some(block))
    }

    /// Forgets what has waited for too long.
    pub(crate) fn expire(&mut self, now: Duration) {
        self.0.retain(|assembly| assembly.forget_at > now);
    }

    /// When the next one is forgotten.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.0.iter().map(|assembly| assembly.forget_at).min()
    }
}

fn answer(code: Code, block: Block) -> Message {
    let mut answer = Message::new(code);
    block.write(&mut answer.options, option::BLOCK1);
    answer
}

fn too_large(config: &BlockConfig) -> Message {
    Message::new(Code::TOO_LARGE).with_uint(option::SIZE1, config.max_body as u32)
}

/// Asks to come back later.
pub(crate) fn unavailable(limits: &LimitConfig) -> Message {
    let seconds = limits.retry_after.as_secs_f64().ceil() as u32;
    Message::new(Code::UNAVAILABLE).with_uint(option::MAX_AGE, seconds.max(1))
}

/// The bytes of a body, for what holds them.
pub(super) fn hold(bytes: &Budget, body: &Bytes) -> Option<Share> {
    let mut share = bytes.share();
    share.take(body.len()).then_some(share)
}
