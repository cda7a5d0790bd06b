//! Bodies of responses, given out in blocks (RFC 7959, section 2.4).

use std::ops::Range;
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
pub(crate) struct Bodies {
    list: Vec<Body>,
    /// Until then the peer may ask for blocks of what it was given last, or before that.
    asked_until: Duration,
}

/// What a body is the answer to, by its serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Exchange(u64),
    Observation(u64),
}

#[derive(Debug)]
struct Body {
    name: u64,
    /// `None` where nobody is told when it was fetched.
    source: Option<Source>,
    response: Message,
    /// The exponent of the largest block that fits beside its options.
    largest: u8,
    /// Bytes that the peer has asked for and was sent, without a gap.
    fetched: usize,
    /// What is asked for may be meant for a body before this one.
    is_doubtful: bool,
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

/// What a request for a later block gets.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) answer: Message,
    /// Of which body the block is, if somebody is to be told.
    pub(crate) source: Option<Source>,
    /// Which bytes of it those are.
    pub(crate) part: Range<usize>,
}

impl Bodies {
    /// Answers a request for a later block without asking the handler; `None` if it has to be asked.
    /// It does not count as fetched before it is [sent](Self::sent).
    pub(crate) fn find(
        &mut self,
        wanted: &Wanted,
        now: Duration,
        config: &BlockConfig,
    ) -> Option<Found> {
        let block = wanted.block.filter(|block| block.number > 0)?;
        self.asked_until = now + config.timeout;
        let Some(body) = self.list.iter_mut().find(|body| body.name == wanted.name) else {
            // What changes something is not done again for a block.
            return (!wanted.is_safe).then(|| Found {
                answer: Message::new(Code::INCOMPLETE),
                source: None,
                part: 0..0,
            });
        };
        body.forget_at = now + config.timeout;
        let block = block.at_most(body.largest);
        let (start, answer) = (block.offset(), slice(&body.response, block, wanted));
        Some(Found {
            source: body.source.filter(|_| !body.is_doubtful),
            part: start..start + answer.payload.len(),
            answer,
        })
    }

    /// Notes that such a part was sent. Gives what the body is the answer to, if the peer has now
    /// asked for all of it.
    pub(crate) fn sent(&mut self, wanted: &Wanted, part: Range<usize>) -> Option<Source> {
        let body = self.list.iter_mut().find(|body| body.name == wanted.name);
        let body = body.filter(|body| !body.is_doubtful)?;
        let (length, before) = (body.response.payload.len(), body.fetched);
        if part.start <= before {
            body.fetched = before.max(part.end);
        }
        let is_last = before < length && body.fetched == length;
        body.source.filter(|_| is_last)
    }

    /// Makes the response to be sent: the whole, one block of it, or that nothing has changed.
    /// The rest of a body is kept until it is fetched, if there is room. Tells whether there is a
    /// rest.
    pub(crate) fn respond(
        &mut self,
        mut response: Message,
        (wanted, source): (&Wanted, Option<Source>),
        now: Duration,
        config: &BlockConfig,
        (bytes, random): (&Budget, &Random),
    ) -> (Message, bool) {
        if let Some(block) = wanted.block1 {
            block.write(&mut response.options, option::BLOCK1);
        }
        let etag = response.options.get(option::ETAG);
        if response.code == Code::CONTENT && etag.is_some_and(|etag| wanted.etags.contains(etag)) {
            response.code = Code::VALID;
            response.payload = Bytes::new();
            response.options.remove(option::CONTENT_FORMAT);
            return (response, false);
        }
        // A body that was not fetched whole is old now; but the state that an observation began with
        // is what a notification tells the change of.
        let is_change = matches!(source, Some(Source::Observation(_)));
        let is_base = |body: &Body| is_change && matches!(body.source, Some(Source::Exchange(_)));
        self.list
            .retain(|body| body.name != wanted.name || is_base(body));
        let asked = wanted.block.unwrap_or(Block::new(0, Block::LARGEST));
        let ours = Block::new(0, Block::exponent_of(config.size));
        let most = match wanted.block {
            Some(block) if block.exponent != Block::MANY => block.size().min(ours.size()),
            _ => config.size,
        };
        let length = response.payload.len();
        if asked.number == 0 && length <= most {
            if let Some(block) = wanted.block {
                let said = match length <= ours.size() {
                    true => block.exponent.min(ours.exponent),
                    false => Block::MANY,
                };
                Block::new(0, said).write(&mut response.options, option::BLOCK2);
            }
            return (response, false);
        }
        if !response.options.has(option::ETAG) {
            let etag = random.sign(&response.payload).to_be_bytes();
            response.options.add(option::ETAG, etag.to_vec());
        }
        let answer = slice(&response, asked.at_most(ours.exponent), wanted);
        // Behind a block that is not there the whole is the rest.
        let given = Block::read(&answer.options, option::BLOCK2);
        let has_rest = given.is_none_or(|block| block.more);
        // Who asks for a later block has those before it.
        let end = given.map_or(0, |block| block.offset() + answer.payload.len());
        self.forget(wanted);
        if has_rest {
            self.asked_until = now + config.timeout;
        }
        // Nobody asks again for the last one.
        if has_rest && let Some(share) = hold(bytes, &response.payload) {
            if self.list.len() >= config.max_per_peer {
                self.list.remove(0);
            }
            response.options.remove(option::BLOCK1);
            response.options.remove(option::OBSERVE);
            self.list.push(Body {
                name: wanted.name,
                source,
                response,
                largest: ours.exponent,
                fetched: end,
                is_doubtful: false,
                forget_at: now + config.timeout,
                _share: share,
            });
        }
        (answer, has_rest)
    }

    /// Tells whether the peer may still ask for blocks of what it was given so far: a request does not
    /// say of which state it wants a block.
    pub(crate) fn is_asking(&self, now: Duration) -> bool {
        now < self.asked_until
    }

    /// Has what is asked for of such a body tell nothing about it, or something again: once it is
    /// known that the peer has its first block.
    pub(crate) fn doubt(&mut self, source: Source, is_doubtful: bool) {
        let bodies = self.list.iter_mut();
        for body in bodies.filter(|body| body.source == Some(source)) {
            body.is_doubtful = is_doubtful;
        }
    }

    /// Forgets the body that answers such a request.
    pub(crate) fn forget(&mut self, wanted: &Wanted) {
        self.list.retain(|body| body.name != wanted.name);
    }

    /// Forgets all, for a peer that takes less than these were cut for.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    /// Forgets what was not asked for in time.
    pub(crate) fn expire(&mut self, now: Duration) {
        self.list.retain(|body| body.forget_at > now);
    }

    /// When the next one is forgotten.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.list.iter().map(|body| body.forget_at).min()
    }
}

/// The response with one block of its body.
fn slice(whole: &Message, asked: Block, wanted: &Wanted) -> Message {
    let (start, length) = (asked.offset(), whole.payload.len());
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
