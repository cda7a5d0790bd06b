//! The seam to the hub.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::Deserialize;

use crate::callback::CloudCallback;
use crate::credential::{Credential, CredentialSource};
use crate::error::{ErrorKind, UpstreamError};
use crate::explain::UpstreamExplanation;
use crate::id::DeviceId;
use crate::message::{SessionEnd, TwinReply, TwinRequest, Uplink};

/// Says what a device wants to hear from the hub. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Interest {
    /// Cloud-to-device messages.
    pub messages: bool,
    /// Direct methods.
    pub methods: bool,
    /// Changes of the desired properties.
    pub desired: bool,
}

impl Interest {
    /// Wants nothing: a device that only speaks.
    pub const NONE: Self = Self {
        messages: false,
        methods: false,
        desired: false,
    };
    /// Wants messages and methods.
    pub const COMMANDS: Self = Self {
        messages: true,
        methods: true,
        desired: false,
    };
    /// Wants everything.
    pub const ALL: Self = Self {
        messages: true,
        methods: true,
        desired: true,
    };

    /// What either of two wants.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            messages: self.messages || other.messages,
            methods: self.methods || other.methods,
            desired: self.desired || other.desired,
        }
    }

    /// Sets whether cloud-to-device messages are wanted.
    #[must_use]
    pub const fn with_messages(mut self, wanted: bool) -> Self {
        self.messages = wanted;
        self
    }

    /// Sets whether direct methods are wanted.
    #[must_use]
    pub const fn with_methods(mut self, wanted: bool) -> Self {
        self.methods = wanted;
        self
    }

    /// Sets whether changes of the desired properties are wanted.
    #[must_use]
    pub const fn with_desired(mut self, wanted: bool) -> Self {
        self.desired = wanted;
        self
    }
}

/// A hub that refuses a token which lapses so soon means that: its clock is not ours.
const ABOUT_TO_LAPSE: Duration = Duration::from_secs(60);

/// Is a device as the hub is to know it: who it is, how it proves that, what it wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceIdentity {
    /// The device.
    pub device: DeviceId,
    /// The proof.
    pub credential: Credential,
    /// What it wants to hear.
    pub interest: Interest,
    /// Whom to ask for a newer proof once the hub refuses this one; nobody for what the device
    /// presented itself.
    pub source: Option<CredentialSource>,
}

impl DeviceIdentity {
    /// Makes the identity of a device that only speaks.
    #[must_use]
    pub fn new(device: DeviceId, credential: Credential) -> Self {
        Self {
            device,
            credential,
            interest: Interest::NONE,
            source: None,
        }
    }

    /// Sets whom to ask for a newer proof once the hub refuses this one.
    #[must_use]
    pub fn with_source(mut self, source: CredentialSource) -> Self {
        self.source = Some(source);
        self
    }

    /// Sets what the device wants to hear.
    #[must_use]
    pub fn with_interest(mut self, interest: Interest) -> Self {
        self.interest = interest;
        self
    }

    /// Tells whether there may be a newer proof without the device's doing.
    #[must_use]
    pub fn can_renew(&self) -> bool {
        self.source.is_some() || !matches!(self.credential, Credential::SasToken(_))
    }

    /// Tells whether the token that the device presented lapses within this time.
    #[must_use]
    pub fn has_lapsed(&self, within: Duration) -> bool {
        match &self.credential {
            Credential::SasToken(token) => token.expires() <= SystemTime::now() + within,
            _ => false,
        }
    }

    /// Makes the notice that the hub ended the device's session, with what the device has to do if
    /// its own token was refused.
    #[must_use]
    pub fn session_end(&self, reason: ErrorKind) -> SessionEnd {
        let device = self.device.clone();
        match reason {
            ErrorKind::Unauthorized if self.has_lapsed(ABOUT_TO_LAPSE) => {
                SessionEnd::expired(device)
            }
            ErrorKind::Unauthorized if !self.can_renew() => SessionEnd::new(device, reason)
                .with_detail("the hub refuses the device's token; it must present a new one"),
            _ => SessionEnd::new(device, reason),
        }
    }
}

/// Carries devices' messages to a hub, many devices over few connections.
///
/// An attached device stays attached over lost connections until it is detached or the hub ends
/// its session, which [`CloudCallback::on_end`] tells. A hub that refuses a device's credential ends
/// its session only if the [source](DeviceIdentity::source), if there is one, knows no newer one.
#[async_trait]
pub trait Upstream: fmt::Debug + Send + Sync + 'static {
    /// Makes a device known to the hub, or changes credential, interest and callback of one that
    /// is.
    ///
    /// Ok means that the hub has accepted the credential and takes uplinks. What the device wants
    /// to hear is subscribed to soon after, since hubs pace that.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthorized`](crate::ErrorKind::Unauthorized) or
    /// [`ErrorKind::UnknownDevice`](crate::ErrorKind::UnknownDevice) if the hub refuses the
    /// device; a retryable kind if the hub cannot be asked now. A device that was attached before
    /// keeps its old credential.
    ///
    /// # Cancel safety
    /// Safe: the attach is undone, and what the device had before stands.
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError>;

    /// Sends a message; Ok if and only if the hub has accepted it.
    ///
    /// Messages of one device reach the hub in the order in which their `send` was first polled.
    ///
    /// # Errors
    /// `UnknownDevice` if the device is not attached; the hub's verdict; `Disconnected` or
    /// `TimedOut` if it is not known whether the hub has the message.
    ///
    /// # Cancel safety
    /// Safe for the link; the hub may or may not have the message.
    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError>;

    /// Sends messages of one device, in this order; Ok if and only if the hub has accepted all.
    ///
    /// It is worth more than as many [`send`](Self::send)s where the hub takes a batch as one. An
    /// upstream that has no batches sends them one after the other, without waiting for each.
    /// Towards other sends of the device it takes its turn as one message. No messages are Ok.
    ///
    /// # Errors
    /// As [`send`](Self::send): none is known to have been accepted, and any may have been.
    /// `TooLarge` as well if only the batch is, and not one of its messages. Smaller batches tell
    /// which message was meant.
    ///
    /// # Cancel safety
    /// Safe for the link; the hub may or may not have the messages.
    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError>;

    /// Asks the hub about the device's twin.
    ///
    /// # Errors
    /// As [`send`](Self::send); `Unsupported` where the hub has no twins.
    ///
    /// # Cancel safety
    /// Safe; a patch may or may not have been applied.
    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError>;

    /// Ends a device's session; Ok as well if it had none.
    ///
    /// # Errors
    /// A retryable kind if the hub did not confirm; the device is forgotten all the same.
    ///
    /// # Cancel safety
    /// Safe: it goes on by itself.
    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError>;

    /// Tells how a device stands; none if it is not attached and there is nothing to tell of it.
    ///
    /// It looks at what is here and asks nobody, so that it has an answer when the hub has none.
    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation>;

    /// Lets what is in flight settle within the grace, then closes every connection. Later calls
    /// of any method give `Closed`.
    ///
    /// # Errors
    /// `TimedOut` if something was still in flight at the end of the grace.
    ///
    /// # Cancel safety
    /// Not safe: call it to its end, or drop the upstream.
    async fn close(&self, grace: Duration) -> Result<(), UpstreamError>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Upstream + ?Sized> Upstream for Arc<T> {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        (**self).attach(identity, callback).await
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        (**self).send(uplink).await
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        (**self).send_batch(uplinks).await
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        (**self).twin(device, request).await
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        (**self).detach(device).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        (**self).explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        (**self).close(grace).await
    }
}
