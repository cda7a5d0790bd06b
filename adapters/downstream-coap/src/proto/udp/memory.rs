//! What was said to messages that may come again (RFC 7252, section 4.5).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

/// What a duplicate is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Nothing,
    Acknowledgement,
    Datagram(Bytes),
}

/// The messages of one peer that are done with, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Memory(VecDeque<Known>);

/// A message is known by its id and by what it was: an id that comes round too soon, as of a device
/// that restarts, names another message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print {
    pub(super) id: u16,
    pub(super) hash: u32,
}

#[derive(Debug)]
struct Known {
    print: Print,
    reply: Reply,
    forget_at: Duration,
}

impl Memory {
    pub(super) fn find(&self, print: Print) -> Option<&Reply> {
        // The newest is the likeliest.
        let mut known = self.0.iter().rev();
        known
            .find(|known| known.print == print)
            .map(|known| &known.reply)
    }

    pub(super) fn remember(
        &mut self,
        print: Print,
        reply: Reply,
        forget_at: Duration,
        most: usize,
    ) {
        while self.0.len() >= most {
            self.0.pop_front();
        }
        let known = Known {
            print,
            reply,
            forget_at,
        };
        self.0.push_back(known);
    }

    pub(super) fn expire(&mut self, now: Duration) {
        while self.0.front().is_some_and(|known| known.forget_at <= now) {
            self.0.pop_front();
        }
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
    }

    /// Forgets the oldest before its time.
    pub(super) fn forget_one(&mut self) -> bool {
        self.0.pop_front().is_some()
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.0.front().map(|known| known.forget_at)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
