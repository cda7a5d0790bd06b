//! AMQP over WebSocket: the handshake, the line, and what a script does to it.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

mod support;
#[path = "support/http.rs"]
mod web;

use futures_util::{SinkExt, StreamExt};
use hub_simulator::HubSimulator;
use support::{plain_hub, soon};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use web::Http;

type Socket = WebSocketStream<TcpStream>;

const AMQP_HEADER: &[u8] = b"AMQP\x00\x01\x00\x00";

async fn open(hub: &HubSimulator, path: &str, protocols: &str) -> Result<Socket, Error> {
    let stream = TcpStream::connect(hub.https_addr()).await.unwrap();
    let mut request = format!("ws://{}{path}", hub.host())
        .into_client_request()
        .unwrap();
    if !protocols.is_empty() {
        let protocols = protocols.parse().unwrap();
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocols);
    }
    let (socket, response) = soon(tokio_tungstenite::client_async(request, stream)).await?;
    assert!(
        protocols.contains(
            response.headers()["Sec-WebSocket-Protocol"]
                .to_str()
                .unwrap()
        )
    );
    Ok(socket)
}

async fn send(socket: &mut Socket, bytes: &'static [u8]) {
    let message = Message::Binary(Bytes::from_static(bytes));
    soon(socket.send(message)).await.unwrap();
}

/// Reads messages until they hold `len` bytes.
async fn read(socket: &mut Socket, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        match soon(socket.next()).await.unwrap().unwrap() {
            Message::Binary(part) => bytes.extend(part),
            other => panic!("{other:?}"),
        }
    }
    bytes
}

#[tokio::test]
async fn amqp_is_spoken_however_its_bytes_are_cut_into_messages() {
    let hub = plain_hub().await;
    for path in ["/$iothub/websocket", "/$servicebus/websocket"] {
        let mut socket = open(&hub, path, "AMQPWSB10").await.unwrap();
        for at in 0..AMQP_HEADER.len() {
            send(&mut socket, &AMQP_HEADER[at..=at]).await;
        }
        assert_eq!(read(&mut socket, 8).await, AMQP_HEADER);
        assert_eq!(hub.connections().len(), 1);
        soon(socket.close(None)).await.unwrap();
        soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
    }
}

#[tokio::test]
async fn a_ping_is_answered() {
    let hub = plain_hub().await;
    let mut socket = open(&hub, "/$iothub/websocket", "AMQPWSB10").await.unwrap();
    let ping = Message::Ping(Bytes::from_static(b"are you there"));
    soon(socket.send(ping)).await.unwrap();
    let pong = soon(socket.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(Bytes::from_static(b"are you there")));
}

#[tokio::test]
async fn a_close_is_answered_before_the_line_ends() {
    let hub = plain_hub().await;
    for protocol in ["AMQPWSB10", "mqtt"] {
        let mut socket = open(&hub, "/$iothub/websocket", protocol).await.unwrap();
        soon(socket.close(None)).await.unwrap();
        let answer = soon(socket.next()).await;
        assert!(matches!(answer, Some(Ok(Message::Close(_)))), "{answer:?}");
        assert!(soon(socket.next()).await.is_none());
    }
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
}

#[tokio::test]
async fn a_cut_resets_the_socket_below() {
    let hub = plain_hub().await;
    let mut socket = open(&hub, "/$iothub/websocket", "AMQPWSB10").await.unwrap();
    send(&mut socket, AMQP_HEADER).await;
    read(&mut socket, 8).await;
    hub.faults().cut_all();
    let end = soon(socket.next()).await.unwrap();
    assert!(
        matches!(end, Err(Error::Io(_)) | Err(Error::Protocol(_))),
        "{end:?}"
    );
}

#[tokio::test]
async fn text_and_oversize_messages_end_their_connection_only() {
    let hub = plain_hub().await;
    let mut good = open(&hub, "/$iothub/websocket", "AMQPWSB10").await.unwrap();
    let mut text = open(&hub, "/$iothub/websocket", "AMQPWSB10").await.unwrap();
    soon(text.send(Message::text("AMQP"))).await.unwrap();
    while soon(text.next()).await.is_some_and(|end| end.is_ok()) {}
    let mut large = open(&hub, "/$iothub/websocket", "AMQPWSB10").await.unwrap();
    let message = Message::Binary(vec![0; 2 * 1024 * 1024].into());
    // The hub may hang up before all of it is written.
    drop(soon(large.send(message)).await);
    while soon(large.next()).await.is_some_and(|end| end.is_ok()) {}
    send(&mut good, AMQP_HEADER).await;
    assert_eq!(read(&mut good, 8).await, AMQP_HEADER);
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused() {
    let hub = plain_hub().await;
    for (path, protocols) in [
        ("/$iothub/websocket", ""),
        ("/$iothub/websocket", "soap"),
        ("/$servicebus/websocket", "mqtt"),
    ] {
        let refused = open(&hub, path, protocols).await.unwrap_err();
        let Error::Http(response) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(response.status(), 400);
    }
    let mut http = Http::connect(&hub, "").await;
    assert_eq!(http.get("/$iothub/websocket").await.status, 400);
    let old = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 8",
    ];
    let reply = http.ask("GET", "/$iothub/websocket", &old, b"").await;
    assert_eq!(reply.status, 426);
}
