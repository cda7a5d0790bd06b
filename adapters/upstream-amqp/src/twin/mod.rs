//! A device's twin: its questions and their answers, and changes of the desired properties.

#[cfg(not(feature = "fuzzing"))]
mod wire;
#[cfg(feature = "fuzzing")]
pub(crate) mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, OptionFuture};
use gateway_core::governor::{Class, Operation as Budgeted, Priority, Turn};
use gateway_core::{
    DesiredChange, DesiredChanges, Disposition, LinkPurpose, TwinReply, TwinRequest, desired_of,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::attach::note_throttle;
use crate::client::{Receiver, Sender};
use crate::commands::{Ask, Site, open};
use crate::error::AmqpError;
use wire::{Answer, Heard, Operation};

/// Serves the twin until nobody asks for it and it is not listened to.
pub(crate) async fn run(site: Arc<Site>, wait: Option<Duration>) -> Result<(), AmqpError> {
    let opening = async {
        site.turn(Class::Quiet, wait).await;
        site.open_pair("twin", "twin").await
    };
    let unwanted = site.inbox.until_unwanted(LinkPurpose::Twin);
    let Some((answers, requests)) = open(unwanted, opening).await? else {
        return Ok(());
    };
    let _open = site.inbox.opened(LinkPurpose::Twin, answers.id());
    let room = site.env.config.commands.credit as usize;
    let twin = Twin {
        answers,
        requests,
        serial: 0,
        pending: BTreeMap::new(),
        outgoing: VecDeque::new(),
        is_subscribed: false,
        changes: DesiredChanges::new(site.device.desired(), room),
        delivering: None,
        fetch: Fetch::Idle,
        failures: 0,
        used: Instant::now(),
        site: &site,
    };
    twin.serve().await
}

/// Who waits for an answer.
#[derive(Debug)]
enum Asker {
    Device {
        answer: oneshot::Sender<Result<TwinReply, AmqpError>>,
        reads: bool,
    },
    Subscription,
    Fetch,
    Nobody,
}

#[derive(Debug)]
struct Pending {
    deadline: Instant,
    asker: Asker,
}

/// How far the fetch of all desired properties is.
enum Fetch {
    Idle,
    /// Waits after one that failed.
    Due(Instant),
    /// Waits for its turn.
    Turn(BoxFuture<'static, ()>),
    Asked,
}

/// The open links.
struct Twin<'a> {
    site: &'a Arc<Site>,
    answers: Receiver,
    requests: Sender,
    serial: u64,
    /// Requests without an answer, in the order in which their time is up.
    pending: BTreeMap<u64, Pending>,
    /// Requests that wait for the hub, by the same numbers.
    outgoing: VecDeque<(u64, Bytes)>,
    is_subscribed: bool,
    changes: DesiredChanges,
    delivering: Option<BoxFuture<'static, (DesiredChange, Disposition)>>,
    fetch: Fetch,
    /// Fetches that failed one after the other, or brought what the device missed again.
    failures: u32,
    /// When the device last had a use for the links.
    used: Instant,
}

impl Twin<'_> {
    async fn serve(mut self) -> Result<(), AmqpError> {
        loop {
            self.adjust()?;
            let due = self.due();
            let has_room = self.pending.len() < self.most();
            let first = self.outgoing.front().cloned();
            let (sending, asker) = match first {
                Some((id, request)) => (
                    Some(self.requests.send_settled(request)),
                    self.pending.get_mut(&id).map(|pending| &mut pending.asker),
                ),
                None => (None, None),
            };
            let sending = OptionFuture::from(sending);
            let gone = OptionFuture::from(match asker {
                Some(Asker::Device { answer, .. }) => Some(answer.closed()),
                _ => None,
            });
            let delivered = OptionFuture::from(self.delivering.as_mut());
            let turn = OptionFuture::from(match &mut self.fetch {
                Fetch::Turn(turn) => Some(turn),
                _ => None,
            });
            let (inbox, is_subscribed) = (&self.site.inbox, self.is_subscribed);
            tokio::select! {
                biased;
                () = inbox.until_twin_news(is_subscribed, has_room) => {
                    if inbox.is_left() {
                        return Ok(());
                    }
                }
                Some(()) = gone => {}
                Some(sent) = sending => {
                    self.outgoing.pop_front();
                    sent?;
                }
                heard = self.answers.recv() => self.hear(&heard?.payload)?,
                Some((change, disposition)) = delivered => self.delivered(&change, disposition),
                Some(()) = turn => {
                    self.fetch = Fetch::Asked;
                    self.send(Operation::Get, &[], Asker::Fetch)?;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if self.is_idle() {
                        return Ok(());
                    }
                    self.expire()?;
                }
            }
        }
    }

    fn most(&self) -> usize {
        self.site.env.config.commands.twin_requests
    }

    /// Does what there is to do: subscribes, asks, fetches, delivers.
    fn adjust(&mut self) -> Result<(), AmqpError> {
        self.drop_unwanted();
        let wants_changes = self.site.inbox.wants_changes();
        if wants_changes && !self.is_subscribed {
            self.send(Operation::Subscribe, &[], Asker::Subscription)?;
            self.changes.subscribed();
        } else if !wants_changes && self.is_subscribed {
            self.send(Operation::Unsubscribe, &[], Asker::Nobody)?;
            self.changes.unsubscribed();
            self.fetch = Fetch::Idle;
            // What comes later says nothing of what happens until the device listens again.
            for Pending { asker, .. } in self.pending.values_mut() {
                if let Asker::Fetch = asker {
                    *asker = Asker::Nobody;
                }
            }
        }
        self.is_subscribed = wants_changes;
        while self.pending.len() < self.most()
            && let Some(ask) = self.site.inbox.take_ask()
        {
            self.ask(ask)?;
        }
        if self.changes.is_behind()
            && let Fetch::Idle = self.fetch
        {
            self.fetch = Fetch::Turn(self.turn());
        }
        if self.delivering.is_none()
            && let Some(change) = self.changes.pop()
        {
            self.deliver(change);
        }
        Ok(())
    }

    /// Drops what nobody waits for any more: what the hub has not been asked, it is not asked later.
    fn drop_unwanted(&mut self) {
        let pending = &mut self.pending;
        self.outgoing.retain(|(id, _)| {
            let is_gone = match pending.get(id).map(|pending| &pending.asker) {
                Some(Asker::Device { answer, .. }) => answer.is_closed(),
                Some(_) => false,
                None => true,
            };
            if is_gone {
                pending.remove(id);
            }
            !is_gone
        });
    }

    /// Waits for the turn of a fetch, behind those that somebody waits for.
    fn turn(&self) -> BoxFuture<'static, ()> {
        let site = self.site.clone();
        Box::pin(async move {
            let priority = Priority::new(Class::Quiet, site.device.active());
            let turn = Turn::default();
            site.env.door.pass(Budgeted::Twin, priority, &turn).await;
        })
    }

    fn ask(&mut self, ask: Ask) -> Result<(), AmqpError> {
        self.used = Instant::now();
        let (operation, body, reads) = match &ask.request {
            TwinRequest::Get => (Operation::Get, Bytes::new(), true),
            TwinRequest::PatchReported(patch) => (Operation::Patch, patch.clone(), false),
            other => {
                let error = AmqpError::Unexpected(format!("the request {other:?} is not known"));
                ask.answer(Err(error));
                return Ok(());
            }
        };
        let answer = ask.answer;
        self.send(operation, &body, Asker::Device { answer, reads })
    }

    fn send(&mut self, operation: Operation, body: &[u8], asker: Asker) -> Result<(), AmqpError> {
        self.serial += 1;
        let request = wire::request(self.serial, operation, body)?;
        self.outgoing.push_back((self.serial, request));
        let deadline = Instant::now() + self.site.env.config.wire.answer_timeout;
        self.pending
            .insert(self.serial, Pending { deadline, asker });
        Ok(())
    }

    fn hear(&mut self, payload: &[u8]) -> Result<(), AmqpError> {
        match wire::read(payload) {
            Ok(Heard::Change { version, body }) => {
                if self.is_subscribed {
                    self.changes.take(version, body);
                }
                Ok(())
            }
            Ok(Heard::Answer(id, answer)) => {
                if let Err(error) = &answer {
                    note_throttle(&self.site.env, Budgeted::Twin, error);
                }
                // One that comes too late is nobody's.
                match id.and_then(|id| self.pending.remove(&id)) {
                    Some(pending) => self.answered(pending.asker, answer),
                    None => Ok(()),
                }
            }
            // A change that is lost so leaves a gap, and an answer's time runs out.
            Err(error) => {
                let device = &self.site.device.id;
                tracing::warn!(device.id = %device, error = %error, "Twin message dropped");
                Ok(())
            }
        }
    }

    fn answered(
        &mut self,
        asker: Asker,
        answer: Result<Answer, AmqpError>,
    ) -> Result<(), AmqpError> {
        match (asker, answer) {
            (Asker::Device { answer: to, reads }, answer) => {
                let read = match &answer {
                    Ok(answer) if reads => desired_of(&answer.body),
                    _ => None,
                };
                let reply = answer.map(|answer| TwinReply::new(answer.body, answer.version));
                let is_told = to.send(reply).is_ok();
                // Whoever asked may have gone: then the device has not read it.
                if let Some((version, _)) = read
                    && is_told
                    && self.changes.read(version)
                {
                    self.site.device.set_desired(version, false);
                }
            }
            (Asker::Fetch, Ok(answer)) => match desired_of(&answer.body) {
                Some((version, body)) => self.fetched(version, body),
                None => self.fetch_again(),
            },
            (Asker::Fetch, Err(error)) => {
                let device = &self.site.device.id;
                tracing::debug!(device.id = %device, error = %error, "Twin not fetched yet");
                self.fetch_again();
            }
            (Asker::Subscription, Err(error)) => {
                let text = format!("no changes of the twin: {error}");
                return Err(AmqpError::Unexpected(text));
            }
            (Asker::Subscription | Asker::Nobody, _) => {}
        }
        Ok(())
    }

    fn fetched(&mut self, version: u64, body: Bytes) {
        if !self.is_subscribed {
            return;
        }
        if !self.changes.fetched(version, body) {
            return self.fetch_again();
        }
        self.fetch = Fetch::Idle;
        // Where it is given something, it is known when it has it.
        if self.delivering.is_some() || self.changes.is_waiting() {
            return;
        }
        self.failures = 0;
        if self.site.device.desired() == 0 {
            self.site.device.set_desired(self.changes.known(), false);
        }
    }

    fn fetch_again(&mut self) {
        let wait = self.site.env.config.commands.reopen.delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.fetch = Fetch::Due(Instant::now() + wait);
    }

    fn deliver(&mut self, change: DesiredChange) {
        let device = &self.site.device;
        let patch = change.patch(device.id.clone());
        let callback = device.callback();
        self.delivering = Some(Box::pin(async move {
            let disposition = callback.on_desired(patch).await;
            (change, disposition)
        }));
    }

    fn delivered(&mut self, change: &DesiredChange, disposition: Disposition) {
        self.delivering = None;
        if disposition != Disposition::Abandon {
            self.failures = 0;
            let device = &self.site.device;
            return device.set_desired(change.version, change.is_whole);
        }
        self.changes.missed();
        let known = self.changes.known();
        self.site.device.set_desired(known, false);
        match self.is_subscribed {
            true => self.fetch_again(),
            // It is fetched when the device listens again.
            false => self.changes.unsubscribed(),
        }
    }

    /// Tells whether the links have no use, and had none for a while.
    fn is_idle(&self) -> bool {
        let linger = self.site.env.config.commands.twin_idle;
        !self.is_subscribed && self.pending.is_empty() && self.used.elapsed() >= linger
    }

    /// When there is something to do unless something happens before.
    fn due(&self) -> Option<Instant> {
        let answer = self.pending.values().next().map(|first| first.deadline);
        let fetch = match self.fetch {
            Fetch::Due(at) => Some(at),
            _ => None,
        };
        let linger = self.site.env.config.commands.twin_idle;
        let idle = !self.is_subscribed && self.pending.is_empty();
        let idle = idle.then_some(self.used + linger);
        [answer, fetch, idle].into_iter().flatten().min()
    }

    /// Gives up what is not answered in time, and fetches again what could not be fetched.
    fn expire(&mut self) -> Result<(), AmqpError> {
        let now = Instant::now();
        if let Fetch::Due(at) = self.fetch
            && at <= now
        {
            self.fetch = Fetch::Idle;
        }
        while let Some(first) = self.pending.first_entry()
            && first.get().deadline <= now
        {
            let asker = first.remove().asker;
            self.answered(asker, Err(AmqpError::Unanswered("a twin request")))?;
        }
        Ok(())
    }
}
