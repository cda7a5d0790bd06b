//! What a connection makes the hub hold, kept within its bound.

use super::{Connection, SessionSlot};
use crate::amqp::session::Session;
use crate::amqp::{AmqpError, condition};

impl Connection {
    /// Ends what is over the bound, at the cost of who holds it: calls that nobody waits for any more
    /// go first, then the link that holds the most.
    ///
    /// Whatever came last is held by a link as well, so that the end of one is enough.
    pub(super) fn make_room(&mut self) {
        if !self.core.holds_too_much() {
            return;
        }
        for session in open(self.sessions.values_mut()) {
            session.forget_calls(&mut self.core);
        }
        if !self.core.holds_too_much() {
            return;
        }
        let links = open(self.sessions.values_mut()).flat_map(|session| {
            let channel = session.channel;
            let links = session.links();
            links.map(move |(handle, link)| (link.held_bytes(), channel, handle))
        });
        let Some((_, channel, handle)) = links.max() else {
            return;
        };
        if let Some(SessionSlot::Open(session)) = self.sessions.get_mut(&channel) {
            let error = AmqpError::new(
                condition::RESOURCE_LIMIT,
                "The connection leaves too much unfinished or without credit, most of it on this link.",
            );
            session.detach(&mut self.core, handle, Some(&error));
        }
    }
}

fn open<'a>(
    slots: impl Iterator<Item = &'a mut SessionSlot>,
) -> impl Iterator<Item = &'a mut Session> {
    slots.filter_map(|slot| match slot {
        SessionSlot::Open(session) => Some(&mut **session),
        SessionSlot::Ending => None,
    })
}
