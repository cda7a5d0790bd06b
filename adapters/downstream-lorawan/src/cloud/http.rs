//! Takes what a network server posts.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use gateway_core::Settlement;
use gateway_net::{Guest, Listener, Room};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::config::HttpConfig;
use super::dialect::Dialect;
use super::intake::{Intake, Retry};

/// Is what a request says.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) query: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a [u8],
}

/// Answers the requests of a network server.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) config: HttpConfig,
    pub(super) dialect: Arc<dyn Dialect>,
}

impl Receiver {
    /// Serves until shutdown; what was asked by then is answered.
    pub(super) async fn run(
        self,
        mut listener: Listener,
        intake: Arc<Intake>,
        shutdown: CancellationToken,
    ) {
        let receiver = Arc::new(self);
        let mut room = Room::new(receiver.config.max_connections);
        let mut connections = JoinSet::new();
        loop {
            while let Some(ended) = connections.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(error = %error, "A task panicked; please report this");
                }
            }
            let come = async {
                let (stream, _) = listener.accept().await;
                (stream, room.admit().await)
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                (stream, guest) = come => {
                    let (receiver, intake) = (receiver.clone(), intake.clone());
                    connections.spawn(receiver.serve(stream, guest, intake, shutdown.clone()));
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        guest: Guest,
        intake: Arc<Intake>,
        shutdown: CancellationToken,
    ) {
        let service = service_fn(|request| {
            let (receiver, guest, intake) = (&self, &guest, &intake);
            async move { Ok::<_, Infallible>(receiver.answer(request, guest, intake).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.idle_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let patience = self.config.idle_timeout;
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = guest.displaced() => {
                tracing::debug!("Connection without a token closed: another needs its place");
                return;
            }
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                timeout(patience, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = %error, "Connection of a network server ended");
        }
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        guest: &Guest,
        intake: &Intake,
    ) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = match self.take(request, guest, intake).await {
            Ok(Settlement::Accepted) => StatusCode::NO_CONTENT,
            Ok(Settlement::Rejected(_)) => StatusCode::UNPROCESSABLE_ENTITY,
            Ok(Settlement::RetryLater(after)) => {
                let seconds = after.as_secs().saturating_add(1);
                response.headers_mut().insert(RETRY_AFTER, seconds.into());
                StatusCode::SERVICE_UNAVAILABLE
            }
            Ok(_) => StatusCode::SERVICE_UNAVAILABLE,
            Err(status) => status,
        };
        if !guest.is_known() {
            // Or it could keep its place by asking on, and by reading no answer.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    async fn take(
        &self,
        request: hyper::Request<Incoming>,
        guest: &Guest,
        intake: &Intake,
    ) -> Result<Settlement, StatusCode> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        if !self.is_authorized(&head.headers) {
            tracing::warn!("A request came without the right token");
            return Err(StatusCode::UNAUTHORIZED);
        }
        guest.introduce();
        let body = to_bytes(Body::new(body), self.config.max_body);
        let body = timeout(self.config.idle_timeout, body).await;
        let body = body.map_err(|_| StatusCode::REQUEST_TIMEOUT)?;
        let body = body.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
        let content_type = head.headers.get(CONTENT_TYPE);
        let request = Request {
            query: head.uri.query().unwrap_or_default(),
            content_type: content_type.map_or("", |value| value.to_str().unwrap_or_default()),
            body: &body,
        };
        let told = self.dialect.read_request(&request).map_err(|error| {
            tracing::warn!(error = %error, lost = 1, "Request was not understood");
            StatusCode::BAD_REQUEST
        })?;
        let turn = intake.queue(&told);
        Ok(intake.take(turn, told, Retry::Sender).await)
    }

    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
        given.is_some_and(|given| given.ct_eq(self.config.token.reveal().as_bytes()).into())
    }
}
