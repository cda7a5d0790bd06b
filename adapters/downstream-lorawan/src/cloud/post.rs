//! Posts downlinks to a network server.

mod connection;
mod server;

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::StatusCode;
use gateway_core::ConfigError;
use tokio::sync::Semaphore;

use super::config::PostConfig;
use super::dialect::{Dialect, Publication};
use super::intake::Routes;
use crate::embed::NetworkServer;
use crate::event::{DevEui, Downlink, DownlinkId, FailureReason};

use server::Server;
pub(super) use server::Target;

/// Requests at a time; more wait. Few, since each has a connection.
const MAX_REQUESTS: usize = 32;

/// Sends downlinks by posting them.
#[derive(Debug)]
pub(super) struct PostNetwork {
    server: Server,
    dialect: Arc<dyn Dialect>,
    routes: Arc<Routes>,
    requests: Semaphore,
}

impl PostNetwork {
    /// Makes one for the server of this URL.
    ///
    /// # Errors
    /// A setting is wrong, or no certificate is trusted.
    pub(super) fn new(
        config: &PostConfig,
        dialect: Arc<dyn Dialect>,
        routes: Arc<Routes>,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            server: Server::new(config)?,
            dialect,
            routes,
            requests: Semaphore::new(MAX_REQUESTS),
        })
    }

    async fn post(&self, Publication { topic, body }: Publication) -> Result<(), FailureReason> {
        let _permit = self.requests.acquire().await;
        let answered = self.server.post(&topic, body).await;
        let status = answered.map_err(|error| {
            tracing::warn!(error, "The network server cannot be reached");
            FailureReason::Busy
        })?;
        match status {
            _ if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(FailureReason::UnknownDevice),
            // A webhook that is paused.
            StatusCode::NOT_ACCEPTABLE | StatusCode::TOO_MANY_REQUESTS => Err(FailureReason::Busy),
            _ if status.is_server_error() => Err(FailureReason::Busy),
            _ => {
                tracing::warn!(%status, "The network server refuses a downlink; look at its rights");
                Err(FailureReason::Refused)
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl NetworkServer for PostNetwork {
    async fn send(&self, downlink: Downlink) -> Result<(), FailureReason> {
        let route = self.routes.find(downlink.dev_eui);
        let route = route.ok_or(FailureReason::UnknownDevice)?;
        self.post(self.dialect.send(&downlink, &route)).await
    }

    async fn withdraw(&self, dev_eui: DevEui, downlink: &DownlinkId) {
        let route = self.routes.find(dev_eui);
        let Some(publication) = route.and_then(|route| self.dialect.withdraw(&route)) else {
            return;
        };
        if self.post(publication).await.is_err() {
            tracing::debug!(device.id = %dev_eui, %downlink, "Downlink could not be withdrawn");
        }
    }
}
