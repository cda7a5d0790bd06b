//! The seam through which the hub speaks to devices.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::message::{
    CloudMessage, DesiredPatch, Disposition, MethodCall, MethodReply, SessionEnd,
};

/// Takes what the hub sends to a device.
///
/// An upstream calls it side by side for different devices and for different calls of one device;
/// an implementation that takes its time stalls nobody. Wrap one callback in another to intercept.
///
/// # Cancel safety
/// An upstream may drop a call whose verdict or answer is of no use any more: its deadline has
/// passed, the link that it came on is lost, or the device is detached.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use gateway_core::*;
/// #[derive(Debug)]
/// struct Reboot { next: Arc<dyn CloudCallback> }
///
/// #[async_trait::async_trait]
/// impl CloudCallback for Reboot {
///     async fn on_method(&self, call: MethodCall) -> MethodReply {
///         match call.name.as_str() {
///             "reboot_gateway" => MethodReply::new(202, "{}"),
///             _ => self.next.on_method(call).await,
///         }
///     }
///     async fn on_message(&self, message: CloudMessage) -> Disposition {
///         self.next.on_message(message).await
///     }
///     async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
///         self.next.on_desired(patch).await
///     }
///     async fn on_end(&self, end: SessionEnd) {
///         self.next.on_end(end).await;
///     }
/// }
/// ```
#[async_trait]
pub trait CloudCallback: fmt::Debug + Send + Sync + 'static {
    /// Answers a direct method. There is always a reply: 404, 501 and 504 are replies.
    async fn on_method(&self, call: MethodCall) -> MethodReply;

    /// Delivers a message and says what became of it.
    async fn on_message(&self, message: CloudMessage) -> Disposition;

    /// Brings a change of the desired properties and says what became of it. One that is
    /// [abandoned](Disposition::Abandon) may have missed its device: an upstream brings none that
    /// builds on it, but later all desired properties, marked as whole. Any other verdict is the end of
    /// it: the device has it, or newer ones, or is not there and reads its twin itself when it comes.
    async fn on_desired(&self, patch: DesiredPatch) -> Disposition;

    /// Tells that the hub ended the device's session.
    async fn on_end(&self, end: SessionEnd);
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: CloudCallback + ?Sized> CloudCallback for Arc<T> {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        (**self).on_method(call).await
    }

    async fn on_message(&self, message: CloudMessage) -> Disposition {
        (**self).on_message(message).await
    }

    async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
        (**self).on_desired(patch).await
    }

    async fn on_end(&self, end: SessionEnd) {
        (**self).on_end(end).await;
    }
}
