//! Commands that wait for their device.

use std::collections::VecDeque;

use gateway_core::ErrorKind;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::registry::Outcome;

#[derive(Debug)]
struct Waiting {
    tag: u64,
    deadline: Instant,
    reply: oneshot::Sender<Outcome>,
}

/// The commands of one connection between being written and being confirmed, few and bounded.
#[derive(Debug, Default)]
pub(super) struct Commands {
    waiting: VecDeque<Waiting>,
    last_tag: u64,
}

impl Commands {
    pub(super) fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn wait(&mut self, tag: u64, deadline: Instant, reply: oneshot::Sender<Outcome>) {
        self.waiting.push_back(Waiting {
            tag,
            deadline,
            reply,
        });
    }

    /// Passes on how a command ended; late and invented answers find nobody.
    pub(super) fn done(&mut self, tag: u64, outcome: Outcome) {
        let at = self.waiting.iter().position(|waiting| waiting.tag == tag);
        if let Some(waiting) = at.and_then(|at| self.waiting.remove(at)) {
            answer(waiting.reply, outcome);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.deadline).min()
    }

    /// Ends a command whose time is up and returns its tag.
    pub(super) fn expire(&mut self, now: Instant) -> Option<u64> {
        let at = self
            .waiting
            .iter()
            .position(|waiting| waiting.deadline <= now)?;
        let waiting = self.waiting.remove(at)?;
        answer(waiting.reply, Err(ErrorKind::TimedOut));
        Some(waiting.tag)
    }
}

/// Answers whoever sent a command, if they still wait.
pub(super) fn answer(reply: oneshot::Sender<Outcome>, outcome: Outcome) {
    drop(reply.send(outcome));
}
