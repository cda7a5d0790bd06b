//! A gateway, put together and run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::callback::CloudCallback;
use crate::config::GatewayConfig;
use crate::credential::CredentialProvider;
use crate::downstream::{Downstream, ServeContext};
use crate::error::{BuildError, DownstreamError};
use crate::explain::Explanation;
use crate::id::DeviceId;
use crate::ingress::{Ingress, Inner};
use crate::layer::{Layered, Observe, Retry, Timeout, UpstreamCounters};
use crate::router::{CommandCounters, Router};
use crate::session::{Route, SWEEPS_PER_TTL, SessionStats, SessionTable};
use crate::upstream::Upstream;

/// How often a gateway that shuts down looks whether anything is in flight still.
const LOOK: Duration = Duration::from_millis(10);
/// The least time that the upstream is given to close, however long the devices took.
const LEAST_CLOSE_GRACE: Duration = Duration::from_secs(1);

type Intercept = Box<dyn FnOnce(Arc<dyn CloudCallback>) -> Arc<dyn CloudCallback> + Send>;

/// Puts a gateway together.
pub struct GatewayBuilder<U> {
    upstream: U,
    config: GatewayConfig,
    credentials: Option<Arc<dyn CredentialProvider>>,
    downstreams: Vec<(String, Arc<dyn Downstream>)>,
    intercepts: Vec<Intercept>,
}

impl<U: Upstream> fmt::Debug for GatewayBuilder<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayBuilder")
            .field("upstream", &self.upstream)
            .field("config", &self.config)
            .field("downstreams", &self.downstreams)
            .finish_non_exhaustive()
    }
}

impl<U: Upstream> GatewayBuilder<U> {
    /// Sets bounds and times. Default: [`GatewayConfig::default`].
    #[must_use]
    pub fn with_config(mut self, config: GatewayConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets who knows the devices' credentials.
    #[must_use]
    pub fn with_credentials(mut self, credentials: impl CredentialProvider) -> Self {
        self.credentials = Some(Arc::new(credentials));
        self
    }

    /// Adds a downstream under a name of its own.
    #[must_use]
    pub fn with_downstream(mut self, name: impl Into<String>, downstream: impl Downstream) -> Self {
        self.downstreams.push((name.into(), Arc::new(downstream)));
        self
    }

    /// Puts a callback in front of the router. The one added last sees the hub's calls first.
    #[must_use]
    pub fn with_callback<C: CloudCallback>(
        mut self,
        wrap: impl FnOnce(Arc<dyn CloudCallback>) -> C + Send + 'static,
    ) -> Self {
        self.intercepts
            .push(Box::new(move |next| Arc::new(wrap(next))));
        self
    }

    /// Checks the settings and makes the gateway. Nothing runs yet.
    ///
    /// # Errors
    /// A setting is out of range, a downstream's name is taken, or there are no credentials.
    pub fn build(self) -> Result<Gateway, BuildError> {
        let Self {
            upstream,
            config,
            credentials,
            downstreams,
            intercepts,
        } = self;
        config.validate()?;
        let credentials = credentials.ok_or(BuildError::NoCredentials)?;
        for (at, (name, _)) in downstreams.iter().enumerate() {
            if downstreams[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(BuildError::DuplicateDownstream(name.clone()));
            }
        }
        let counters = Arc::new(UpstreamCounters::default());
        let commands = Arc::new(CommandCounters::default());
        let retry = Retry::new(config.retry.clone());
        let timeout = Timeout::new(config.timeouts.clone());
        let layers = (Observe::new(counters.clone()), (retry, timeout));
        let upstream: Arc<dyn Upstream> = Arc::new(Layered::new(layers, upstream));
        let sessions = Arc::new_cyclic(|table| {
            let targets = downstreams
                .iter()
                .map(|(_, downstream)| downstream.clone())
                .collect();
            let router: Arc<dyn CloudCallback> =
                Arc::new(Router::new(table.clone(), targets, commands.clone()));
            let callback = intercepts.into_iter().fold(router, |next, wrap| wrap(next));
            SessionTable::new(&config, upstream.clone(), credentials, callback)
        });
        let inner = Arc::new(Inner {
            sessions,
            upstream,
            credits: Arc::new(Semaphore::new(config.max_in_flight)),
            closing: CancellationToken::new(),
            is_closing: AtomicBool::new(false),
            batches: config.batches,
            counters: Default::default(),
            commands: commands.clone(),
        });
        Ok(Gateway {
            shared: Arc::new(Shared {
                inner,
                config,
                downstreams,
                counters,
                commands,
                has_run: AtomicBool::new(false),
            }),
        })
    }
}

#[derive(Debug)]
struct Shared {
    inner: Arc<Inner>,
    config: GatewayConfig,
    downstreams: Vec<(String, Arc<dyn Downstream>)>,
    counters: Arc<UpstreamCounters>,
    commands: Arc<CommandCounters>,
    has_run: AtomicBool,
}

/// Is devices on one side, a hub on the other, and the contract between them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

impl Gateway {
    /// Starts to put a gateway together over an upstream.
    #[must_use]
    pub fn builder<U: Upstream>(upstream: U) -> GatewayBuilder<U> {
        GatewayBuilder {
            upstream,
            config: GatewayConfig::default(),
            credentials: None,
            downstreams: Vec::new(),
            intercepts: Vec::new(),
        }
    }

    /// The door for a downstream's messages: what [`Downstream::serve`] gets, and what a program
    /// uses that embeds the gateway and has its own loop.
    #[must_use]
    pub fn ingress(&self, downstream: &str) -> Option<Ingress> {
        let at = self
            .shared
            .downstreams
            .iter()
            .position(|(name, _)| name == downstream)?;
        Some(Ingress::new(self.shared.inner.clone(), at as Route))
    }

    /// Serves until the token is cancelled or a downstream fails, then shuts down in three phases:
    /// no more is read; what is in flight settles within the grace; the rest is cut off.
    ///
    /// A gateway runs once.
    ///
    /// # Errors
    /// A downstream failed, or the gateway runs or ran before.
    ///
    /// # Cancel safety
    /// Not safe: dropping it cuts everything off without a report.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<ShutdownReport, RunError> {
        let Shared {
            inner,
            config,
            downstreams,
            has_run,
            ..
        } = &*self.shared;
        if has_run.swap(true, Relaxed) {
            return Err(RunError::Ended);
        }
        let mut serving = JoinSet::new();
        for (at, (name, downstream)) in downstreams.iter().enumerate() {
            let ingress = Ingress::new(inner.clone(), at as Route);
            let context = ServeContext::new(ingress, inner.closing.clone());
            let (name, downstream) = (name.clone(), downstream.clone());
            serving.spawn(async move { (name, downstream.serve(context).await) });
        }
        let mut sweeps = interval(config.sessions.idle_ttl / SWEEPS_PER_TTL);
        sweeps.tick().await;
        let mut failure = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = sweeps.tick() => inner.sessions.sweep(),
                Some(ended) = serving.join_next() => {
                    failure = RunError::of(ended);
                    if failure.is_some() { break }
                }
            }
        }

        tracing::info!(in_flight = self.in_flight(), "Shutting down");
        let settled_before = self.settled();
        inner.close();
        let deadline = Instant::now() + config.shutdown_grace;
        let drain = async {
            while let Some(ended) = serving.join_next().await {
                failure = failure.take().or(RunError::of(ended));
            }
            // Whoever waited for all credits would count as having them.
            let mut looks = interval(LOOK);
            while self.in_flight() > 0 {
                looks.tick().await;
            }
        };
        let drained = timeout_at(deadline, drain).await.is_ok();
        let report = ShutdownReport {
            settled: self.settled() - settled_before,
            abandoned: self.in_flight() as u64,
            forced: !drained,
        };
        serving.shutdown().await;
        inner.credits.close();
        inner.sessions.close();
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(LEAST_CLOSE_GRACE);
        if let Err(error) = inner.upstream.close(left).await {
            tracing::warn!(error = %error, "Upstream did not close in order");
        }
        match (report.abandoned, report.forced) {
            (0, false) => tracing::info!(settled = report.settled, "Shut down"),
            (count, _) => tracing::warn!(settled = report.settled, count, "Shut down by force"),
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(report),
        }
    }

    /// Takes a snapshot of the counters.
    #[must_use]
    pub fn stats(&self) -> GatewayStats {
        let Shared {
            inner,
            counters,
            commands,
            ..
        } = &*self.shared;
        GatewayStats {
            accepted: inner.counters.accepted.load(Relaxed),
            rejected: inner.counters.rejected.load(Relaxed),
            retry_later: inner.counters.retry_later.load(Relaxed),
            batches: counters.batches.load(Relaxed),
            in_flight: self.in_flight(),
            sessions: inner.sessions.stats(),
            attached: counters.attached.load(Relaxed),
            attach_failed: counters.attach_failed.load(Relaxed),
            detached: counters.detached.load(Relaxed),
            messages_completed: commands.completed.load(Relaxed),
            messages_rejected: commands.rejected.load(Relaxed),
            messages_abandoned: commands.abandoned.load(Relaxed),
            methods_answered: commands.answered.load(Relaxed),
            methods_unanswered: commands.unanswered.load(Relaxed),
            methods_late: commands.late.load(Relaxed),
            desired_delivered: commands.desired_delivered.load(Relaxed),
            desired_stale: commands.desired_stale.load(Relaxed),
            desired_undelivered: commands.desired_undelivered.load(Relaxed),
        }
    }

    /// Tells how a device stands and what is in its way; none if nobody here knows it.
    ///
    /// It looks at what is here and asks nobody, so it has an answer when the hub has none.
    #[must_use]
    pub fn explain(&self, device: &DeviceId) -> Option<Explanation> {
        let Inner {
            sessions, upstream, ..
        } = &*self.shared.inner;
        let session = sessions.explain(device).map(|mut session| {
            let route = sessions.route(device).map(|route| route as usize);
            let downstream = route.and_then(|route| self.shared.downstreams.get(route));
            session.downstream = downstream.map(|(name, _)| name.clone());
            session
        });
        let upstream = upstream.explain(device);
        (session.is_some() || upstream.is_some())
            .then(|| Explanation::new(device.clone(), session, upstream))
    }

    fn in_flight(&self) -> usize {
        self.shared.config.max_in_flight - self.shared.inner.credits.available_permits()
    }

    fn settled(&self) -> u64 {
        let counters = &self.shared.inner.counters;
        [
            &counters.accepted,
            &counters.rejected,
            &counters.retry_later,
        ]
        .map(|counter| counter.load(Relaxed))
        .into_iter()
        .sum()
    }
}

/// Says what became of the work in flight when a gateway stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Uplinks settled after the shutdown began.
    pub settled: u64,
    /// Uplinks cut off without a verdict; no device was told that they were accepted.
    pub abandoned: u64,
    /// Whether the grace ended before the work did.
    pub forced: bool,
}

/// Tells why a gateway stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A downstream cannot serve.
    #[error("the downstream {name:?} cannot serve")]
    Downstream {
        /// Its name.
        name: String,
        /// What it said.
        source: DownstreamError,
    },
    /// A downstream panicked: a defect in it.
    #[error("a downstream panicked; please report this with the log")]
    Panicked,
    /// The gateway runs or ran before.
    #[error("the gateway runs or ran before; build a new one")]
    Ended,
}

impl RunError {
    fn of(
        ended: Result<(String, Result<(), DownstreamError>), tokio::task::JoinError>,
    ) -> Option<Self> {
        match ended {
            Ok((_, Ok(()))) => None,
            Ok((name, Err(source))) => Some(Self::Downstream { name, source }),
            Err(error) => error.is_panic().then_some(Self::Panicked),
        }
    }
}

/// Is a snapshot of a gateway's counters, each since the start unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayStats {
    /// Uplinks that the hub accepted.
    pub accepted: u64,
    /// Uplinks refused for good.
    pub rejected: u64,
    /// Uplinks given back to devices to be sent later.
    pub retry_later: u64,
    /// Batches of uplinks that the hub accepted.
    pub batches: u64,
    /// Uplinks between reservation and settlement now.
    pub in_flight: usize,
    /// The session table.
    pub sessions: SessionStats,
    /// Devices attached, or changed while attached.
    pub attached: u64,
    /// Attaches that failed after all tries.
    pub attach_failed: u64,
    /// Devices detached.
    pub detached: u64,
    /// Cloud-to-device messages that devices have.
    pub messages_completed: u64,
    /// Cloud-to-device messages that can never be delivered.
    pub messages_rejected: u64,
    /// Cloud-to-device messages not delivered in time.
    pub messages_abandoned: u64,
    /// Methods that devices answered.
    pub methods_answered: u64,
    /// Methods answered in a device's place.
    pub methods_unanswered: u64,
    /// Devices' answers to methods that nobody waited for any more; each was dropped.
    pub methods_late: u64,
    /// Changes of desired properties that devices were given.
    pub desired_delivered: u64,
    /// Changes of desired properties dropped because the device had them already, or newer ones.
    pub desired_stale: u64,
    /// Changes of desired properties that did not reach their device.
    pub desired_undelivered: u64,
}
