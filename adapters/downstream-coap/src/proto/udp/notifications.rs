//! One peer's observations (RFC 7641, section 4).

use std::hash::Hash;

use super::context::Context;
use super::event::{EndReason, Event, NotificationOutcome, NotifyError, ObservationId};
use super::observers::Observer;
use super::outbox::{Letter, Purpose};
use super::peer::Peer;
use super::server::Pending;
use crate::proto::block::{BASE_MESSAGE_SIZE, Source};
use crate::proto::message::{Datagram, Kind, Message, option};

impl Peer {
    pub(super) fn register<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        pending: &Pending,
    ) -> Option<u64> {
        if let Some(before) = self.observers.meant(pending.token, &pending.wanted) {
            self.end(cx, before, EndReason::Replaced);
        }
        let most = cx.shared.config.limits.max_observations_per_peer;
        if self.observers.len() >= most || !self.observation_share.take(1) {
            return None;
        }
        let serial = cx.serial();
        self.observers.add(Observer {
            serial,
            token: pending.token,
            wanted: pending.wanted.for_notifications(),
        });
        Some(serial)
    }

    pub(super) fn notify<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        observation: u64,
        mut message: Message,
    ) -> Result<(), NotifyError> {
        let notifying = self.observers.notifying;
        let observer = self.observers.find(observation).ok_or(NotifyError::Gone)?;
        if notifying.is_some() {
            return Err(NotifyError::Busy);
        }
        let (token, wanted) = (observer.token, observer.wanted.clone());
        message.options.set_uint(option::OBSERVE, cx.sequence());
        let shared = &mut *cx.shared;
        let tools = (&shared.block_bytes, &shared.random);
        let blocks = &shared.config.blocks;
        let blocks = blocks.within(BASE_MESSAGE_SIZE, &message.options);
        let source = Source::Observation(observation);
        let bodies = &mut self.bodies;
        // Of one that waits behind something else the peer has nothing yet.
        let is_doubtful = bodies.is_asking(cx.now) || !self.outbox.is_empty();
        let wanted = (&wanted, Some(source));
        let (message, has_rest) = bodies.respond(message, wanted, cx.now, &blocks, tools);
        bodies.doubt(source, is_doubtful);
        let message = message.with_token(token);
        let is_whole = !has_rest;
        let id = self.fresh_id(cx);
        let kind = Kind::Confirmable;
        self.outbox.push(Letter {
            id,
            bytes: Datagram { kind, id, message }.encode(),
            purpose: Purpose::Notification {
                observation,
                is_whole,
            },
        });
        self.observers.notifying = Some(observation);
        self.flush(cx);
        Ok(())
    }

    /// Notes how a notification ended, and ends the observation if that was the end of it.
    pub(super) fn on_notified<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        observation: u64,
        outcome: NotificationOutcome,
    ) {
        self.observers.notifying = None;
        let id = ObservationId {
            peer: cx.peer,
            serial: observation,
        };
        cx.tell(Event::Notified {
            observation: id,
            outcome,
        });
        let reason = match outcome {
            NotificationOutcome::Reset => EndReason::Reset,
            NotificationOutcome::TimedOut => EndReason::TimedOut,
            _ => return,
        };
        self.end(cx, observation, reason);
    }

    /// Notes that the peer has a notification: it acknowledges that very one.
    pub(super) fn on_confirmed<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        observation: u64,
        is_whole: bool,
    ) {
        self.bodies.doubt(Source::Observation(observation), false);
        let outcome = NotificationOutcome::Acknowledged { is_whole };
        self.on_notified(cx, observation, outcome);
    }

    /// Notes that the peer has asked for a block behind the first of a notification, and of nothing
    /// else, and so has that one, whatever became of its acknowledgement.
    pub(super) fn on_continued<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, serial: u64) {
        if self.observers.notifying != Some(serial) {
            return;
        }
        self.drop_notification(serial);
        let outcome = NotificationOutcome::Acknowledged { is_whole: false };
        self.on_notified(cx, serial, outcome);
    }

    fn drop_notification(&mut self, serial: u64) {
        self.outbox.withdraw(|purpose| {
            matches!(purpose, Purpose::Notification { observation, .. } if observation == serial)
        });
    }

    /// Takes back the notification of an observation that is on its way.
    pub(super) fn withdraw_notification<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        serial: u64,
    ) {
        if self.observers.notifying != Some(serial) {
            return;
        }
        self.drop_notification(serial);
        self.on_notified(cx, serial, NotificationOutcome::Withdrawn);
        self.flush(cx);
    }

    /// Ends an observation by an error. To the outbox that is a separate answer to the registration:
    /// nothing takes it back, and it may wait behind notifications.
    pub(super) fn dismiss<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        serial: u64,
        mut message: Message,
    ) {
        let Some(token) = self.observers.find(serial).map(|observer| observer.token) else {
            return;
        };
        self.end(cx, serial, EndReason::Failed);
        if !self.pending_share.take(1) {
            return;
        }
        message.options.set_uint(option::OBSERVE, cx.sequence());
        let (kind, id) = (Kind::Confirmable, self.fresh_id(cx));
        let message = message.with_token(token);
        self.outbox.push(Letter {
            id,
            bytes: Datagram { kind, id, message }.encode(),
            purpose: Purpose::Response(None),
        });
        self.flush(cx);
    }

    /// Ends an observation, with the notification of it that is on its way.
    pub(super) fn end<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        serial: u64,
        reason: EndReason,
    ) {
        if !self.observers.remove(serial) {
            return;
        }
        self.observation_share.give(1);
        let peer = cx.peer;
        let observation = ObservationId { peer, serial };
        self.withdraw_notification(cx, serial);
        cx.tell(Event::Ended {
            observation,
            reason,
        });
    }
}
