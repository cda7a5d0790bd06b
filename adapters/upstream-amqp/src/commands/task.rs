use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_core::governor::Operation;
use gateway_core::{ErrorKind, LinkPurpose};
use tokio::time::Instant;

use super::inbox::Life;
use super::{Site, messages, methods};
use crate::attach::note_throttle;
use crate::env::Event;
use crate::error::AmqpError;
use crate::twin;

/// How long a feed must have been open for its failures before to be forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

/// Runs a device's feeds. A device that only waits should be small: what is rare is boxed.
pub(super) struct Task {
    site: Arc<Site>,
    messages: Feed,
    methods: Feed,
    twin: Feed,
}

/// What runs for one purpose, if it does.
struct Feed {
    running: Option<BoxFuture<'static, Result<(), AmqpError>>>,
    begun: Instant,
    failures: u32,
    /// The hub is of a tier without it.
    is_refused: bool,
}

impl Feed {
    fn new() -> Self {
        Self {
            running: None,
            begun: Instant::now(),
            failures: 0,
            is_refused: false,
        }
    }

    fn begin(&mut self, purpose: LinkPurpose, site: &Arc<Site>) {
        let reopen = site.env.config.commands.reopen;
        let wait = self.failures.checked_sub(1).map(|n| reopen.delay(n));
        self.begun = Instant::now();
        let site = site.clone();
        self.running = Some(match purpose {
            LinkPurpose::Messages => Box::pin(messages::run(site, wait)),
            LinkPurpose::Methods => Box::pin(methods::run(site, wait)),
            _ => Box::pin(twin::run(site, wait)),
        });
    }

    /// Waits for its end, for ever if it does not run.
    ///
    /// Cancel safe.
    async fn end(&mut self) -> Result<(), AmqpError> {
        let Some(running) = &mut self.running else {
            return pending().await;
        };
        let ended = running.await;
        self.running = None;
        ended
    }

    /// Counts its end, after it was open since then, if it was.
    fn fail(&mut self, kind: ErrorKind, opened: Option<Instant>) {
        if opened.is_some_and(|at| at >= self.begun && at.elapsed() >= FORGIVEN_AFTER) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.is_refused = kind == ErrorKind::Unsupported;
    }
}

impl Task {
    pub(super) fn new(site: Site) -> Self {
        site.env.counters.listening.fetch_add(1, Relaxed);
        Self {
            site: Arc::new(site),
            messages: Feed::new(),
            methods: Feed::new(),
            twin: Feed::new(),
        }
    }

    /// Runs until there is nothing to do, or the lane is lost.
    pub(super) async fn run(mut self) {
        let site = self.site.clone();
        loop {
            // Made before the look, so that what happens in between is not missed.
            let changed = site.inbox.changed();
            if !self.begin_wanted() {
                return;
            }
            let (purpose, ended) = tokio::select! {
                biased;
                () = site.lane.down.cancelled() => return,
                ended = self.messages.end() => (LinkPurpose::Messages, ended),
                ended = self.methods.end() => (LinkPurpose::Methods, ended),
                ended = self.twin.end() => (LinkPurpose::Twin, ended),
                () = changed => continue,
            };
            if let Err(error) = ended
                && !Box::pin(self.survives(purpose, error)).await
            {
                return;
            }
        }
    }

    /// Begins what is wanted and does not run. False if there is nothing to do any more.
    fn begin_wanted(&mut self) -> bool {
        let Self {
            site,
            messages,
            methods,
            twin,
        } = self;
        let mut state = site.inbox.state();
        let mut is_idle = true;
        for (purpose, feed) in [
            (LinkPurpose::Messages, messages),
            (LinkPurpose::Methods, methods),
            (LinkPurpose::Twin, twin),
        ] {
            // Who asks for the twin is told what the hub says now.
            let is_asked = purpose == LinkPurpose::Twin && !state.asks.is_empty();
            let may_begin = !feed.is_refused || is_asked;
            if feed.running.is_none() && may_begin && state.wants(purpose) {
                feed.begin(purpose, site);
            }
            is_idle &= feed.running.is_none();
        }
        if is_idle {
            state.life = Life::Over;
        }
        !is_idle
    }

    /// Decides what a lost or refused link means. False: the device's commands are over.
    async fn survives(&mut self, purpose: LinkPurpose, error: AmqpError) -> bool {
        let Site {
            env,
            device,
            lane,
            inbox,
        } = &*self.site;
        // Nobody holds its links any more: what becomes of them is nobody's loss.
        if !inbox.state().is_running() {
            return true;
        }
        if lane.down.is_cancelled() || device.is_gone() {
            return false;
        }
        note_throttle(env, Operation::CommandLink, &error);
        let what = purpose.as_str();
        tracing::info!(device.id = %device.id, link = what, error = %error, "Command link lost");
        let kind = error.kind();
        if kind != ErrorKind::Unsupported {
            env.note_detach(device, &error);
        }
        // Whoever took the device has it; fighting over it would go on for ever.
        if let ErrorKind::Displaced | ErrorKind::Unauthorized | ErrorKind::UnknownDevice = kind {
            inbox.state().life = Life::Ended;
            env.tell(Event::Ended(device.clone(), kind)).await;
            return false;
        }
        if purpose == LinkPurpose::Twin {
            inbox.fail_asks(error);
        }
        let feed = match purpose {
            LinkPurpose::Messages => &mut self.messages,
            LinkPurpose::Methods => &mut self.methods,
            _ => &mut self.twin,
        };
        feed.fail(kind, inbox.opened_at(purpose));
        true
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let Site { env, inbox, .. } = &*self.site;
        env.counters.listening.fetch_sub(1, Relaxed);
        let asks = {
            let mut state = inbox.state();
            if !state.is_gone() {
                state.life = Life::Over;
            }
            std::mem::take(&mut state.asks)
        };
        drop(asks);
        inbox.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{Inbox, State};
    use super::*;
    use crate::client::LinkId;
    use tokio::time::advance;

    fn size_of_run<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_feed<F: Future>(_: impl Fn(Arc<Site>, Option<Duration>) -> F) -> usize {
        size_of::<F>()
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_waited_long_and_was_never_open_is_not_forgiven() {
        let inbox = Inbox::new(State::new());
        let purpose = LinkPurpose::Messages;
        let mut feed = Feed::new();
        let mut fail = |failures| {
            feed.fail(ErrorKind::Disconnected, inbox.opened_at(purpose));
            assert_eq!(feed.failures, failures);
        };
        fail(1);
        advance(FORGIVEN_AFTER).await;
        fail(2);
        let open = inbox.opened(purpose, LinkId::default());
        advance(FORGIVEN_AFTER).await;
        drop(open);
        fail(1);
    }

    #[test]
    fn a_device_that_only_waits_is_small() {
        let sizes = [
            size_of_run(Task::run),
            size_of_feed(messages::run),
            size_of_feed(methods::run),
            size_of_feed(twin::run),
        ];
        let most = [576, 576, 768, 1280];
        assert!(
            sizes.iter().zip(most).all(|(size, most)| *size <= most),
            "{sizes:?}"
        );
    }
}
