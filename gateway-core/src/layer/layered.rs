use std::fmt;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::callback::CloudCallback;
use crate::error::UpstreamError;
use crate::explain::UpstreamExplanation;
use crate::id::DeviceId;
use crate::message::{TwinReply, TwinRequest, Uplink};
use crate::upstream::{DeviceIdentity, Upstream};

/// Is what an upstream is asked, as a [`Layer`] sees it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Request<'a> {
    /// [`Upstream::attach`].
    Attach(&'a DeviceIdentity),
    /// [`Upstream::send`], or [`Upstream::send_batch`] of at least one message.
    Send(&'a DeviceId, &'a [Uplink]),
    /// [`Upstream::twin`].
    Twin(&'a DeviceId, &'a TwinRequest),
    /// [`Upstream::detach`].
    Detach(&'a DeviceId),
}

impl Request<'_> {
    /// The device that it is about.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        match self {
            Self::Attach(identity) => &identity.device,
            Self::Send(device, _) | Self::Twin(device, _) | Self::Detach(device) => device,
        }
    }

    /// The operation's name in errors.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Attach(_) => "attach",
            Self::Send(..) => "send",
            Self::Twin(..) => "twin",
            Self::Detach(_) => "detach",
        }
    }
}

/// Stands between a gateway and its upstream, and does one thing to every request that passes.
///
/// Two of them in a pair are one, the first around the second: `(observe, (retry, timeout))`.
///
/// ```
/// use gateway_core::layer::{Layer, Layered, Limit, Request};
/// use gateway_core::{ErrorKind, Upstream, UpstreamError};
///
/// /// For a tier of the hub that has no twins: says so, and does not ask.
/// #[derive(Debug)]
/// struct NoTwins;
///
/// impl Layer for NoTwins {
///     async fn call<T, F>(
///         &self,
///         request: &Request<'_>,
///         next: impl Fn() -> F + Send + Sync,
///     ) -> Result<T, UpstreamError>
///     where
///         T: Send,
///         F: Future<Output = Result<T, UpstreamError>> + Send,
///     {
///         match request {
///             Request::Twin(..) => {
///                 Err(UpstreamError::new(ErrorKind::Unsupported, request.operation()))
///             }
///             _ => next().await,
///         }
///     }
/// }
///
/// fn basic_tier(upstream: impl Upstream) -> impl Upstream {
///     Layered::new((NoTwins, Limit::new(100)), upstream)
/// }
/// ```
pub trait Layer: fmt::Debug + Send + Sync + 'static {
    /// Has a request done by `next`: once, several times or not at all.
    ///
    /// # Errors
    /// The upstream's, or the layer's own where it did not ask, or no longer.
    ///
    /// # Cancel safety
    /// As the upstream's for that request.
    fn call<T, F>(
        &self,
        request: &Request<'_>,
        next: impl Fn() -> F + Send + Sync,
    ) -> impl Future<Output = Result<T, UpstreamError>> + Send
    where
        T: Send,
        F: Future<Output = Result<T, UpstreamError>> + Send;

    /// Hears that the upstream is about to be closed.
    fn close(&self) {}
}

impl<A: Layer, B: Layer> Layer for (A, B) {
    async fn call<T, F>(
        &self,
        request: &Request<'_>,
        next: impl Fn() -> F + Send + Sync,
    ) -> Result<T, UpstreamError>
    where
        T: Send,
        F: Future<Output = Result<T, UpstreamError>> + Send,
    {
        let (outer, inner) = self;
        outer.call(request, || inner.call(request, &next)).await
    }

    fn close(&self) {
        self.0.close();
        self.1.close();
    }
}

/// Is an upstream behind layers.
#[derive(Debug)]
pub struct Layered<L, U> {
    layers: L,
    upstream: U,
}

impl<L: Layer, U: Upstream> Layered<L, U> {
    /// Puts a layer, or several in pairs, in front of an upstream.
    #[must_use]
    pub fn new(layers: L, upstream: U) -> Self {
        Self { layers, upstream }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<L: Layer, U: Upstream> Upstream for Layered<L, U> {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let request = Request::Attach(&identity);
        let next = || self.upstream.attach(identity.clone(), callback.clone());
        self.layers.call(&request, next).await
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        let request = Request::Send(&uplink.device, slice::from_ref(uplink));
        let next = || self.upstream.send(uplink);
        self.layers.call(&request, next).await
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        let next = || self.upstream.send_batch(uplinks);
        match uplinks.first() {
            Some(first) => {
                let request = Request::Send(&first.device, uplinks);
                self.layers.call(&request, next).await
            }
            None => next().await,
        }
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        let next = || self.upstream.twin(device, request.clone());
        let request = Request::Twin(device, &request);
        self.layers.call(&request, next).await
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        let next = || self.upstream.detach(device);
        self.layers.call(&Request::Detach(device), next).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.upstream.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.layers.close();
        self.upstream.close(grace).await
    }
}
