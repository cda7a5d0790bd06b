//! What the hub sends to one device: messages, methods, changes of the twin.
//!
//! A device that listens, or that has asked for its twin of late, has one task; the others have
//! none. The task runs a feed for each purpose: opened when it is wanted, in the order in which the
//! budget allows, opened again when it is lost, closed when it is not wanted any more. Feeds do not
//! wait for each other.

mod config;
mod inbox;
mod messages;
mod methods;
mod site;
mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use gateway_core::{Interest, LinkPurpose};
use tokio::time::{Instant, timeout};

use crate::client::LinkId;
use crate::device::Device;
use crate::env::Env;
use crate::lane::Lane;
pub use config::CommandConfig;
pub(crate) use inbox::Ask;
use inbox::{Inbox, Life, State};
pub(crate) use site::{Site, open};
use task::Task;

/// How long an orderly close of a link may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Counts what became of commands.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Devices with a task now.
    pub(crate) listening: AtomicUsize,
    /// Messages given back because their time was up.
    pub(crate) lapsed: AtomicU64,
    /// Methods without an answer in time.
    pub(crate) late: AtomicU64,
}

/// Where a task is to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) env: &'a Arc<Env>,
    pub(crate) device: &'a Arc<Device>,
    pub(crate) lane: &'a Arc<Lane>,
}

/// Holds a device's command task, if it has one. Dropped, it ends the task in order.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    inbox: Option<Arc<Inbox>>,
}

impl Commands {
    /// Sets what the device wants to hear.
    pub(crate) fn want(&mut self, scope: Scope<'_>, interest: Interest) {
        self.tell(scope, |state| {
            state.interest = interest;
            state.listens_until = None;
            true
        });
    }

    /// Has a device that only speaks listen to messages for a while.
    pub(crate) fn listen(&mut self, scope: Scope<'_>, time: Duration) {
        self.tell(scope, |state| {
            if state.interest.messages {
                return false;
            }
            let now = Instant::now();
            let before = state.listens_until.replace(now + time);
            before.is_none_or(|until| until <= now)
        });
    }

    /// Asks for the device's twin. Who asks is answered, or finds the question dropped.
    pub(crate) fn ask(&mut self, scope: Scope<'_>, ask: Ask) {
        let most = scope.env.config.commands.twin_requests;
        self.tell(scope, |state| {
            state.ask(ask, most);
            true
        });
    }

    /// Changes the state of the task, starting one if there is none and now is something to do. The
    /// change says whether anybody needs to look.
    fn tell(&mut self, scope: Scope<'_>, change: impl FnOnce(&mut State) -> bool) {
        if let Some(inbox) = &self.inbox {
            let mut state = inbox.state();
            match state.life {
                Life::Over => {}
                // Whoever took the device has it: nothing is begun until it is attached anew.
                Life::Ended => return,
                Life::Running | Life::Leaving => {
                    let is_news = change(&mut state);
                    drop(state);
                    if is_news {
                        inbox.notify();
                    }
                    return;
                }
            }
        }
        let mut state = State::new();
        change(&mut state);
        self.inbox = state.wants_anything().then(|| {
            let inbox = Arc::new(Inbox::new(state));
            let task = Task::new(Site::new(scope, inbox.clone()));
            scope.env.tasks.spawn(task.run());
            inbox
        });
    }

    /// Tells whether the hub has ended the device's session, as the supervisor was told.
    pub(crate) fn has_ended(&self) -> bool {
        let inbox = self.inbox.as_ref();
        inbox.is_some_and(|inbox| inbox.state().life == Life::Ended)
    }

    /// What the device has links open for, and the ones that it hears the hub on.
    pub(crate) fn open(&self) -> Vec<(LinkPurpose, LinkId)> {
        self.inbox
            .as_ref()
            .map(|inbox| inbox.open())
            .unwrap_or_default()
    }

    /// Tells whether the device has a method or a message in hand, whose answer goes with its links.
    /// None is for longer than its time.
    pub(crate) fn has_in_hand(&self) -> bool {
        let inbox = self.inbox.as_ref();
        inbox.is_some_and(|inbox| inbox.has_in_hand())
    }

    /// Ends the task and waits until it has given back what it had.
    ///
    /// Cancel safe: it ends all the same.
    pub(crate) async fn close(mut self) {
        self.leave();
        if let Some(inbox) = self.inbox.take() {
            // It gives up by itself later.
            drop(timeout(CLOSE_PATIENCE, inbox.until(State::is_gone)).await);
        }
    }

    fn leave(&self) {
        if let Some(inbox) = &self.inbox {
            {
                let mut state = inbox.state();
                if state.is_running() {
                    state.life = Life::Leaving;
                }
            }
            inbox.notify();
        }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.leave();
    }
}
