//! Where requests go, and the connections with it.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::uri::Scheme;
use axum::http::{HeaderValue, Request, StatusCode, Uri};
use bytes::Bytes;
use gateway_core::ConfigError;
use gateway_net::tls::client;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::super::config::PostConfig;
use super::connection::{Connection, Unanswered};

/// How long a connection is kept for the next request: less than servers keep one.
const KEPT: Duration = Duration::from_secs(30);

/// Tells why a request had no answer.
pub(super) type PostError = Box<dyn std::error::Error + Send + Sync>;

/// Is what a URL says of a server.
#[derive(Debug)]
pub(crate) struct Target {
    host: String,
    port: u16,
    /// The name in its certificate, where it speaks TLS.
    name: Option<ServerName<'static>>,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is none of a server.
    pub(crate) fn parse(url: &str) -> Result<Self, ConfigError> {
        let wrong = || {
            let allowed = "https://HOST or http://HOST, with :PORT if need be";
            ConfigError::new("url", format!("is {url:?}"), allowed)
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?.to_owned();
        if uri.path().len() > 1 || uri.query().is_some() {
            return Err(wrong());
        }
        let (default_port, name) = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => (80, None),
            Some(scheme) if *scheme == Scheme::HTTPS => {
                let name = host.trim_matches(['[', ']']).to_owned();
                (443, Some(ServerName::try_from(name).map_err(|_| wrong())?))
            }
            _ => return Err(wrong()),
        };
        let port = uri.port_u16().unwrap_or(default_port);
        Ok(Self { host, port, name })
    }
}

/// Answers requests.
pub(super) struct Server {
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// What every request has as `Authorization`.
    authorization: HeaderValue,
    /// Connections that no request uses, and since when; the last is the newest. There are no more
    /// than requests at a time: one is opened only where none is left.
    idle: Mutex<Vec<(Instant, Connection)>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.target.host, self.target.port)
    }
}

impl Server {
    /// Makes one; it is connected with when there is a request.
    ///
    /// # Errors
    /// A setting is wrong, or no certificate is trusted.
    pub(super) fn new(config: &PostConfig) -> Result<Self, ConfigError> {
        let mut target = Target::parse(&config.url)?;
        let tls = match target.name.take() {
            Some(name) => {
                let trust = client::config(config.ca_file.as_deref(), None)?;
                Some((TlsConnector::from(trust), name))
            }
            None => None,
        };
        let mut authorization = config.authorization()?;
        authorization.set_sensitive(true);
        Ok(Self {
            target,
            tls,
            authorization,
            idle: Mutex::default(),
        })
    }

    /// Posts JSON to a path, and gives the status of the answer.
    ///
    /// # Cancel safety
    /// Safe; the server may or may not have the request.
    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<StatusCode, PostError> {
        let mut request = Request::post(path)
            .header(HOST, format!("{}:{}", self.target.host, self.target.port))
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body))?;
        while let Some(kept) = self.take() {
            match kept.post(request).await {
                Ok(answered) => return Ok(self.keep(answered)),
                // It was closed meanwhile.
                Err(Unanswered {
                    unsent: Some(unsent),
                    ..
                }) => request = unsent,
                Err(Unanswered { error, .. }) => return Err(error.into()),
            }
        }
        let answered = self.connect().await?.post(request).await;
        Ok(self.keep(answered.map_err(|unanswered| unanswered.error)?))
    }

    async fn connect(&self) -> Result<Connection, PostError> {
        let host = self.target.host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, self.target.port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Connection::open(stream).await?,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                Connection::open(stream).await?
            }
        })
    }

    /// Takes the newest connection, and closes those that are too old.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < KEPT);
        idle.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, (status, connection): (StatusCode, Option<Connection>)) -> StatusCode {
        if let Some(connection) = connection {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((Instant::now(), connection));
        }
        status
    }
}
