//! A device that misses changes of its desired properties.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use async_trait::async_trait;
use gateway_core::testkit::RecordingCallback;
use gateway_core::{
    CloudCallback, CloudMessage, DesiredPatch, Disposition, MethodCall, MethodReply, SessionEnd,
};

/// Records all, and says of its first changes that the device may have missed them.
#[derive(Debug)]
pub(crate) struct Misses {
    pub(crate) record: RecordingCallback,
    left: AtomicUsize,
}

impl Misses {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            record: RecordingCallback::new(),
            left: AtomicUsize::new(count),
        })
    }
}

#[async_trait]
impl CloudCallback for Misses {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        self.record.on_method(call).await
    }
    async fn on_message(&self, message: CloudMessage) -> Disposition {
        self.record.on_message(message).await
    }
    async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
        let verdict = self.record.on_desired(patch).await;
        match one_less(&self.left) {
            true => Disposition::Abandon,
            false => verdict,
        }
    }
    async fn on_end(&self, end: SessionEnd) {
        self.record.on_end(end).await;
    }
}

/// Counts down; false at zero.
pub(crate) fn one_less(left: &AtomicUsize) -> bool {
    let less = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
    less.is_ok()
}
