//! Links of a session: attached, detached, lost.

use std::task::Waker;

use fe2o3_amqp_types::definitions::{Error as WireError, Handle};
use fe2o3_amqp_types::performatives::{Attach, Detach};

use super::{LinkId, Pending, Session};
use crate::client::error::ClientError;
use crate::client::link::{Inbox, Kind, Link, LinkSpec, Outgoing, Phase};
use crate::client::outbox::{Outbox, Wakers};

/// Attaches that nobody waits for any more and the hub has not answered, with which a session is worn
/// out: each keeps its handle, its name and its link, about 200 KB together. Fewer where the hub takes
/// few links, half of them.
const MOST_UNANSWERED: u32 = 1000;

impl Session {
    pub(in crate::client) fn attach(
        &mut self,
        spec: LinkSpec,
        credit: Option<u32>,
        out: &mut Outbox,
    ) -> Result<LinkId, ClientError> {
        if self.ended.is_some() {
            return Err(ClientError::Down);
        }
        let handle = match self.free.pop() {
            Some(handle) => handle,
            None if self.links.len() as u32 > self.handle_max => {
                return Err(ClientError::Full("no handle is left on the session"));
            }
            None => {
                self.links.push(None);
                self.links.len() as u32 - 1
            }
        };
        self.serials = self.serials.wrapping_add(1);
        let kind = match credit {
            None => Kind::Sender(Outgoing::new()),
            Some(credit) => Kind::Receiver(Box::new(Inbox::new(credit))),
        };
        let link = Link {
            serial: self.serials,
            phase: Phase::Attaching,
            kind,
            remote: None,
            end: None,
            is_dropped: false,
            waker: None,
            is_blocked: false,
        };
        let id = LinkId {
            handle,
            serial: link.serial,
        };
        self.attaching.insert(spec.name.clone(), handle);
        out.put(self.channel, &spec.attach(handle, link.role()));
        self.links[handle as usize] = Some(link);
        Ok(id)
    }

    /// Tells whether so many attaches are left unanswered that it should be given up, or no handle is
    /// left because of links that nobody holds any more: when the hub answers these nobody knows.
    pub(in crate::client) fn is_worn_out(&self) -> bool {
        let is_full = self.free.is_empty() && self.links.len() as u32 > self.handle_max;
        let is_dropped = |link: &Option<Link>| link.as_ref().is_some_and(|link| link.is_dropped);
        self.unanswered >= MOST_UNANSWERED.min(self.handle_max / 2 + 1)
            || is_full && self.links.iter().any(is_dropped)
    }

    pub(in crate::client) fn poll_attached(
        &mut self,
        id: LinkId,
        waker: &Waker,
    ) -> Option<Result<(), ClientError>> {
        let link = match self.link(id) {
            Ok(link) => link,
            Err(error) => return Some(Err(error)),
        };
        match (link.end_error(), link.phase) {
            (Some(error), _) => Some(Err(error)),
            (None, Phase::Attached) => Some(Ok(())),
            _ => {
                link.waker = Some(waker.clone());
                None
            }
        }
    }

    /// Why a link is of no more use, if it is not.
    pub(in crate::client) fn end_of(&mut self, id: LinkId) -> Option<ClientError> {
        match self.link(id) {
            Err(error) => Some(error),
            Ok(link) => link.end_error(),
        }
    }

    /// Detaches a link, unless the hub has.
    pub(in crate::client) fn detach(&mut self, id: LinkId, out: &mut Outbox, wake: &mut Wakers) {
        let channel = self.channel;
        let Ok(link) = self.link(id) else { return };
        if link.phase != Phase::Attached {
            return;
        }
        link.phase = Phase::Detaching;
        out.put(channel, &detach(id.handle, None));
        self.fail_link(id.handle, &ClientError::Detached, wake);
    }

    /// The answer to our detach.
    pub(in crate::client) fn poll_closed(
        &mut self,
        id: LinkId,
        waker: &Waker,
    ) -> Option<Result<(), ClientError>> {
        match self.link(id) {
            Err(error) => Some(Err(error)),
            Ok(link) if link.phase == Phase::Ended => Some(Ok(())),
            Ok(link) => {
                link.waker = Some(waker.clone());
                None
            }
        }
    }

    /// Lets go of a link: nobody holds it any more.
    pub(in crate::client) fn drop_link(&mut self, id: LinkId, out: &mut Outbox, wake: &mut Wakers) {
        self.detach(id, out, wake);
        let Ok(link) = self.link(id) else { return };
        link.is_dropped = true;
        link.waker = None;
        match link.phase {
            Phase::Attaching => self.unanswered += 1,
            Phase::Ended => self.release(id.handle),
            Phase::Attached | Phase::Detaching => {}
        }
    }

    fn release(&mut self, handle: u32) {
        if let Some(slot) = self.links.get_mut(handle as usize)
            && let Some(link) = slot.take()
        {
            if link.is_blocked {
                self.blocked.retain(|blocked| *blocked != handle);
            }
            self.free.push(handle);
        }
    }

    pub(in crate::client) fn on_attach(
        &mut self,
        attach: &Attach,
        out: &mut Outbox,
        wake: &mut Wakers,
    ) -> Result<(), ClientError> {
        let asked = self.attaching.get(&attach.name).copied();
        let channel = self.channel;
        let Some((handle, Some(link))) =
            asked.and_then(|handle| Some((handle, self.links.get_mut(handle as usize)?.as_mut())))
        else {
            // This client serves no links; the hub opens none.
            return Ok(());
        };
        if link.role() == attach.role {
            // Nor one that has the name of ours, which is of the other direction.
            return Ok(());
        }
        self.attaching.remove(&attach.name);
        if self.by_remote.insert(attach.handle.0, handle).is_some() {
            return Err(ClientError::Malformed("a handle that is in use"));
        }
        link.remote = Some(attach.handle.0);
        let is_refused = match link.kind {
            Kind::Sender(_) => attach.target.is_none(),
            Kind::Receiver(_) => attach.source.is_none(),
        };
        if is_refused {
            // Why, the detach that follows says (section 2.6.3).
            return Ok(());
        }
        if link.is_dropped {
            self.unanswered -= 1;
            link.phase = Phase::Detaching;
            out.put(channel, &detach(handle, None));
            return Ok(());
        }
        link.phase = Phase::Attached;
        if let Kind::Receiver(inbox) = &mut link.kind {
            inbox.begin(attach.initial_delivery_count.unwrap_or(0));
        }
        wake.add(link.waker.take());
        self.top_up(handle, out);
        Ok(())
    }

    pub(in crate::client) fn on_detach(
        &mut self,
        detached: Detach,
        out: &mut Outbox,
        wake: &mut Wakers,
    ) {
        let Some(handle) = self.by_remote.remove(&detached.handle.0) else {
            return;
        };
        let channel = self.channel;
        let Some(Some(link)) = self.links.get_mut(handle as usize) else {
            return;
        };
        let id = LinkId {
            handle,
            serial: link.serial,
        };
        let was_attached = link.phase == Phase::Attached;
        if link.is_dropped && link.phase == Phase::Attaching {
            self.unanswered -= 1;
        }
        if link.phase != Phase::Detaching {
            // In the order of the wire nothing of this link comes after it: the handle is free.
            out.put(channel, &detach(handle, None));
        }
        link.phase = Phase::Ended;
        link.remote = None;
        wake.add(link.waker.take());
        if link.is_dropped {
            self.release(handle);
            return;
        }
        let error = detached.error.map_or(ClientError::Detached, Into::into);
        let is_sender = matches!(link.kind, Kind::Sender(_));
        self.fail_link(handle, &error, wake);
        if was_attached && is_sender {
            self.detached.push_back(id);
            wake.add(self.waker.take());
        }
    }

    /// Fails what waits on a link. What the hub has not settled, it may have or not.
    pub(super) fn fail_link(&mut self, handle: u32, error: &ClientError, wake: &mut Wakers) {
        if let Some(Some(link)) = self.links.get_mut(handle as usize) {
            link.end.get_or_insert_with(|| Box::new(error.clone()));
            wake.add(link.waker.take());
            // What was not sent whole has no delivery that waits for it.
            if let Kind::Sender(outgoing) = &mut link.kind
                && let Some(partial) = outgoing.partial.take()
            {
                self.pending.remove(&partial.delivery);
            }
        }
        for pending in self.pending.values_mut() {
            if let Pending::Waiting { handle: on, waker } = pending
                && *on == handle
            {
                wake.add(waker.take());
                *pending = Pending::Done(Err(error.clone()));
            }
        }
    }
}

/// A detach for good.
pub(super) fn detach(handle: u32, error: Option<WireError>) -> Detach {
    Detach {
        handle: Handle(handle),
        closed: true,
        error,
    }
}
