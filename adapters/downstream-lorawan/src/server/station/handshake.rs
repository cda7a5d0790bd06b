//! The WebSocket handshake, which tells what a station wants.

use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{
    Callback, ErrorResponse, Request, Response,
};
use tokio_tungstenite::tungstenite::http::{StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::proto::Eui64;

/// The longest message of a station; a frame of 255 bytes makes one of about 1 KB.
const MAX_MESSAGE: usize = 64 * 1024;
/// Room for reading, kept as long as the connection.
const READ: usize = 4 * 1024;

/// What a station has come for.
#[derive(Debug)]
pub(super) enum Endpoint {
    /// To ask where it shall go; `host` is the one it asked.
    Discovery { host: String },
    /// To speak as this station.
    Station(Eui64),
}

/// Goes through the handshake (RFC 6455, section 4.2).
pub(super) async fn accept(
    stream: TcpStream,
) -> Result<(WebSocketStream<TcpStream>, Endpoint), Error> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut endpoint = None;
    let route = Route(&mut endpoint);
    let socket = accept_hdr_async_with_config(stream, route, Some(config)).await?;
    // A handshake that succeeds has found its endpoint.
    let endpoint = endpoint.ok_or(Error::ConnectionClosed)?;
    Ok((socket, endpoint))
}

/// Notes what a request is for, and refuses other ones.
struct Route<'a>(&'a mut Option<Endpoint>);

impl Callback for Route<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        let path = request.uri().path();
        let station = path.strip_prefix("/station/");
        *self.0 = match station.map(str::parse) {
            Some(Ok(station)) => Some(Endpoint::Station(station)),
            None if path == "/router-info" => {
                let host = request.headers().get(header::HOST);
                let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
                Some(Endpoint::Discovery {
                    host: host.to_owned(),
                })
            }
            _ => None,
        };
        if self.0.is_some() {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        Err(refusal)
    }
}
