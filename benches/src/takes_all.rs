//! A hub that costs nothing, where only the devices' side is measured.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::{
    CloudCallback, DeviceId, DeviceIdentity, ErrorKind, TwinReply, TwinRequest, Uplink, Upstream,
    UpstreamError, UpstreamExplanation,
};

/// A hub that has everything at once and keeps nothing.
#[derive(Debug, Clone, Copy)]
pub struct TakesAll;

#[async_trait]
impl Upstream for TakesAll {
    async fn attach(
        &self,
        _: DeviceIdentity,
        _: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        Ok(())
    }

    async fn send(&self, _: &Uplink) -> Result<(), UpstreamError> {
        Ok(())
    }

    async fn send_batch(&self, _: &[Uplink]) -> Result<(), UpstreamError> {
        Ok(())
    }

    async fn twin(&self, _: &DeviceId, _: TwinRequest) -> Result<TwinReply, UpstreamError> {
        Err(UpstreamError::new(ErrorKind::Unsupported, "twin"))
    }

    async fn detach(&self, _: &DeviceId) -> Result<(), UpstreamError> {
        Ok(())
    }

    fn explain(&self, _: &DeviceId) -> Option<UpstreamExplanation> {
        None
    }

    async fn close(&self, _: Duration) -> Result<(), UpstreamError> {
        Ok(())
    }
}
