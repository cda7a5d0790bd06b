//! How a run ends, and what must be true then.

use fe2o3_amqp_types::definitions::Handle;
use fe2o3_amqp_types::performatives::{Close, Flow};

use super::frames::{flow, is_begun, is_open};
use super::{Act, ClientError, Job, World, book};
use crate::client::session::Census;
use crate::env::lock;

/// A run that is not over by then has no end: the longest needs a round for each frame of what waits.
const MOST_ROUNDS: usize = 4_000;

impl World {
    /// The connection breaks.
    pub(in crate::client::tests::model) fn cut(mut self) {
        self.read();
        self.is_over = true;
        self.hub.shared.with(|state| state.fail(&ClientError::Down));
        self.run();
        let waiting: Vec<_> = self.tasks.iter().map(|(job, _)| job).collect();
        assert!(waiting.is_empty(), "{waiting:?} wait for ever");
    }

    /// A good hub answers all there is, then the client lets go of all.
    pub(in crate::client::tests::model) fn wind_up(mut self) {
        self.serve(0);
        if !self.hub_closed {
            self.grant();
        }
        self.calm_down();
        let waits = |job: &Job| !matches!(job, Job::Receive(_) | Job::Watch) || self.is_over;
        let waiting = self.tasks.iter().map(|(job, _)| job);
        let waiting: Vec<_> = waiting.filter(|job| waits(job)).collect();
        assert!(waiting.is_empty(), "{waiting:?} wait for ever");
        let is_idle = |session: &book::Session, link: &book::Link| {
            let credit = link.limit.wrapping_sub(link.hub_count);
            !link.is_sender
                && !link.is_detached
                && !link.is_stopped
                && is_open(session, link)
                && credit == 0
        };
        let idle = self.links(is_idle);
        assert!(
            self.is_over || idle.is_empty(),
            "{idle:?} have no credit for ever"
        );
        self.tasks.clear();
        self.links.clear();
        self.calm_down();
        if !self.is_over {
            let left = self.hub.census();
            assert_eq!((left.links, left.pending, left.waiting), (0, 0, 0));
        }
        self.sessions.clear();
        self.calm_down();
        if !self.is_over {
            assert_eq!(self.hub.census(), Census::default());
        }
    }

    /// The hub gives every link credit and then every session a window, each once.
    pub(super) fn grant(&mut self) {
        let senders = self.links(|session, link| is_open(session, link) && link.is_sender);
        for (at, link) in senders {
            let session = &self.book.sessions[at];
            let link = &session.links[link];
            let credit = Flow {
                handle: link.said_handle.map(Handle),
                delivery_count: Some(link.delivery_count),
                link_credit: Some(1_000),
                ..flow(session, 0)
            };
            self.say(session.said_channel.unwrap(), &credit, b"");
        }
        self.serve(0);
        for at in self.sessions(is_begun) {
            let session = &self.book.sessions[at];
            self.say(session.said_channel.unwrap(), &flow(session, 10_000), b"");
        }
    }

    /// The hub answers whatever is asked, and all hear of it.
    pub(super) fn serve(&mut self, window: u32) {
        self.run();
        if !self.hub_closed {
            self.answer(window);
        }
        while !self.queue.is_empty() {
            self.hear();
        }
        self.run();
    }

    pub(super) fn answer(&mut self, window: u32) {
        let count = self.book.sessions.len().max(self.links(|_, _| true).len());
        for _ in 0..count {
            self.hub(Act::AnswerBegin {
                which: 0,
                channel: 0,
                window,
            });
            self.hub(Act::AnswerAttach {
                which: 0,
                handle: 0,
                refuse: false,
            });
            self.hub(Act::AnswerDetach(0));
            self.hub(Act::AnswerEnd(0));
            self.hub(Act::AnswerEcho(0));
        }
    }

    /// Goes on until nothing more happens.
    pub(super) fn calm_down(&mut self) {
        let (mut silent, mut stood) = (0, None);
        for _ in 0..MOST_ROUNDS {
            self.settle_down();
            let stands = (self.tasks.len(), self.received.len(), self.held.len());
            let has_output = !lock(&self.hub.shared.state).out.is_empty();
            let is_silent = !has_output && self.queue.is_empty() && stood == Some(stands);
            silent = if is_silent { silent + 1 } else { 0 };
            stood = Some(stands);
            if silent == 2 {
                return;
            }
        }
        panic!("it goes on for ever");
    }

    /// One round of it: what waits to be written is, what is heard is answered, and what came is
    /// settled.
    fn settle_down(&mut self) {
        self.run();
        self.write();
        self.run();
        if self.book.is_closed && !self.hub_closed {
            self.hub_closed = true;
            self.say(0, &Close { error: None }, b"");
        }
        while !self.queue.is_empty() {
            self.hear();
        }
        self.run();
        if self.hub_closed {
            return;
        }
        self.answer(0);
        // Who waits for a message cannot settle the last one.
        let waits = |job: &Job| matches!(job, Job::Receive(_));
        self.tasks.retain(|(job, _)| !waits(job));
        let stops = |job: &Job| matches!(job, Job::Stop(_));
        if !self.tasks.iter().any(|(job, _)| stops(job)) {
            while !self.received.is_empty() {
                self.act(Act::Settle(0, 0));
            }
            while !self.held.is_empty() {
                self.act(Act::Done(0));
            }
        }
        self.receive_all();
        for at in self.sessions(is_begun) {
            for _ in 0..self.book.sessions[at].deliveries.len() {
                let begun = self.sessions(is_begun);
                let session = begun.iter().position(|begun| *begun == at).unwrap_or(0);
                self.judge(session as u8, 0, 3, 5, true);
            }
        }
    }
}
