//! Commands that wait for their device.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use gateway_core::{Delivered, Downlink, ErrorKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Connection, Standing};
use crate::proto::{Command, Confirmation};
use crate::registry::{Delivery, Outcome};

/// Methods whose time ran out that a connection remembers, to tell a late answer from an invented
/// one.
const REMEMBERED: usize = 32;

#[derive(Debug)]
struct Waiting {
    tag: u64,
    is_method: bool,
    deadline: Instant,
    reply: oneshot::Sender<Outcome>,
}

/// The commands of one connection between being written and being confirmed, few and bounded.
#[derive(Debug, Default)]
pub(super) struct Commands {
    waiting: VecDeque<Waiting>,
    /// Methods that were not answered in time, oldest first.
    expired: VecDeque<u64>,
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

    /// Passes on how a command ended. True if that was a method for which nobody waits any more;
    /// invented and repeated answers find nobody either.
    #[must_use]
    pub(super) fn done(&mut self, tag: u64, outcome: Outcome) -> bool {
        let at = self.waiting.iter().position(|waiting| waiting.tag == tag);
        if let Some(waiting) = at.and_then(|at| self.waiting.remove(at)) {
            return waiting.reply.send(outcome).is_err() && waiting.is_method;
        }
        let at = self.expired.iter().position(|expired| *expired == tag);
        at.and_then(|at| self.expired.remove(at)).is_some()
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
        if waiting.is_method {
            if self.expired.len() == REMEMBERED {
                self.expired.pop_front();
            }
            self.expired.push_back(waiting.tag);
        }
        answer(waiting.reply, Err(ErrorKind::TimedOut));
        Some(waiting.tag)
    }
}

/// Answers whoever sent a command, if they still wait.
pub(super) fn answer(reply: oneshot::Sender<Outcome>, outcome: Outcome) {
    drop(reply.send(outcome));
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn takes_commands(&self) -> bool {
        let limits = &self.shared.config.limits;
        matches!(self.standing, Standing::Known { .. })
            && self.commands.len() < limits.max_commands
            && self.unwritten.len() < limits.max_commands
            && self.actions.output.len() < limits.max_unwritten
    }

    /// Takes a delivery. While none is on its way the channel is left alone: a look at its memory
    /// with each message costs more than all the rest of this.
    pub(super) fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Box<Delivery>> {
        if self.is_listening && self.sender.capacity() == self.sender.max_capacity() {
            return Poll::Pending;
        }
        let polled = self.deliveries.poll_recv(cx);
        self.is_listening = polled.is_pending();
        match polled {
            Poll::Ready(Some(delivery)) => Poll::Ready(delivery),
            _ => Poll::Pending,
        }
    }

    pub(super) fn command(&mut self, delivery: Box<Delivery>) {
        let Delivery {
            downlink,
            reply,
            deadline,
        } = *delivery;
        let time_left = deadline.saturating_duration_since(Instant::now());
        if reply.is_closed() || time_left.is_zero() {
            return answer(reply, Err(ErrorKind::TimedOut));
        }
        let tag = self.commands.next_tag();
        let command = Command::new(tag, &downlink, time_left);
        match self.protocol.on_command(command, &mut self.actions) {
            Err(kind) => answer(reply, Err(kind)),
            Ok(Confirmation::Awaited) => self.commands.waiting.push_back(Waiting {
                tag,
                is_method: matches!(downlink, Downlink::Method(_)),
                deadline,
                reply,
            }),
            Ok(Confirmation::Never) if self.actions.output.is_empty() => {
                answer(reply, Ok(Delivered::Sent));
            }
            Ok(Confirmation::Never) => self.unwritten.push(reply),
        }
        self.obey();
    }
}
