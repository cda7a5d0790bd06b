//! Posts downlinks to a network server.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::uri::Scheme;
use axum::http::{Request, StatusCode, Uri};
use gateway_core::ConfigError;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::config::{PostConfig, Secret};
use super::dialect::{Dialect, Publication};
use super::intake::Routes;
use super::tls;
use crate::embed::NetworkServer;
use crate::event::{DevEui, Downlink, DownlinkId, FailureReason};

/// Requests at a time; more wait. Few, since each is a connection of its own.
const MAX_REQUESTS: usize = 32;

/// Sends downlinks by posting them. Each request has a connection of its own: a device takes one
/// downlink an uplink, so that little would be saved.
#[derive(Debug)]
pub(super) struct PostNetwork {
    server: Server,
    dialect: Arc<dyn Dialect>,
    routes: Arc<Routes>,
    requests: Semaphore,
}

/// Where requests go.
struct Server {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Secret,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Tells why a request had no answer.
type PostError = Box<dyn std::error::Error + Send + Sync>;

impl PostNetwork {
    /// Makes one for the server of this URL.
    ///
    /// # Errors
    /// It is no URL of a server, or no certificate is trusted.
    pub(super) fn new(
        config: PostConfig,
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
        let answered = self.server.post(&topic, Body::from(body)).await;
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

impl Server {
    fn new(config: PostConfig) -> Result<Self, ConfigError> {
        let url = &config.url;
        let wrong = || {
            let allowed = "https://HOST or http://HOST, with :PORT if need be";
            ConfigError::new("url", format!("is {url:?}"), allowed)
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?.to_owned();
        if uri.path().len() > 1 || uri.query().is_some() {
            return Err(wrong());
        }
        let (default_port, tls) = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => (80, None),
            Some(scheme) if *scheme == Scheme::HTTPS => {
                let name = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(|_| wrong())?;
                let config = tls::client_config(config.ca_file.as_deref())?;
                (443, Some((TlsConnector::from(config), name)))
            }
            _ => return Err(wrong()),
        };
        Ok(Self {
            port: uri.port_u16().unwrap_or(default_port),
            host,
            tls,
            token: config.api_key,
        })
    }

    async fn post(&self, path: &str, body: Body) -> Result<StatusCode, PostError> {
        let host = self.host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, self.port)).await?;
        let request = Request::post(path)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(AUTHORIZATION, format!("Bearer {}", self.token.reveal()))
            .header(CONTENT_TYPE, "application/json")
            .body(body)?;
        match &self.tls {
            None => exchange(stream, request).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                exchange(stream, request).await
            }
        }
    }
}

/// Sends a request on a new connection, and gives the status of the answer.
async fn exchange<S>(stream: S, request: Request<Body>) -> Result<StatusCode, PostError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut answer = pin!(sender.send_request(request));
    tokio::select! {
        answer = answer.as_mut() => Ok(answer?.status()),
        // The answer may have come with the end; otherwise it tells what is wrong.
        _ = connection => Ok(answer.await?.status()),
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
