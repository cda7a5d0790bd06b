//! The task of one device: it hands on what the hub sends, renews the connection, and brings it back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use gateway_core::credential::Renewals;
use gateway_core::governor::{Class, Priority};
use gateway_core::{DesiredChange, Disposition, ErrorKind, SessionEnd};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until};

use super::align::Alignment;
use super::attach::{Why, renew};
use super::commands::{self, Verdict};
use super::device::{Device, Link};
use super::env::Env;
use super::error::HubError;
use super::line::Line;
use super::recovery::{Failures, bring_back};
use super::takeover::Takeovers;
use super::twin;

/// The wait before an expiry is looked at again that our clock does not agree with.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// What a job of the device came to.
#[derive(Debug)]
enum Done {
    Fetch,
    /// What came of replacing the connection of this number.
    Replaced(u64, Why, Result<(), HubError>),
}

/// What serving a connection came to.
#[derive(Debug)]
enum Turn {
    /// Nobody wants the device any more.
    Leave,
    Lost,
    Replaced(Arc<Line>),
    Expired,
}

pub(super) struct Session {
    env: Arc<Env>,
    device: Arc<Device>,
    line: Arc<Line>,
    /// What the hub was told that the device wants to hear.
    alignment: Alignment,
    /// Messages that the device has on this connection.
    messages: JoinSet<Verdict>,
    /// What goes on over all connections: methods, the change that the device is given, and the rest.
    methods: JoinSet<()>,
    delivering: JoinSet<Disposition>,
    /// Changes that the device missed one after the other.
    missed: u32,
    jobs: JoinSet<Done>,
    is_fetching: bool,
    is_replacing: bool,
    /// When the token is to be renewed.
    renewal: Option<Instant>,
    /// When the session ends with the device's own token.
    expiry: Option<Instant>,
    /// When the connection is replaced for a message that was not acknowledged.
    redelivery: Option<Instant>,
    /// Messages not acknowledged one after the other.
    abandoned: u32,
    takeovers: Takeovers,
    failures: Failures,
}

impl Session {
    /// Starts the task of a device that has come up, unless it has one.
    pub(super) fn start(env: &Arc<Env>, device: &Arc<Device>, line: Arc<Line>) {
        if !device.claim_session() {
            return;
        }
        let mut session = Self {
            env: env.clone(),
            device: device.clone(),
            line: line.clone(),
            alignment: Alignment::default(),
            messages: JoinSet::new(),
            methods: JoinSet::new(),
            delivering: JoinSet::new(),
            missed: 0,
            jobs: JoinSet::new(),
            is_fetching: false,
            is_replacing: false,
            renewal: None,
            expiry: None,
            redelivery: None,
            abandoned: 0,
            takeovers: Takeovers::default(),
            failures: Failures::default(),
        };
        session.adopt(line);
        env.tasks.spawn(session.run());
    }

    async fn run(mut self) {
        let (closing, gone) = (self.env.closing.clone(), self.device.gone.clone());
        loop {
            let turn = tokio::select! {
                biased;
                () = closing.cancelled() => Turn::Leave,
                () = gone.cancelled() => Turn::Leave,
                turn = self.serve() => turn,
            };
            match turn {
                Turn::Leave => break,
                Turn::Replaced(line) => self.adopt(line),
                Turn::Expired => {
                    if let Some(notice) = self.expired().await {
                        return self.end(notice).await;
                    }
                    self.expiry = Some(Instant::now() + CLOCKS_DIFFER);
                }
                Turn::Lost => {
                    // Its callbacks' verdicts are about nothing now: the hub delivers anew.
                    self.messages = JoinSet::new();
                    let recovered = tokio::select! {
                        biased;
                        () = closing.cancelled() => break,
                        // Whoever detaches it waits for its link.
                        () = gone.cancelled() => break,
                        recovered = Box::pin(self.recover()) => recovered,
                    };
                    match recovered {
                        Ok(line) => self.adopt(line),
                        Err(notice) => return self.end(notice).await,
                    }
                }
            }
        }
    }

    /// Goes on with another connection.
    fn adopt(&mut self, line: Arc<Line>) {
        self.messages = JoinSet::new();
        self.alignment.renew(&line);
        self.redelivery = None;
        self.renewal = line.life.renewal;
        self.expiry = line.life.is_presented.then_some(line.life.lapses);
        self.line = line;
    }

    /// Serves the connection until it is lost, replaced or not wanted any more.
    async fn serve(&mut self) -> Turn {
        loop {
            if let Some(line) = self.newer() {
                return Turn::Replaced(line);
            }
            Box::pin(self.alignment.align(&self.env, &self.device, &self.line)).await;
            self.hand_on();
            let (renewal, expiry) = (self.due(), self.expiry);
            tokio::select! {
                biased;
                () = self.line.client.down().cancelled() => {
                    return self.newer().map_or(Turn::Lost, Turn::Replaced);
                }
                Some(verdict) = self.messages.join_next() => {
                    // A callback that panicked has not taken its message.
                    self.settled(verdict.unwrap_or(Verdict::Abandoned));
                }
                Some(_) = self.methods.join_next() => {}
                Some(given) = self.delivering.join_next() => {
                    // A callback that panicked has not brought its change.
                    self.given(given.unwrap_or(Disposition::Abandon));
                }
                Some(Ok(done)) = self.jobs.join_next() => self.done(done),
                () = self.device.changed.notified() => {}
                () = until(self.alignment.again()) => {}
                () = until(renewal) => self.replace(),
                () = until(expiry) => return Turn::Expired,
            }
        }
    }

    /// The connection that took the place of this one, if one did.
    fn newer(&self) -> Option<Arc<Line>> {
        let line = self.device.line();
        line.filter(|line| line.number != self.line.number)
    }

    /// Begins what waits, as much of it as may be on its way.
    fn hand_on(&mut self) {
        let credit = self.env.config.commands.credit;
        while self.messages.len() < credit
            && let Some(arrived) = self.line.post.messages.next()
        {
            let (env, device) = (self.env.clone(), self.device.clone());
            let work = self.line.work.token();
            self.messages
                .spawn(commands::message(env, device, arrived, work));
        }
        while self.methods.len() < credit
            && let Some(arrived) = self.device.methods.next()
        {
            let method = commands::method(self.env.clone(), self.device.clone(), arrived);
            self.methods.spawn(method);
        }
        if self.delivering.is_empty()
            && let Some(change) = self.device.desired.pop()
        {
            self.delivering.spawn(deliver(self.device.clone(), change));
        }
        if !self.is_fetching && self.device.desired.is_behind() {
            self.is_fetching = true;
            let fetching = twin::fetch(self.env.clone(), self.device.clone(), self.missed);
            self.jobs.spawn(async move {
                fetching.await;
                Done::Fetch
            });
        }
    }

    fn settled(&mut self, verdict: Verdict) {
        let counters = &self.env.counters;
        match verdict {
            Verdict::Taken => self.abandoned = 0,
            Verdict::Rejected => {
                counters.rejected.fetch_add(1, Relaxed);
            }
            Verdict::Abandoned => {
                counters.abandoned.fetch_add(1, Relaxed);
                let wait = self.env.config.commands.abandon.delay(self.abandoned);
                self.abandoned = self.abandoned.saturating_add(1);
                self.redelivery.get_or_insert(Instant::now() + wait);
            }
        }
    }

    /// What a device missed comes again with all desired properties, after a wait.
    fn given(&mut self, disposition: Disposition) {
        match disposition {
            Disposition::Abandon => {
                self.missed = self.missed.saturating_add(1);
                self.device.desired.missed();
            }
            Disposition::Complete | Disposition::Reject => self.missed = 0,
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Fetch => self.is_fetching = false,
            Done::Replaced(number, why, result) => {
                self.is_replacing = false;
                // Of another connection it says nothing.
                if let Err(error) = result
                    && number == self.line.number
                {
                    self.not_replaced(why, &error);
                }
            }
        }
    }

    /// Tries again later. Even a refusal ends nobody's session before the hub does.
    fn not_replaced(&mut self, why: Why, error: &HubError) {
        let (now, id) = (Instant::now(), &self.device.id);
        match error.is_passing() {
            true => tracing::debug!(device.id = %id, error = %error, ?why, "Not reconnected yet"),
            false => tracing::info!(device.id = %id, error = %error, ?why, "Not reconnected"),
        }
        match why {
            Why::Token => {
                let left = self.line.life.lapses.saturating_duration_since(now);
                self.renewal = Some(now + Renewals::again(left));
            }
            Why::Redelivery => {
                let wait = self.env.config.commands.abandon.delay(self.abandoned);
                self.redelivery = Some(now + wait);
            }
        }
    }

    /// When the connection is to be replaced; none while it is being.
    fn due(&self) -> Option<Instant> {
        let due = [self.renewal, self.redelivery].into_iter().flatten().min();
        due.filter(|_| !self.is_replacing)
    }

    /// Begins to replace the connection, which is served meanwhile.
    fn replace(&mut self) {
        let now = Instant::now();
        let why = match self.renewal {
            Some(renewal) if renewal <= now => Why::Token,
            _ => Why::Redelivery,
        };
        let priority = match why {
            Why::Token => self.urgency(),
            Why::Redelivery => self.device.rank(Class::Quiet),
        };
        self.is_replacing = true;
        let (env, device, line) = (self.env.clone(), self.device.clone(), self.line.clone());
        self.jobs.spawn(async move {
            let replaced = renew(&env, &device, &line, why, priority).await;
            Done::Replaced(line.number, why, replaced)
        });
    }

    /// The sooner a token lapses the sooner it is renewed.
    fn urgency(&self) -> Priority {
        let left = self
            .line
            .life
            .lapses
            .saturating_duration_since(Instant::now());
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at = since_epoch.unwrap_or_default().saturating_add(left);
        Priority::new(Class::Standing, u64::MAX - at.as_millis() as u64)
    }

    /// The end of a session whose token has lapsed; none if our clock does not agree.
    async fn expired(&self) -> Option<SessionEnd> {
        let mut link = self.device.link.lock().await;
        let is_current = matches!(&*link, Link::Up(line) if line.number == self.line.number);
        if !is_current || !self.device.wish().identity.has_lapsed(Duration::ZERO) {
            return None;
        }
        self.device.set(&mut link, Link::Ended);
        Some(SessionEnd::expired(self.device.id.clone()))
    }

    /// Brings the device back. An error is the end of its session.
    async fn recover(&mut self) -> Result<Arc<Line>, SessionEnd> {
        let device = self.device.clone();
        let mut link = device.link.clone().lock_owned().await;
        if let Link::Up(line) = &*link
            && line.number != self.line.number
        {
            return Ok(line.clone());
        }
        let reason = self.line.reason();
        device.note_error(&reason);
        device.set(&mut link, Link::Down);
        tracing::info!(
            device.id = %device.id, number = self.line.number, reason = %reason,
            "Connection to the hub lost"
        );
        let is_young = self.failures.lost(self.line.opened.elapsed());
        let is_dropped = matches!(reason, HubError::Dropped);
        let is_blamed = (is_dropped || is_young) && self.is_blamed();
        if is_blamed && is_dropped && self.is_displaced() {
            device.note_error(&HubError::Displaced);
            device.set(&mut link, Link::Ended);
            return Err(SessionEnd::new(device.id.clone(), ErrorKind::Displaced));
        }
        let env = self.env.clone();
        let _missing = env.progress.missing();
        bring_back(&env, &device, link, &mut self.failures, is_young).await
    }

    /// Counts it against the device that its connection was lost, unless those of others are as well.
    fn is_blamed(&self) -> bool {
        let (env, device) = (&self.env, &self.device);
        if env.closings.note(&device.id) {
            return false;
        }
        let credential = device.wish().identity.credential;
        let kind = HubError::Dropped.kind();
        env.breakers.detached(&device.id, &credential, kind);
        true
    }

    /// Takes note that the hub closed the connection. True if the device is another client's.
    fn is_displaced(&mut self) -> bool {
        let (age, was_idle) = (self.line.opened.elapsed(), self.line.client.was_idle());
        self.takeovers
            .closed(&self.env.config.reconnect, age, was_idle)
    }

    /// Ends the device's session, as the hub has done, and tells whoever attached it.
    async fn end(self, notice: SessionEnd) {
        let Self {
            env, device, line, ..
        } = self;
        device.gone.cancel();
        line.client.disconnect(Duration::ZERO).await;
        if !env.remove(&device) {
            // Detached or attached anew since: nobody waits for this end.
            return;
        }
        tracing::info!(
            device.id = %device.id,
            reason = %notice.reason,
            detail = notice.detail,
            "The hub ended a device's session"
        );
        device.wish().callback.on_end(notice).await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn deliver(device: Arc<Device>, change: DesiredChange) -> Disposition {
    let patch = change.patch(device.id.clone());
    device.callback().on_desired(patch).await
}
