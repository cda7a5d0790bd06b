//! What a device's command task is told, and by whom it is found.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gateway_core::{Interest, LinkPurpose, TwinReply, TwinRequest};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::client::LinkId;
use crate::env::lock;
use crate::error::AmqpError;

/// A question about the twin, and who asks.
pub(crate) struct Ask {
    pub(crate) request: TwinRequest,
    pub(crate) answer: oneshot::Sender<Result<TwinReply, AmqpError>>,
}

impl fmt::Debug for Ask {
    /// Without what a device reports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").finish_non_exhaustive()
    }
}

impl Ask {
    pub(crate) fn answer(self, answer: Result<TwinReply, AmqpError>) {
        // Whoever asked may have gone.
        drop(self.answer.send(answer));
    }
}

/// How a task's life goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    /// Nobody holds the task any more: it gives back what it has and ends.
    Leaving,
    /// It had nothing to do, and is gone. Another may begin.
    Over,
    /// It is gone because the hub ended the device's session.
    Ended,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) interest: Interest,
    /// The end of the time in which a device that only speaks listens to messages.
    pub(super) listens_until: Option<Instant>,
    /// Questions that no feed has taken yet.
    pub(super) asks: VecDeque<Ask>,
    pub(super) life: Life,
    /// Methods that run or whose answer waits for the hub, and messages that have no verdict.
    in_hand: usize,
    /// Feeds that are open, and the links that they hear the hub on.
    open: Vec<(LinkPurpose, LinkId)>,
    /// When each feed was opened last.
    opened: Vec<(LinkPurpose, Instant)>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            interest: Interest::NONE,
            listens_until: None,
            asks: VecDeque::new(),
            life: Life::Running,
            in_hand: 0,
            open: Vec::new(),
            opened: Vec::new(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.life == Life::Running
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.life, Life::Over | Life::Ended)
    }

    /// Tells whether a feed is wanted.
    pub(super) fn wants(&self, purpose: LinkPurpose) -> bool {
        let is_wanted = match purpose {
            LinkPurpose::Messages => {
                let is_open = |until| until > Instant::now();
                self.interest.messages || self.listens_until.is_some_and(is_open)
            }
            LinkPurpose::Methods => self.interest.methods,
            LinkPurpose::Twin => self.interest.desired || !self.asks.is_empty(),
            _ => false,
        };
        is_wanted && self.is_running()
    }

    pub(super) fn wants_anything(&self) -> bool {
        let purposes = [
            LinkPurpose::Messages,
            LinkPurpose::Methods,
            LinkPurpose::Twin,
        ];
        purposes.into_iter().any(|purpose| self.wants(purpose))
    }

    /// Takes a question, unless `most` wait already.
    pub(super) fn ask(&mut self, ask: Ask, most: usize) {
        if self.asks.len() >= most {
            self.asks.retain(|ask| !ask.answer.is_closed());
        }
        match self.asks.len() < most {
            true => self.asks.push_back(ask),
            false => ask.answer(Err(AmqpError::Crowded)),
        }
    }
}

/// Is what the holder of a task and its feeds share.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Notify,
}

impl Inbox {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    /// For a look, or a change that nobody waits for.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn changed(&self) -> impl Future<Output = ()> + Send {
        self.changed.notified()
    }

    /// Has everybody who waits look again.
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until the state is as wanted.
    ///
    /// Cancel safe.
    pub(super) async fn until(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            // Made before the look, so that what happens in between is not missed.
            let changed = self.changed.notified();
            if is_so(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until a feed is not wanted any more.
    ///
    /// Cancel safe.
    pub(crate) async fn until_unwanted(&self, purpose: LinkPurpose) {
        self.until(|state| !state.wants(purpose)).await;
    }

    /// Waits until a device does not listen to messages any more; one that listens for a while does
    /// as long as it is not idle.
    ///
    /// Cancel safe.
    pub(super) async fn until_deaf(&self, is_idle: bool) {
        loop {
            let changed = self.changed.notified();
            let until = {
                let state = self.state();
                let is_passing = !state.interest.messages && state.listens_until.is_some();
                match (is_passing, is_idle) {
                    _ if !state.is_running() => return,
                    (false, _) if !state.interest.messages => return,
                    (false, _) | (true, false) => None,
                    (true, true) => state.listens_until,
                }
            };
            match until {
                Some(until) if until <= Instant::now() => return,
                Some(until) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(until) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Waits until the twin's feed has something to do: a question that it has room for, or another
    /// wish to hear of changes than it has served.
    ///
    /// Cancel safe.
    pub(crate) async fn until_twin_news(&self, is_subscribed: bool, has_room: bool) {
        self.until(|state| {
            !state.is_running()
                || state.interest.desired != is_subscribed
                || (has_room && !state.asks.is_empty())
        })
        .await;
    }

    /// Tells whether nobody holds the task any more.
    pub(crate) fn is_left(&self) -> bool {
        !self.state().is_running()
    }

    /// Tells whether the device wants to hear of changes of its twin.
    pub(crate) fn wants_changes(&self) -> bool {
        self.state().interest.desired
    }

    /// Has a device that listens for a while listen so much longer.
    pub(super) fn prolong(&self, by: Duration) {
        if let Some(until) = &mut self.state().listens_until {
            *until = (*until).max(Instant::now() + by);
        }
    }

    /// Takes a question that somebody still waits for.
    pub(crate) fn take_ask(&self) -> Option<Ask> {
        let mut state = self.state();
        while let Some(ask) = state.asks.pop_front() {
            if !ask.answer.is_closed() {
                return Some(ask);
            }
        }
        None
    }

    /// Answers all who wait with an error: the first with this one, the others ask again and learn
    /// it then.
    pub(super) fn fail_asks(&self, error: AmqpError) {
        let mut asks = std::mem::take(&mut self.state().asks).into_iter();
        if let Some(first) = asks.next() {
            first.answer(Err(error));
        }
        asks.for_each(|ask| ask.answer(Err(AmqpError::Down)));
    }

    /// Notes that the device has a method or a message in hand, until the guard is dropped.
    pub(super) fn hand_over(self: &Arc<Self>) -> InHand {
        self.state().in_hand += 1;
        InHand(self.clone())
    }

    /// Tells whether the device has a method or a message in hand.
    pub(super) fn has_in_hand(&self) -> bool {
        self.state().in_hand > 0
    }

    /// Notes that the links of a feed are open, until the guard is dropped.
    pub(crate) fn opened(&self, purpose: LinkPurpose, link: LinkId) -> Opened<'_> {
        let mut state = self.state();
        state.open.push((purpose, link));
        state.opened.retain(|(other, _)| *other != purpose);
        state.opened.push((purpose, Instant::now()));
        drop(state);
        Opened { inbox: self, link }
    }

    /// When the links of a feed were opened last.
    pub(super) fn opened_at(&self, purpose: LinkPurpose) -> Option<Instant> {
        let state = self.state();
        let opened = state.opened.iter().find(|(other, _)| *other == purpose);
        opened.map(|(_, at)| *at)
    }

    /// Feeds that are open, and the links that they hear the hub on.
    pub(super) fn open(&self) -> Vec<(LinkPurpose, LinkId)> {
        self.state().open.clone()
    }
}

/// Counts the links of a feed as open.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    inbox: &'a Inbox,
    link: LinkId,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let link = self.link;
        self.inbox.state().open.retain(|(_, open)| *open != link);
    }
}

/// Counts a method or a message that a device has in hand.
#[derive(Debug)]
pub(super) struct InHand(Arc<Inbox>);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.state().in_hand -= 1;
    }
}
