//! The HTTPS side: one connection, its requests, and what they are answered with.

pub(crate) mod auth;
pub(crate) mod body;
mod error;
pub(crate) mod etag;
mod provisioning;
pub(crate) mod registry;
mod service;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;

use crate::cloud::Caller;
use crate::faults::Order;
use crate::guid::Guid;
use crate::hub::Hub;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::peer::{Notice, Peer};
use crate::line::Line;

/// Bytes that the headers of a request may have.
const MAX_HEADERS: usize = 64 * 1024;

/// All that the hubs answer to; each part brings its own.
fn routes() -> Router<HttpState> {
    Router::new()
        .merge(registry::routes())
        .merge(provisioning::routes())
        .merge(service::routes())
        .fallback(async || HubError::new(ErrorCode::LinkAddressNotFound, "No such path."))
}

/// What the requests of one connection share.
#[derive(Debug, Clone)]
pub(crate) struct HttpState(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    caller: Caller,
    peer: Arc<Peer>,
    /// The hub whose faults the connection feels: the last one it called.
    home: Mutex<Arc<Hub>>,
}

impl HttpState {
    fn new(caller: Caller) -> Self {
        let peer = caller.hub.join();
        Self(Arc::new(Connection {
            home: Mutex::new(Arc::clone(&caller.hub)),
            caller,
            peer,
        }))
    }

    /// Who calls.
    pub(crate) fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// The connection as the hub sees it.
    pub(crate) fn peer(&self) -> &Arc<Peer> {
        &self.0.peer
    }

    /// The hub that a `Host` header names; if it names none, the one that the handshake named.
    pub(crate) fn hub_at(&self, host: Option<&str>) -> Arc<Hub> {
        let caller = self.caller();
        let named = host.and_then(|host| caller.cloud.hub_at(host));
        let hub = named.unwrap_or_else(|| Arc::clone(&caller.hub));
        let mut home = self.0.home.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&home, &hub) {
            home.leave(self.0.peer.id);
            hub.adopt(&self.0.peer);
            *home = Arc::clone(&hub);
        }
        hub
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let home = self.home.get_mut().unwrap_or_else(PoisonError::into_inner);
        home.leave(self.peer.id);
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve(line: impl Line, caller: Caller) {
    let limits = caller.hub.limits.clone();
    let state = HttpState::new(caller);
    let app = routes()
        .layer(middleware::from_fn_with_state(state.clone(), body::arrive))
        .layer(middleware::from_fn_with_state(state.clone(), finish))
        .with_state(state.clone());
    let app = TowerToHyperService::new(app);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        Box::pin(app.call(request)) as Pin<Box<dyn Future<Output = Answer> + Send>>
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http_idle_timeout)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(line), service);
    let peer = Arc::clone(state.peer());
    tracing::debug!(connection = %peer.id, "HTTP connection is open");
    let mut frozen = false;
    loop {
        for notice in peer.collect() {
            match notice {
                Notice::Order(Order::Cut) => {
                    connection.into_parts().io.into_inner().reset_on_drop();
                    tracing::info!(connection = %peer.id, "Connection is cut by script");
                    return;
                }
                Notice::Order(Order::Close(_)) => return,
                Notice::Order(Order::Freeze(freeze)) => frozen = freeze,
                _ => {}
            }
        }
        let ended = tokio::select! {
            biased;
            () = peer.posted() => continue,
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)), if !frozen => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(connection = %peer.id, %error, "HTTP connection is broken off");
        }
        break;
    }
    tracing::debug!(connection = %peer.id, "HTTP connection has ended");
}

type Answer = Result<Response, Infallible>;

/// Adds what every answer has, and answers as late as a script has it.
async fn finish(State(state): State<HttpState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let server = HeaderValue::from_static("Microsoft-HTTPAPI/2.0");
    headers.insert(header::SERVER, server);
    if let Ok(id) = HeaderValue::from_str(&Guid::random().to_string()) {
        headers.insert(HeaderName::from_static("x-ms-request-id"), id);
    }
    let latency = state.caller().hub.script.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    response
}
