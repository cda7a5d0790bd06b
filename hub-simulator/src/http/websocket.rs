//! AMQP and MQTT over WebSocket (RFC 6455): the handshake, and a line out of the messages.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::{Buf, Bytes};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::HttpState;
use crate::line::Line;

/// Largest message from a client; AMQP frames are at most 64 KB, MQTT packets somewhat over 256 KB.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Most bytes in a message of the hub.
const CHUNK: usize = 64 * 1024;

/// What is spoken once the upgrade is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Amqp,
    Mqtt,
}

impl Spoken {
    /// The subprotocols' names (AMQP: the OASIS committee's binding to WebSocket; MQTT 3.1.1
    /// section 6).
    const NAMES: [(&'static str, Self); 2] = [("AMQPWSB10", Self::Amqp), ("mqtt", Self::Mqtt)];

    /// The first of a client's subprotocols that is allowed here.
    fn pick(headers: &HeaderMap, allowed: &[Self]) -> Option<(&'static str, Self)> {
        let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        let offered = offered.iter().filter_map(|value| value.to_str().ok());
        offered
            .flat_map(|value| value.split(','))
            .find_map(|offer| {
                let named = |(name, spoken): &&(&str, _)| {
                    offer.trim().eq_ignore_ascii_case(name) && allowed.contains(spoken)
                };
                Self::NAMES.iter().find(named).copied()
            })
    }
}

pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/$iothub/websocket", get(iot_hub))
        .route("/$servicebus/websocket", get(service_bus))
}

async fn iot_hub(State(state): State<HttpState>, headers: HeaderMap) -> Response {
    upgrade(&state, &headers, &[Spoken::Amqp, Spoken::Mqtt])
}

async fn service_bus(State(state): State<HttpState>, headers: HeaderMap) -> Response {
    upgrade(&state, &headers, &[Spoken::Amqp])
}

/// Answers the handshake of RFC 6455 section 4.2.
fn upgrade(state: &HttpState, headers: &HeaderMap, allowed: &[Spoken]) -> Response {
    let refuse = |status: StatusCode, text: &'static str| (status, text).into_response();
    let has = |name: HeaderName, token: &str| {
        let values = headers.get_all(name);
        let mut values = values.iter().filter_map(|value| value.to_str().ok());
        values.any(|value| {
            let mut tokens = value.split(',');
            tokens.any(|own| own.trim().eq_ignore_ascii_case(token))
        })
    };
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return refuse(StatusCode::BAD_REQUEST, "Here is a WebSocket only.");
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        let version = [(header::SEC_WEBSOCKET_VERSION, "13")];
        return (StatusCode::UPGRADE_REQUIRED, version).into_response();
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing.");
    };
    let Some((name, spoken)) = Spoken::pick(headers, allowed) else {
        let text = "The subprotocol is not spoken here: AMQPWSB10 or mqtt is.";
        return refuse(StatusCode::BAD_REQUEST, text);
    };
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    state.hub_at(
        headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok()),
    );
    state.upgrade_to(spoken);
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(name),
        ),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// A line over the binary messages of a WebSocket; where one ends means nothing.
pub(super) struct WebSocketLine<L> {
    socket: WebSocketStream<L>,
    /// What is left of the message that is being read.
    rest: Bytes,
}

impl<L: Line> WebSocketLine<L> {
    /// Goes on behind the handshake; `read` is what has been read of the line already.
    pub(super) async fn new(line: L, read: Bytes) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let socket =
            WebSocketStream::from_partially_read(line, read.into(), Role::Server, Some(config));
        Self {
            socket: socket.await,
            rest: Bytes::new(),
        }
    }
}

impl<L: Line> AsyncRead for WebSocketLine<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => self.rest = message,
                // Answered by the library when it is polled again; behind a Close that is the end.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
                None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    let text = "a message of a WebSocket is not binary";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
        let len = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..len]);
        self.rest.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<L: Line> AsyncWrite for WebSocketLine<L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(into_io)?;
        let len = bytes.len().min(CHUNK);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..len]));
        Pin::new(&mut self.socket)
            .start_send(message)
            .map_err(into_io)?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(into_io)
    }
}

impl<L: Line> Line for WebSocketLine<L> {
    fn reset_on_drop(&self) {
        self.socket.get_ref().reset_on_drop();
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::NotConnected.into(),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}
