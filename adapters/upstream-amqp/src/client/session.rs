//! One session: its windows, links and unsettled deliveries (AMQP 1.0, section 2.5).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use fe2o3_amqp_types::definitions::{Error as WireError, Handle, LinkError, Role};
use fe2o3_amqp_types::messaging::{Accepted, DeliveryState, Rejected, Released};
use fe2o3_amqp_types::performatives::{
    Attach, Begin, Detach, Disposition, End, Flow, Transfer as Incoming,
};

use super::error::ClientError;
use super::frame::Transfer;
use super::link::{FIRST, Inbox, Kind, Link, LinkSpec, Outgoing, Phase, Piece, left};
use super::numbers::ByNumber;
use super::outbox::{Outbox, Wakers};

/// Frames that the hub may send before it hears from us.
const WINDOW: u32 = 4096;
/// Links of a session: what every broker known takes.
const HANDLE_MAX: u32 = 65_535;
/// Attaches that nobody waits for any more and the hub has not answered, with which a session is worn
/// out: each keeps its handle, its name and its link, about 200 KB together. Fewer where the hub takes
/// few links, half of them.
const MOST_UNANSWERED: u32 = 1000;

/// What the hub said of a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Accepted,
    Rejected(Option<WireError>),
    /// Not taken, and may be sent again.
    Released,
}

/// What we say of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Reject,
    Release,
}

/// What becomes of a delivery.
#[derive(Debug)]
enum Pending {
    Waiting { handle: u32, waker: Option<Waker> },
    Done(Result<Outcome, ClientError>),
}

/// Tells the holder of a session what happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SessionEvent {
    /// The hub detached the sender of this id.
    Detached(LinkId),
    Ended(ClientError),
}

/// Names a link for as long as its session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(Default))]
pub(crate) struct LinkId {
    pub(super) handle: u32,
    serial: u32,
}

#[derive(Debug)]
pub(super) struct Session {
    /// Differs for every session of a connection, channels being used again.
    pub(super) serial: u32,
    channel: u16,
    pub(super) remote_channel: Option<u16>,
    next_outgoing: u32,
    /// The next message's number; hubs want them without a gap.
    next_delivery: u32,
    /// Frames that the hub takes.
    window: u32,
    next_incoming: u32,
    /// Frames that the hub may still send.
    incoming_window: u32,
    handle_max: u32,
    links: Vec<Option<Link>>,
    free: Vec<u32>,
    serials: u32,
    /// Links that the hub has not answered.
    attaching: HashMap<String, u32>,
    /// How many links that nobody holds any more wait for the hub's answer.
    unanswered: u32,
    by_remote: HashMap<u32, u32>,
    pending: ByNumber<Pending>,
    /// Links that wait for the window, or for room in the outbox.
    blocked: Vec<u32>,
    detached: VecDeque<LinkId>,
    /// Why it is over. That is told its holder; what was on it is only lost, since it is not to blame.
    pub(super) ended: Option<ClientError>,
    /// We have said that it ends.
    pub(super) is_ending: bool,
    waker: Option<Waker>,
}

impl Session {
    pub(super) fn new(serial: u32, channel: u16, out: &mut Outbox) -> Self {
        let begin = Begin {
            remote_channel: None,
            next_outgoing_id: FIRST,
            incoming_window: WINDOW,
            outgoing_window: WINDOW,
            handle_max: Handle(HANDLE_MAX),
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        };
        out.put(channel, &begin);
        Self {
            serial,
            channel,
            remote_channel: None,
            next_outgoing: FIRST,
            next_delivery: FIRST,
            window: 0,
            next_incoming: 0,
            incoming_window: WINDOW,
            handle_max: HANDLE_MAX,
            links: Vec::new(),
            free: Vec::new(),
            serials: 0,
            attaching: HashMap::new(),
            unanswered: 0,
            by_remote: HashMap::new(),
            pending: ByNumber::default(),
            blocked: Vec::new(),
            detached: VecDeque::new(),
            ended: None,
            is_ending: false,
            waker: None,
        }
    }

    // --- What its holder asks. ---

    pub(super) fn poll_begun(&mut self, waker: &Waker) -> Option<Result<(), ClientError>> {
        match (&self.ended, self.remote_channel) {
            (Some(error), _) => Some(Err(error.clone())),
            (None, Some(_)) => Some(Ok(())),
            (None, None) => {
                self.waker = Some(waker.clone());
                None
            }
        }
    }

    pub(super) fn poll_event(&mut self, waker: &Waker) -> Option<SessionEvent> {
        if let Some(link) = self.detached.pop_front() {
            return Some(SessionEvent::Detached(link));
        }
        match &self.ended {
            Some(error) => Some(SessionEvent::Ended(error.clone())),
            None => {
                self.waker = Some(waker.clone());
                None
            }
        }
    }

    /// Says that it ends, if that is not said yet.
    pub(super) fn end(&mut self, out: &mut Outbox) {
        if !self.is_ending {
            self.is_ending = true;
            out.put(self.channel, &End { error: None });
        }
    }

    pub(super) fn attach(
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

    /// Tells whether so many attaches are left unanswered that it should be given up.
    pub(super) fn is_worn_out(&self) -> bool {
        self.unanswered >= MOST_UNANSWERED.min(self.handle_max / 2 + 1)
    }

    pub(super) fn poll_attached(
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

    /// Sends as much of a message as goes; its number, once that is all of it.
    ///
    /// `begun` says whether what has been sent so far is of this message. Else its sender gave it up,
    /// and it is taken back first.
    pub(super) fn send(
        &mut self,
        id: LinkId,
        begun: &mut bool,
        (payload, format, settled): (&[u8], u32, bool),
        out: &mut Outbox,
        waker: &Waker,
    ) -> Result<Option<u32>, ClientError> {
        loop {
            let next_delivery = self.next_delivery;
            let may_send = self.window > 0 && out.has_room();
            let link = self.link(id)?;
            if let Some(error) = link.end_error() {
                return Err(error);
            }
            let Kind::Sender(outgoing) = &mut link.kind else {
                return Err(ClientError::Malformed("a receiver does not send"));
            };
            let may_begin = outgoing.partial.is_some() || outgoing.credit > 0;
            if !may_begin || !may_send {
                link.waker = Some(waker.clone());
                if may_begin && !link.is_blocked {
                    link.is_blocked = true;
                    self.blocked.push(id.handle);
                }
                return Ok(None);
            }
            if let Some(given_up) = outgoing.partial.take_if(|_| !*begun) {
                self.pending.remove(&given_up.delivery);
                self.put_transfer(id.handle, Transfer::Aborted, &[], out);
                continue;
            }
            let piece = outgoing.next_piece(next_delivery, payload.len(), out.largest_piece());
            let Piece { delivery, more, .. } = piece;
            let is_first = piece.bytes.start == 0;
            let transfer = match is_first {
                true => Transfer::First {
                    delivery,
                    format,
                    settled,
                    more,
                },
                false => Transfer::Next { more },
            };
            self.put_transfer(id.handle, transfer, &payload[piece.bytes], out);
            if is_first {
                *begun = true;
                self.next_delivery = next_delivery.wrapping_add(1);
            }
            if is_first && !settled {
                let (handle, waker) = (id.handle, None);
                let waiting = Pending::Waiting { handle, waker };
                self.pending.insert(delivery, waiting);
            }
            if !more {
                return Ok(Some(delivery));
            }
        }
    }

    fn put_transfer(&mut self, handle: u32, transfer: Transfer, piece: &[u8], out: &mut Outbox) {
        out.put_transfer(self.channel, handle, transfer, piece);
        self.next_outgoing = self.next_outgoing.wrapping_add(1);
        self.window -= 1;
    }

    pub(super) fn poll_settled(
        &mut self,
        delivery: u32,
        waker: &Waker,
    ) -> Option<Result<Outcome, ClientError>> {
        let Entry::Occupied(mut pending) = self.pending.entry(delivery) else {
            return Some(Err(ClientError::Down));
        };
        if let Pending::Waiting { waker: slot, .. } = pending.get_mut() {
            *slot = Some(waker.clone());
            return None;
        }
        match pending.remove() {
            Pending::Done(result) => Some(result),
            Pending::Waiting { .. } => None,
        }
    }

    /// Forgets a delivery that nobody waits for.
    pub(super) fn forget(&mut self, delivery: u32) {
        self.pending.remove(&delivery);
    }

    /// Takes a message. One that came settled gives its credit back now, or when it is `done`.
    pub(super) fn poll_received(
        &mut self,
        id: LinkId,
        keeps_credit: bool,
        out: &mut Outbox,
        waker: &Waker,
    ) -> Option<Result<super::link::Delivery, ClientError>> {
        let link = match self.link(id) {
            Ok(link) => link,
            Err(error) => return Some(Err(error)),
        };
        let Kind::Receiver(inbox) = &mut link.kind else {
            return Some(Err(ClientError::Malformed("a sender does not receive")));
        };
        if let Some(delivery) = inbox.queue.pop_front() {
            if delivery.settled && !keeps_credit {
                inbox.done();
                self.top_up(id.handle, out);
            }
            return Some(Ok(delivery));
        }
        if let Some(error) = link.end_error() {
            return Some(Err(error));
        }
        link.waker = Some(waker.clone());
        None
    }

    /// Gives back the credit of a message that came settled.
    pub(super) fn done(&mut self, id: LinkId, out: &mut Outbox) {
        if let Ok(link) = self.link(id)
            && let Kind::Receiver(inbox) = &mut link.kind
        {
            inbox.done();
            self.top_up(id.handle, out);
        }
    }

    /// Tells the hub to send nothing more, and to say when it has heard that.
    pub(super) fn stop(&mut self, id: LinkId, out: &mut Outbox) {
        if let Ok(link) = self.link(id)
            && link.phase == Phase::Attached
            && let Kind::Receiver(inbox) = &mut link.kind
        {
            inbox.stop();
            let (delivery_count, credit) = inbox.standing();
            let flow = Flow {
                handle: Some(Handle(id.handle)),
                delivery_count: Some(delivery_count),
                link_credit: Some(credit),
                echo: true,
                ..self.window_flow()
            };
            out.put(self.channel, &flow);
        }
    }

    pub(super) fn poll_stopped(
        &mut self,
        id: LinkId,
        waker: &Waker,
    ) -> Option<Result<(), ClientError>> {
        let link = match self.link(id) {
            Ok(link) => link,
            Err(error) => return Some(Err(error)),
        };
        match (link.end_error(), &link.kind) {
            (Some(error), _) => Some(Err(error)),
            (None, Kind::Receiver(inbox)) if inbox.is_stopped() => Some(Ok(())),
            _ => {
                link.waker = Some(waker.clone());
                None
            }
        }
    }

    /// Tells the hub what became of a message.
    pub(super) fn settle(
        &mut self,
        id: LinkId,
        delivery: u32,
        verdict: Verdict,
        out: &mut Outbox,
    ) -> Result<(), ClientError> {
        let channel = self.channel;
        let link = self.link(id)?;
        if let Some(error) = link.end_error() {
            return Err(error);
        }
        if let Kind::Receiver(inbox) = &mut link.kind {
            inbox.done();
        }
        let state = match verdict {
            Verdict::Accept => DeliveryState::Accepted(Accepted {}),
            Verdict::Reject => DeliveryState::Rejected(Rejected { error: None }),
            Verdict::Release => DeliveryState::Released(Released {}),
        };
        let disposition = Disposition {
            role: Role::Receiver,
            first: delivery,
            last: None,
            settled: true,
            state: Some(state),
            batchable: false,
        };
        out.put(channel, &disposition);
        self.top_up(id.handle, out);
        Ok(())
    }

    /// Why a link is of no more use, if it is not.
    pub(super) fn end_of(&mut self, id: LinkId) -> Option<ClientError> {
        match self.link(id) {
            Err(error) => Some(error),
            Ok(link) => link.end_error(),
        }
    }

    /// Detaches a link, unless the hub has.
    pub(super) fn detach(&mut self, id: LinkId, out: &mut Outbox, wake: &mut Wakers) {
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
    pub(super) fn poll_closed(
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
    pub(super) fn drop_link(&mut self, id: LinkId, out: &mut Outbox, wake: &mut Wakers) {
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

    fn link(&mut self, id: LinkId) -> Result<&mut Link, ClientError> {
        if self.ended.is_some() {
            return Err(ClientError::Down);
        }
        match self.links.get_mut(id.handle as usize) {
            Some(Some(link)) if link.serial == id.serial => Ok(link),
            _ => Err(ClientError::Detached),
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

    // --- What the hub says. ---

    pub(super) fn on_begin(&mut self, remote: u16, begin: &Begin, wake: &mut Wakers) {
        self.remote_channel = Some(remote);
        self.next_incoming = begin.next_outgoing_id;
        self.window = begin.incoming_window;
        self.handle_max = begin.handle_max.0.min(HANDLE_MAX);
        wake.add(self.waker.take());
    }

    pub(super) fn on_attach(
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

    pub(super) fn on_flow(&mut self, flow: &Flow, out: &mut Outbox, wake: &mut Wakers) {
        let seen = flow.next_incoming_id.unwrap_or(FIRST);
        self.window = left(flow.incoming_window, seen, self.next_outgoing);
        self.wake_blocked(wake);
        let handle = flow.handle.as_ref();
        let handle = handle.and_then(|handle| self.by_remote.get(&handle.0).copied());
        let mut attached = None;
        let mut is_drained = false;
        if let Some(handle) = handle
            && let Some(Some(link)) = self.links.get_mut(handle as usize)
            && link.phase == Phase::Attached
        {
            match &mut link.kind {
                Kind::Sender(outgoing) => {
                    outgoing.grant(flow);
                    is_drained = flow.drain;
                }
                Kind::Receiver(inbox) => inbox.on_flow(),
            }
            wake.add(link.waker.take());
            attached = Some(handle);
        }
        if flow.echo || is_drained {
            let mut answer = self.flow_of(attached);
            answer.drain = is_drained;
            out.put(self.channel, &answer);
        }
    }

    /// Wakes all that wait to send, once they may: who of them still wants to is not known here.
    pub(super) fn wake_blocked(&mut self, wake: &mut Wakers) {
        if self.window == 0 {
            return;
        }
        for handle in self.blocked.drain(..) {
            if let Some(Some(link)) = self.links.get_mut(handle as usize) {
                link.is_blocked = false;
                wake.add(link.waker.take());
            }
        }
    }

    pub(super) fn on_transfer(
        &mut self,
        transfer: Incoming,
        payload: &[u8],
        out: &mut Outbox,
        wake: &mut Wakers,
    ) {
        self.next_incoming = self.next_incoming.wrapping_add(1);
        self.incoming_window = self.incoming_window.saturating_sub(1);
        if self.incoming_window < WINDOW / 2 {
            self.incoming_window = WINDOW;
            out.put(self.channel, &self.flow_of(None));
        }
        let Some(&handle) = self.by_remote.get(&transfer.handle.0) else {
            return;
        };
        let channel = self.channel;
        let Some(Some(link)) = self.links.get_mut(handle as usize) else {
            return;
        };
        // What comes for a link that is being detached goes back to the hub's queue with it.
        let (Kind::Receiver(inbox), Phase::Attached) = (&mut link.kind, link.phase) else {
            return;
        };
        match inbox.take(transfer, payload) {
            Ok(is_whole) => {
                if is_whole {
                    wake.add(link.waker.take());
                }
                // What was taken back leaves room for more; what came may have been the last there was
                // credit for.
                self.top_up(handle, out);
            }
            Err(error) => {
                tracing::warn!(error = %error, "A link of the hub is closed");
                link.phase = Phase::Detaching;
                let condition = WireError::from(LinkError::TransferLimitExceeded);
                out.put(channel, &detach(handle, Some(condition)));
                self.fail_link(handle, &error, wake);
            }
        }
    }

    pub(super) fn on_disposition(
        &mut self,
        disposition: Disposition,
        out: &mut Outbox,
        wake: &mut Wakers,
    ) -> Result<(), ClientError> {
        let Disposition {
            role,
            first,
            last,
            settled,
            state,
            ..
        } = disposition;
        // Role is who speaks: the receiver of what we sent.
        if role != Role::Receiver {
            return Ok(());
        }
        let outcome = match state {
            Some(DeliveryState::Accepted(_)) => Outcome::Accepted,
            Some(DeliveryState::Rejected(rejected)) => Outcome::Rejected(rejected.error),
            Some(DeliveryState::Received(_)) | None if !settled => return Ok(()),
            // Whatever else it is, the hub did not say that it took the message.
            _ => Outcome::Released,
        };
        let last = last.unwrap_or(first);
        if first == last {
            self.conclude(first, &outcome, wake);
        } else {
            let count = last.wrapping_sub(first);
            if count > u32::MAX / 2 {
                return Err(ClientError::Malformed("a range that ends before it begins"));
            }
            if (count as usize) < self.pending.len() {
                for step in 0..=count {
                    self.conclude(first.wrapping_add(step), &outcome, wake);
                }
            } else {
                let within = |id: &u32| id.wrapping_sub(first) <= count;
                let ids: Vec<_> = self.pending.keys().copied().filter(within).collect();
                ids.into_iter()
                    .for_each(|id| self.conclude(id, &outcome, wake));
            }
        }
        if !settled {
            // The hub waits for our word before it forgets (section 2.6.12).
            let confirmed = Disposition {
                role: Role::Sender,
                first,
                last: Some(last),
                settled: true,
                state: None,
                batchable: true,
            };
            out.put(self.channel, &confirmed);
        }
        Ok(())
    }

    fn conclude(&mut self, delivery: u32, outcome: &Outcome, wake: &mut Wakers) {
        if let Some(pending) = self.pending.get_mut(&delivery)
            && let Pending::Waiting { waker, .. } = pending
        {
            wake.add(waker.take());
            *pending = Pending::Done(Ok(outcome.clone()));
        }
    }

    pub(super) fn on_detach(&mut self, detached: Detach, out: &mut Outbox, wake: &mut Wakers) {
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
    fn fail_link(&mut self, handle: u32, error: &ClientError, wake: &mut Wakers) {
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

    /// Fails everything: the session or its connection is gone.
    pub(super) fn fail(&mut self, error: &ClientError, wake: &mut Wakers) {
        self.ended.get_or_insert_with(|| error.clone());
        wake.add(self.waker.take());
        for link in self.links.iter_mut().flatten() {
            wake.add(link.waker.take());
            if let Kind::Sender(outgoing) = &link.kind
                && let Some(partial) = &outgoing.partial
            {
                self.pending.remove(&partial.delivery);
            }
        }
        for pending in self.pending.values_mut() {
            if let Pending::Waiting { waker, .. } = pending {
                wake.add(waker.take());
                *pending = Pending::Done(Err(ClientError::Down));
            }
        }
        // Handles of links that somebody still holds stay void: see `link`.
        self.links = Vec::new();
        self.by_remote = HashMap::new();
        self.attaching = HashMap::new();
        self.blocked = Vec::new();
    }

    /// Tells the hub of new credit, once there is enough of it.
    fn top_up(&mut self, handle: u32, out: &mut Outbox) {
        if let Some(Some(link)) = self.links.get_mut(handle as usize)
            && link.phase == Phase::Attached
            && let Kind::Receiver(inbox) = &mut link.kind
            && let Some((delivery_count, credit)) = inbox.top_up()
        {
            let flow = Flow {
                handle: Some(Handle(handle)),
                delivery_count: Some(delivery_count),
                link_credit: Some(credit),
                ..self.window_flow()
            };
            out.put(self.channel, &flow);
        }
    }

    /// How the session stands, or a link of it.
    fn flow_of(&self, handle: Option<u32>) -> Flow {
        let link = handle.and_then(|handle| self.links.get(handle as usize)?.as_ref());
        let mut flow = self.window_flow();
        match link.map(|link| &link.kind) {
            Some(Kind::Sender(outgoing)) => {
                flow.delivery_count = Some(outgoing.delivery_count);
                flow.link_credit = Some(outgoing.credit);
                flow.available = Some(0);
                flow.handle = handle.map(Handle);
            }
            Some(Kind::Receiver(inbox)) => {
                let (delivery_count, credit) = inbox.standing();
                flow.delivery_count = Some(delivery_count);
                flow.link_credit = Some(credit);
                flow.handle = handle.map(Handle);
            }
            None => {}
        }
        flow
    }

    fn window_flow(&self) -> Flow {
        Flow {
            next_incoming_id: self.remote_channel.map(|_| self.next_incoming),
            incoming_window: self.incoming_window,
            next_outgoing_id: self.next_outgoing,
            outgoing_window: WINDOW,
            handle: None,
            delivery_count: None,
            link_credit: None,
            available: None,
            drain: false,
            echo: false,
            properties: None,
        }
    }

    /// What may be sent on a link now: by us on a sender, by the hub on a receiver.
    pub(super) fn credit(&mut self, id: LinkId) -> u32 {
        match self.link(id).map(|link| &link.kind) {
            Ok(Kind::Sender(outgoing)) => outgoing.credit,
            Ok(Kind::Receiver(inbox)) => inbox.standing().1,
            Err(_) => 0,
        }
    }
}

/// What a session keeps, for tests of what it must not.
#[cfg(any(test, feature = "fuzzing"))]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) sessions: usize,
    pub(super) links: usize,
    pub(super) pending: usize,
    pub(super) waiting: usize,
    /// Names and handles by which links are found.
    pub(super) names: usize,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Session {
    pub(super) fn count(&self, census: &mut Census) {
        census.sessions += 1;
        census.links += self.links.iter().flatten().count();
        census.pending += self.pending.len();
        census.waiting += self.blocked.len();
        census.names += self.attaching.len() + self.by_remote.len() + self.detached.len();
    }
}

fn detach(handle: u32, error: Option<WireError>) -> Detach {
    Detach {
        handle: Handle(handle),
        closed: true,
        error,
    }
}
