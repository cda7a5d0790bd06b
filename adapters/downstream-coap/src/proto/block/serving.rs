//! Bodies of responses, given out in blocks (RFC 7959, section 2.4).

use std::time::Duration;

use bytes::Bytes;

use super::assembly::hold;
use super::{Block, name};
use crate::proto::budget::{Budget, Share};
use crate::proto::config::BlockConfig;
use crate::proto::message::{Code, Message, option};
use crate::proto::random::Random;

/// Responses of one peer that it fetches block by block.
#[derive(Debug, Default)]
pub(crate) struct Bodies(Vec<Body>);

#[derive(Debug)]
struct Body {
    name: u64,
    response: Message,
    forget_at: Duration,
    /// The bytes of the body.
    _share: Share,
}

/// What a request said of the response that it wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    name: u64,
    block: Option<Block>,
    /// Its body came in blocks, of which this was the last.
    pub(crate) block1: Option<Block>,
    asks_size: bool,
    is_safe: bool,
    etags: Vec<Bytes>,
}

impl Wanted {
    pub(crate) fn of(request: &Message, block1: Option<Block>, random: &Random) -> Self {
        let options = &request.options;
        Self {
            name: name(request, false, random),
            block: Block::read(options, option::BLOCK2),
            block1,
            asks_size: options.has(option::SIZE2),
            is_safe: request.code.is_safe(),
            etags: options.all(option::ETAG).cloned().collect(),
        }
    }

    /// Tells whether two requests ask for the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
    }

    /// What a notification is to be like, after the request that registered for it.
    pub(crate) fn for_notifications(&self) -> Self {
        Self {
            name: self.name,
            block: self.block.map(|block| Block::new(0, block.exponent)),
            is_safe: self.is_safe,
            ..Self::default()
        }
    }
}

impl Bodies {
    /// Answers a request for a later block without asking the handler; `None` if it has to be asked.
    pub(crate) fn find(
        &mut self,
        wanted: &Wanted,
        now: Duration,
        config: &BlockConfig,
    ) -> Option<Message> {
        let block = wanted.block.filter(|block| block.number > 0)?;
        let Some(body) = self.0.iter_mut().find(|body| body.name == wanted.name) else {
            // What changes something is not done again for a block.
            return (!wanted.is_safe).then(|| Message::new(Code::INCOMPLETE));
        };
        body.forget_at = now + config.timeout;
        Some(slice(&body.response, block, wanted, config))
    }

    /// Makes the response to be sent: the whole, one block of it, or that nothing has changed.
    /// The rest of a body is kept until it is fetched, if there is room.
    pub(crate) fn respond(
        &mut self,
        mut response: Message,
        wanted: &Wanted,
        now: Duration,
        config: &BlockConfig,
        (bytes, random): (&Budget, &Random),
    ) -> Message {
        if let Some(block) = wanted.block1 {
            block.write(&mut response.options, option::BLOCK1);
        }
        let etag = response.options.get(option::ETAG);
        if response.code == Code::CONTENT && etag.is_some_and(|etag| wanted.etags.contains(etag)) {
            response.code = Code::VALID;
            response.payload = Bytes::new();
            response.options.remove(option::CONTENT_FORMAT);
            return response;
        }
        let asked = wanted.block.unwrap_or(Block::new(0, Block::LARGEST));
        let most = match wanted.block {
            Some(block) if block.exponent != Block::MANY => block.size().min(config.size),
            _ => config.size,
        };
        let fits = response.payload.len() <= most;
        if asked.number == 0 && fits {
            if let Some(block) = wanted.block {
                let said = Block::new(0, block.exponent.min(Block::exponent_of(config.size)));
                said.write(&mut response.options, option::BLOCK2);
            }
            return response;
        }
        if !response.options.has(option::ETAG) {
            let etag = random.sign(&response.payload).to_be_bytes();
            response.options.add(option::ETAG, etag.to_vec());
        }
        self.0.retain(|body| body.name != wanted.name);
        if let Some(share) = hold(bytes, &response.payload) {
            if self.0.len() >= config.max_per_peer {
                self.0.remove(0);
            }
            let mut kept = response.clone();
            kept.options.remove(option::BLOCK1);
            kept.options.remove(option::OBSERVE);
            self.0.push(Body {
                name: wanted.name,
                response: kept,
                forget_at: now + config.timeout,
                _share: share,
            });
        }
        slice(&response, asked, wanted, config)
    }

    /// Forgets what was not asked for in time.
    pub(crate) fn expire(&mut self, now: Duration) {
        self.0.retain(|body| body.forget_at > now);
    }

    /// When the next one is forgotten.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.0.iter().map(|body| body.forget_at).min()
    }
}

/// The response with one block of its body.
fn slice(whole: &Message, asked: Block, wanted: &Wanted, config: &BlockConfig) -> Message {
    let (asked, length) = (
        asked.at_most(Block::exponent_of(config.size)),
        whole.payload.len(),
    );
    let start = asked.offset();
    if start >= length {
        return Message::new(Code::BAD_REQUEST);
    }
    let end = (start + asked.size()).min(length);
    let mut response = whole.clone();
    response.payload = whole.payload.slice(start..end);
    let block = asked.with_more(end < length);
    block.write(&mut response.options, option::BLOCK2);
    if asked.number == 0 || wanted.asks_size {
        response.options.set_uint(option::SIZE2, length as u32);
    }
    response
}
