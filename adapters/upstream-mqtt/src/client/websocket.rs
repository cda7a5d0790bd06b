//! MQTT over a WebSocket: bytes in binary messages, whose ends mean nothing (MQTT 3.1.1, section 6).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::transport::Wire;

/// Most bytes in a message of ours.
const CHUNK: usize = 64 * 1024;
/// Room for reading, kept as long as the connection.
const READ: usize = 4 * 1024;
/// Messages of a broker that gathers packets are larger than one packet.
const GATHERED: usize = 1 << 20;

/// Goes through the handshake (RFC 6455, section 4.1).
pub(super) async fn open(wire: Wire, url: &str, max_packet: usize) -> io::Result<WebSocket> {
    let uri = url
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol("mqtt");
    let largest = Some(max_packet.saturating_add(GATHERED));
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_message_size(largest)
        .max_frame_size(largest);
    let opened = client_async_with_config(request, wire, Some(config)).await;
    let (socket, _) = opened.map_err(into_io)?;
    Ok(WebSocket {
        socket,
        rest: Bytes::new(),
    })
}

/// A WebSocket as a stream of bytes.
pub(super) struct WebSocket {
    socket: WebSocketStream<Wire>,
    /// What is left of the message that is being read.
    rest: Bytes,
}

impl AsyncRead for WebSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => self.rest = message,
                // Answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                // As over TCP, where nobody says goodbye.
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    let text = "a message of the WebSocket is not binary";
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

impl AsyncWrite for WebSocket {
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

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::NotConnected.into(),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, duplex};
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn a_line_that_ends_without_a_word_ends_as_one_over_tcp() {
        let (ours, theirs) = duplex(64);
        let wire: Wire = Box::new(ours);
        let mut socket = WebSocket {
            socket: WebSocketStream::from_raw_socket(wire, Role::Client, None).await,
            rest: Bytes::new(),
        };
        drop(theirs);
        assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
