//! From the hub to the downstream that last saw the device.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use crate::callback::CloudCallback;
use crate::downstream::Downstream;
use crate::error::DownstreamError;
use crate::error::ErrorKind::{self, Rejected, TooLarge, UnknownDevice, Unsupported};
use crate::id::DeviceId;
use crate::message::{
    CloudMessage, Delivered, DesiredPatch, Disposition, Downlink, MethodCall, MethodReply,
    SessionEnd,
};
use crate::session::SessionTable;

/// How long a downstream may take over what has no deadline of its own, so that it does not pile
/// up behind a device that takes nothing.
const NOTICE_TIME: Duration = Duration::from_secs(30);

/// Counts commands and what became of them.
#[derive(Debug, Default)]
pub(crate) struct CommandCounters {
    /// Messages that devices have.
    pub completed: AtomicU64,
    /// Messages that could never be delivered.
    pub rejected: AtomicU64,
    /// Messages that could not be delivered in time.
    pub abandoned: AtomicU64,
    /// Methods that devices answered.
    pub answered: AtomicU64,
    /// Methods answered in a device's place.
    pub unanswered: AtomicU64,
    /// Answers to methods that nobody waited for any more.
    pub late: AtomicU64,
    /// Changes of desired properties that devices were given.
    pub desired_delivered: AtomicU64,
    /// Changes of desired properties that devices had already, or newer ones.
    pub desired_stale: AtomicU64,
    /// Changes of desired properties that did not reach their device.
    pub desired_undelivered: AtomicU64,
}

/// Routes what the hub sends to the downstream that last saw the device.
#[derive(Debug)]
pub(crate) struct Router {
    sessions: Weak<SessionTable>,
    downstreams: Vec<Arc<dyn Downstream>>,
    counters: Arc<CommandCounters>,
}

impl Router {
    pub(crate) fn new(
        sessions: Weak<SessionTable>,
        downstreams: Vec<Arc<dyn Downstream>>,
        counters: Arc<CommandCounters>,
    ) -> Self {
        Self {
            sessions,
            downstreams,
            counters,
        }
    }

    fn find(&self, device: &DeviceId) -> Option<&Arc<dyn Downstream>> {
        let route = self.sessions.upgrade()?.route(device)?;
        self.downstreams.get(route as usize)
    }

    async fn deliver(
        &self,
        downlink: Downlink,
        deadline: Instant,
    ) -> Result<Delivered, DownstreamError> {
        let device = downlink.device().clone();
        let result = match self.find(&device) {
            None => Err(DownstreamError::new(ErrorKind::UnknownDevice, "route")),
            Some(downstream) => match timeout_at(deadline, caught(downstream.send(downlink))).await
            {
                Ok(Some(result)) => result,
                Ok(None) => {
                    tracing::error!(device.id = %device, "A downstream panicked; its command has failed");
                    Err(DownstreamError::new(ErrorKind::Other, "send").with_source("it panicked"))
                }
                Err(_) => Err(DownstreamError::undelivered(ErrorKind::TimedOut)),
            },
        };
        if let Err(error) = &result {
            tracing::debug!(device.id = %device, error = %error, "Downlink not delivered");
        }
        result
    }
}

/// Gives a future's outcome, or none if it panics: its caller would take others with it, such as the
/// task that brings a device all its commands.
async fn caught<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CloudCallback for Router {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        let deadline = call.deadline;
        let (counter, reply) = match self.deliver(Downlink::Method(call), deadline).await {
            Ok(Delivered::Answered(reply)) => (&self.counters.answered, reply),
            Ok(Delivered::Acknowledged | Delivered::Sent) => {
                (&self.counters.unanswered, MethodReply::new(202, "{}"))
            }
            Err(error) => (&self.counters.unanswered, MethodReply::from_error(&error)),
        };
        counter.fetch_add(1, Relaxed);
        reply
    }

    async fn on_message(&self, message: CloudMessage) -> Disposition {
        let deadline = message.deadline;
        let result = self.deliver(Downlink::Message(message), deadline).await;
        let (counter, disposition) = match result.map_err(|error| error.kind()) {
            Ok(_) => (&self.counters.completed, Disposition::Complete),
            Err(Rejected | TooLarge | Unsupported) => {
                (&self.counters.rejected, Disposition::Reject)
            }
            Err(_) => (&self.counters.abandoned, Disposition::Abandon),
        };
        counter.fetch_add(1, Relaxed);
        disposition
    }

    async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
        let Some(sessions) = self.sessions.upgrade() else {
            return Disposition::Complete;
        };
        let Some(passage) = sessions.pass_desired(&patch) else {
            let (device, version) = (&patch.device, patch.version);
            tracing::debug!(device.id = %device, version, "Desired change is not new");
            self.counters.desired_stale.fetch_add(1, Relaxed);
            return Disposition::Complete;
        };
        let deadline = Instant::now() + NOTICE_TIME;
        let result = self.deliver(Downlink::Desired(patch), deadline).await;
        let (counter, disposition) = match result.map_err(|error| error.kind()) {
            Ok(_) => {
                passage.arrived();
                (&self.counters.desired_delivered, Disposition::Complete)
            }
            Err(kind) => {
                let disposition = match kind {
                    // A device that is not there reads its twin when it comes back.
                    UnknownDevice => Disposition::Complete,
                    Rejected | TooLarge | Unsupported => Disposition::Reject,
                    _ => Disposition::Abandon,
                };
                (&self.counters.desired_undelivered, disposition)
            }
        };
        counter.fetch_add(1, Relaxed);
        disposition
    }

    async fn on_end(&self, end: SessionEnd) {
        let deadline = Instant::now() + NOTICE_TIME;
        drop(self.deliver(Downlink::End(end), deadline).await);
    }
}
