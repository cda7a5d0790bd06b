//! The HTTPS side: one connection, its requests, and what they are answered with.

pub(crate) mod auth;
pub(crate) mod body;
mod error;
pub(crate) mod etag;
mod feedback;
mod inbox;
mod methods;
mod patience;
mod provisioning;
pub(crate) mod registry;
mod service;
mod spelling;
mod telemetry;
mod websocket;

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::amqp;
use crate::cloud::Caller;
use crate::faults::{Order, Settling};
use crate::guid::Guid;
use crate::hub::Hub;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::peer::{Notice, Peer};
use crate::line::Line;
use crate::mqtt;
use crate::shell::linger;
use patience::PatientLine;
use spelling::{SpellingLine, Spellings};
use websocket::{Spoken, WebSocketLine};

/// Bytes that the headers of a request may have.
const MAX_HEADERS: usize = 64 * 1024;

/// Headers that a request may have: each property of a message is one, and only so many have their
/// spelling noted. The library's 100 are fewer than other protocols take.
const MAX_FIELDS: usize = 1000;

/// All that the hubs answer to; each part brings its own.
fn routes() -> Router<HttpState> {
    Router::new()
        .merge(telemetry::routes())
        .merge(inbox::routes())
        .merge(methods::routes())
        .merge(registry::routes())
        .merge(provisioning::routes())
        .merge(service::routes())
        .merge(feedback::routes())
        .merge(websocket::routes())
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
    /// Rung when a script releases the settlements it has held.
    released: Notify,
    /// How the names of properties were spelt.
    spellings: Arc<Spellings>,
    /// What is spoken after the answer that is under way, if it is no longer HTTP.
    upgrade: Mutex<Option<Spoken>>,
}

impl HttpState {
    fn new(caller: Caller) -> Self {
        let peer = caller.hub.join();
        Self(Arc::new(Connection {
            home: Mutex::new(Arc::clone(&caller.hub)),
            caller,
            peer,
            released: Notify::new(),
            spellings: Arc::default(),
            upgrade: Mutex::default(),
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

    /// The name of a header as the client spelt it.
    fn spelling(&self, name: &str) -> String {
        self.0.spellings.of(name)
    }

    /// Lets another protocol be spoken once the answer is written.
    fn upgrade_to(&self, spoken: Spoken) {
        *self.upgrade() = Some(spoken);
    }

    fn upgrade(&self) -> MutexGuard<'_, Option<Spoken>> {
        let upgrade = self.0.upgrade.lock();
        upgrade.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever calls, at the hub that was called last.
    fn caller_at_home(&self) -> Caller {
        let home = self.0.home.lock().unwrap_or_else(PoisonError::into_inner);
        Caller {
            hub: Arc::clone(&home),
            ..self.caller().clone()
        }
    }

    /// Waits until a message that was accepted may be answered.
    pub(crate) async fn settle(&self, settling: Settling) {
        match settling {
            Settling::Now => {}
            Settling::After(delay) => sleep(delay).await,
            Settling::Hold => self.0.released.notified().await,
            Settling::Drop => pending().await,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let home = self.home.get_mut().unwrap_or_else(PoisonError::into_inner);
        home.leave(self.peer.id);
    }
}

/// Serves one connection until it ends, whatever it becomes.
pub(crate) async fn serve(line: impl Line, caller: Caller) {
    if let Some(upgraded) = answer(line, caller).await {
        let line = WebSocketLine::new(upgraded.line, upgraded.read).await;
        match upgraded.spoken {
            Spoken::Amqp => amqp::shell::serve(line, upgraded.caller).await,
            Spoken::Mqtt => mqtt::serve(line, upgraded.caller).await,
        }
    }
}

/// What is left of a connection that is no longer one of HTTP.
struct Upgraded<L> {
    line: L,
    /// What came behind the last request.
    read: Bytes,
    spoken: Spoken,
    caller: Caller,
}

/// Answers requests until the connection ends or becomes another one.
async fn answer<L: Line>(line: L, caller: Caller) -> Option<Upgraded<L>> {
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
    let line = SpellingLine::new(line, Arc::clone(&state.0.spellings));
    let line = PatientLine::new(line, limits.http_idle_timeout);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http_idle_timeout)
        .max_buf_size(MAX_HEADERS)
        .max_headers(MAX_FIELDS)
        .serve_connection(TokioIo::new(line), service);
    let peer = Arc::clone(state.peer());
    tracing::debug!(connection = %peer.id, "HTTP connection is open");
    let mut frozen = false;
    let ended = loop {
        for notice in peer.collect() {
            match notice {
                Notice::Order(Order::Cut) => {
                    bare(connection.into_parts().io).reset_on_drop();
                    tracing::info!(connection = %peer.id, "Connection is cut by script");
                    return None;
                }
                Notice::Order(Order::Close(_)) => return None,
                Notice::Order(Order::Freeze(freeze)) => frozen = freeze,
                Notice::Order(Order::Release) => state.0.released.notify_waiters(),
                _ => {}
            }
        }
        tokio::select! {
            biased;
            () = peer.posted() => {}
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)), if !frozen => break ended,
        }
    };
    match &ended {
        Ok(()) => tracing::debug!(connection = %peer.id, "HTTP connection has ended"),
        Err(error) => {
            tracing::debug!(connection = %peer.id, %error, "HTTP connection is broken off")
        }
    }
    let parts = connection.into_parts();
    let line = bare(parts.io);
    let spoken = *state.upgrade();
    match spoken.filter(|_| ended.is_ok()) {
        Some(spoken) => Some(Upgraded {
            line,
            read: parts.read_buf,
            spoken,
            caller: state.caller_at_home(),
        }),
        None => {
            linger(line).await;
            None
        }
    }
}

/// The line under all that watches it.
fn bare<L>(io: TokioIo<PatientLine<SpellingLine<L>>>) -> L {
    io.into_inner().into_inner().into_inner()
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
    pause(state.caller_at_home().hub.script.latency()).await;
    response
}

/// Waits; for no time not even the clock's finest step, a millisecond.
async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
