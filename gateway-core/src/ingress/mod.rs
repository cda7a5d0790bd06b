//! The only door from devices inward.

mod deliver;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::BatchConfig;
use crate::credential::SasToken;
use crate::error::{ErrorKind, UpstreamError};
use crate::id::DeviceId;
use crate::message::{DEFAULT_RETRY_AFTER, Settlement, TwinReply, TwinRequest, Uplink};
use crate::router::CommandCounters;
use crate::session::{Route, SessionTable};
use crate::upstream::{Interest, Upstream};

/// Counts uplinks by what became of them.
#[derive(Debug, Default)]
pub(crate) struct UplinkCounters {
    /// Accepted by the hub.
    pub accepted: AtomicU64,
    /// Refused for good.
    pub rejected: AtomicU64,
    /// Given back to the device to be sent later.
    pub retry_later: AtomicU64,
}

/// What every door of a gateway shares.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) sessions: Arc<SessionTable>,
    pub(crate) upstream: Arc<dyn Upstream>,
    pub(crate) credits: Arc<Semaphore>,
    pub(crate) closing: CancellationToken,
    /// The same as `closing`, for a look that takes no lock.
    pub(crate) is_closing: AtomicBool,
    pub(crate) batches: BatchConfig,
    pub(crate) counters: UplinkCounters,
    pub(crate) commands: Arc<CommandCounters>,
}

impl Inner {
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Relaxed);
        self.closing.cancel();
    }

    fn is_closing(&self) -> bool {
        self.is_closing.load(Relaxed)
    }
}

/// Takes uplinks from one downstream. Cheap to clone.
#[derive(Clone)]
pub struct Ingress {
    inner: Arc<Inner>,
    route: Route,
}

impl fmt::Debug for Ingress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingress")
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

impl Ingress {
    pub(crate) fn new(inner: Arc<Inner>, route: Route) -> Self {
        Self { inner, route }
    }

    /// Waits for a credit: the right to have one uplink on its way.
    ///
    /// Take it when a message is there, not while waiting for one: credits are shared by all
    /// devices ([`max_in_flight`](crate::GatewayConfig::max_in_flight)). While this waits, stop
    /// reading from the device. A gateway that shuts down gives slots that settle as
    /// [`Settlement::RetryLater`].
    ///
    /// # Cancel safety
    /// Safe; the place in the queue is lost.
    pub async fn reserve(&self) -> Slot {
        if let Some(slot) = self.try_reserve() {
            return slot;
        }
        let credit = tokio::select! {
            biased;
            () = self.inner.closing.cancelled() => None,
            credit = self.inner.credits.clone().acquire_owned() => credit.ok(),
        };
        Slot {
            ingress: self.clone(),
            credit,
        }
    }

    /// Takes a credit if one is free now.
    #[must_use]
    pub fn try_reserve(&self) -> Option<Slot> {
        let credit = self.inner.credits.clone().try_acquire_owned().ok()?;
        let credit = (!self.inner.is_closing()).then_some(credit);
        Some(Slot {
            ingress: self.clone(),
            credit,
        })
    }

    /// Makes a listening device known to the hub and keeps it attached until the returned
    /// [`Presence`] is dropped.
    ///
    /// # Errors
    /// `Unauthorized` or `UnknownDevice` if the hub, or the credential provider, refuses the
    /// device, or if its token is for another device; a retryable kind after the retry budget,
    /// when the caller should ask again later; `Throttled` as well if two other tokens of the device
    /// are being judged, since anybody may present some.
    ///
    /// # Cancel safety
    /// Safe; the device may stay attached until its idle time to live.
    pub async fn online(&self, announcement: Announcement) -> Result<Presence, UpstreamError> {
        let Announcement {
            device,
            interest,
            token,
        } = announcement;
        if self.inner.is_closing() {
            return Err(UpstreamError::new(ErrorKind::Closed, "online"));
        }
        if token.as_ref().is_some_and(|token| !token.is_for(&device)) {
            return Err(UpstreamError::new(ErrorKind::Unauthorized, "online")
                .with_source("the token is for another device"));
        }
        let session = self.inner.sessions.enter(&device)?;
        // What the hub sends as soon as the device is attached finds its way.
        session.claim_route(self.route);
        let number = self
            .inner
            .sessions
            .online(&session, interest, token)
            .await?;
        session.set_route(self.route);
        Ok(Presence {
            inner: self.inner.clone(),
            device,
            number,
        })
    }

    /// Asks the hub about a device's twin, attaching the device first if need be.
    ///
    /// # Errors
    /// As [`Upstream::twin`] and [`Upstream::attach`].
    ///
    /// # Cancel safety
    /// Safe; a patch may or may not have been applied.
    pub async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        let session = self.inner.sessions.enter(device)?;
        session.set_route(self.route);
        let attached = async |forgotten: Option<u64>| {
            let gate = session.gate().await;
            // Another that failed with this one may have attached the device anew.
            if forgotten == Some(gate.last_attach()) {
                gate.forget();
            }
            self.inner.sessions.attached(&gate).await?;
            Ok::<_, UpstreamError>(gate.last_attach())
        };
        let attach = attached(None).await?;
        match self.inner.upstream.twin(device, request.clone()).await {
            Err(error) if is_forgotten(&error) => {
                attached(Some(attach)).await?;
                self.inner.upstream.twin(device, request).await
            }
            result => result,
        }
    }

    /// Counts an answer to a method that came when nobody waited for it any more.
    ///
    /// A downstream that recognises one drops it and calls this.
    pub fn note_late_answer(&self, device: &DeviceId) {
        self.inner.commands.late.fetch_add(1, Relaxed);
        tracing::debug!(device.id = %device, "Method answered too late");
    }
}

/// Tells whether the hub may have forgotten a device that was attached: its verdict on a new attach
/// decides, not this one.
fn is_forgotten(error: &UpstreamError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnknownDevice | ErrorKind::Unauthorized
    )
}

/// Is the right to have one uplink on its way. Dropped unused, it gives its credit back.
#[derive(Debug)]
#[must_use = "a slot holds a credit"]
pub struct Slot {
    ingress: Ingress,
    credit: Option<OwnedSemaphorePermit>,
}

impl Slot {
    /// Sends an uplink on its way and waits for the hub's verdict.
    ///
    /// Uplinks of one device go in the order in which this was first polled. Those that come while
    /// one is on its way wait and then go together, as a batch
    /// ([`batches`](crate::GatewayConfig::batches)); each gets a verdict of its own.
    ///
    /// # Cancel safety
    /// Safe; the hub may or may not have the message, so the device must not be told anything. Other
    /// uplinks of the device go on: those that were in a batch with it may reach the hub twice.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async function would keep the uplink twice: in its argument and in its body"
    )]
    pub fn deliver(self, uplink: Uplink) -> impl Future<Output = Settlement> + Send {
        async move {
            let inner = &*self.ingress.inner;
            if self.credit.is_none() {
                return Settlement::RetryLater(DEFAULT_RETRY_AFTER);
            }
            let settlement = match inner.sessions.enter(&uplink.device) {
                Err(error) => Settlement::from(&error),
                Ok(session) => {
                    session.set_route(self.ingress.route);
                    match session.try_gate() {
                        Some(gate) => inner.send_now(&gate, &uplink).await,
                        // Larger than all the rest.
                        None => Box::pin(inner.send_in_turn(&session, uplink)).await,
                    }
                }
            };
            let counter = match settlement {
                Settlement::Accepted => &inner.counters.accepted,
                Settlement::Rejected(_) => &inner.counters.rejected,
                Settlement::RetryLater(_) => &inner.counters.retry_later,
            };
            counter.fetch_add(1, Relaxed);
            settlement
        }
    }
}

/// Announces a device that listens.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Announcement {
    /// The device.
    pub device: DeviceId,
    /// What it wants to hear.
    pub interest: Interest,
    /// The token it presented; without one, the credential provider is asked.
    pub token: Option<SasToken>,
}

impl Announcement {
    /// Announces a device that wants messages and methods and presented no token.
    #[must_use]
    pub fn new(device: DeviceId) -> Self {
        Self {
            device,
            interest: Interest::COMMANDS,
            token: None,
        }
    }

    /// Sets what the device wants to hear.
    #[must_use]
    pub fn with_interest(mut self, interest: Interest) -> Self {
        self.interest = interest;
        self
    }

    /// Sets the token that the device presented.
    #[must_use]
    pub fn with_token(mut self, token: Option<SasToken>) -> Self {
        self.token = token;
        self
    }
}

/// Keeps a device online; dropped, the device is offline, unless it has come online again since.
#[derive(Debug)]
#[must_use = "the device is offline when this is dropped"]
pub struct Presence {
    inner: Arc<Inner>,
    device: DeviceId,
    number: u32,
}

impl Presence {
    /// The device.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.inner.sessions.offline(&self.device, self.number);
    }
}
