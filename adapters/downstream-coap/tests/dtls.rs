//! libcoap's clients, with OpenSSL and GnuTLS, against the sessions and the message layer.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::net::SocketAddr;

use gateway_core::DeviceId;
use gateway_downstream_coap::dtls::{
    DtlsConfig, DtlsEvent, DtlsTable, PskEntry, PskFn, PskKey, PskStore, Refusal, SessionId,
};
use gateway_downstream_coap::proto::message::{Code, Message};
use gateway_downstream_coap::proto::udp::{Endpoint, Event};
use gateway_downstream_coap::proto::{EndpointConfig, Seed};
use support::peers::{has_libcoap, libcoap};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

const CLIENTS: [&str; 2] = ["coap-client-openssl", "coap-client-gnutls"];

/// A server that answers every request with its body, and the device's id in front.
struct Server {
    socket: UdpSocket,
    start: Instant,
    table: DtlsTable,
    endpoint: Endpoint<SessionId>,
    refused: Vec<(Option<String>, Refusal)>,
    ready: usize,
}

impl Server {
    async fn bind() -> (Self, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = Self {
            socket,
            start: Instant::now(),
            table: DtlsTable::new(DtlsConfig::default(), Seed([1, 2])).unwrap(),
            endpoint: Endpoint::new(EndpointConfig::default(), Seed([3, 4])),
            refused: Vec::new(),
            ready: 0,
        };
        (server, address)
    }

    /// Serves until something else is done.
    async fn serve_while<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut buffer = vec![0; 2048];
        loop {
            let times = [self.table.next_timeout(), self.endpoint.next_timeout()];
            let due = times.into_iter().flatten().min();
            let due = due.map_or(self.start + std::time::Duration::from_secs(3600), |due| {
                self.start + due
            });
            tokio::select! {
                result = &mut work => return result,
                received = self.socket.recv_from(&mut buffer) => {
                    let (length, from) = received.unwrap();
                    let now = self.start.elapsed();
                    self.table.receive(now, from, &buffer[..length]);
                }
                () = sleep_until(due) => {
                    let now = self.start.elapsed();
                    self.table.on_timeout(now);
                    self.endpoint.on_timeout(now);
                }
            }
            self.pump().await;
        }
    }

    async fn pump(&mut self) {
        let now = self.start.elapsed();
        while let Some(event) = self.table.poll_event() {
            match event {
                DtlsEvent::Identify { session, identity } => {
                    let entry = store().find(&identity).await.unwrap();
                    self.table.identified(now, session, entry);
                }
                DtlsEvent::Ready { .. } => self.ready += 1,
                DtlsEvent::Datagram { session, bytes, .. } => {
                    self.endpoint.receive(now, session, true, &bytes);
                }
                DtlsEvent::Ended { session, .. } => self.endpoint.forget(now, session),
                DtlsEvent::Refused {
                    identity, reason, ..
                } => self.refused.push((identity, reason)),
                _ => {}
            }
        }
        while let Some(event) = self.endpoint.poll_event() {
            if let Event::Request(request) = event {
                let device = self.table.device(request.exchange.peer).unwrap();
                let body = [device.as_str().as_bytes(), b": ", &request.message.payload].concat();
                let answer = Message::new(Code::CHANGED).with_payload(body);
                let responded = self.endpoint.respond(now, request.exchange, answer);
                assert!(responded.is_ok());
            }
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let sent = self.table.send(now, transmit.peer, &transmit.bytes);
            assert!(sent.is_ok());
        }
        while let Some(transmit) = self.table.poll_transmit() {
            let sent = self.socket.send_to(&transmit.bytes, transmit.to).await;
            assert_eq!(sent.unwrap(), transmit.bytes.len());
        }
    }
}

/// Knows the identity `sensor@factory`, as a registry would: elsewhere.
fn store() -> impl PskStore {
    PskFn::new(|identity: String| async move {
        let device = DeviceId::new("sensor-1").unwrap();
        let entry = PskEntry::new(device, PskKey::new("secret").unwrap());
        Ok((identity == "sensor@factory").then_some(entry))
    })
}

/// Posts a body, and gives back what the client prints; `None` if it is not installed.
async fn post(
    server: &mut Server,
    address: SocketAddr,
    client: &'static str,
    [identity, key]: [&'static str; 2],
    body: String,
) -> Option<String> {
    let uri = format!("coaps://{address}/t");
    let arguments = [
        "-u", identity, "-k", key, "-m", "post", "-B", "10", "-e", &body, &uri,
    ];
    let arguments = arguments.map(str::to_owned).into();
    if !has_libcoap(client) {
        return None;
    }
    let printed = server.serve_while(libcoap(client, arguments)).await;
    Some(printed.out.trim().to_owned())
}

#[tokio::test]
async fn libcoaps_clients_post_under_their_identity() {
    let (mut server, address) = Server::bind().await;
    for (number, client) in CLIENTS.into_iter().enumerate() {
        let who = ["sensor@factory", "secret"];
        let answer = post(&mut server, address, client, who, "hello".to_owned()).await;
        let Some(answer) = answer else { return };
        assert_eq!(answer, "sensor-1: hello", "{client}");
        assert_eq!(server.ready, number + 1);
        assert_eq!(server.refused, []);
    }
}

#[tokio::test]
async fn libcoaps_clients_post_and_get_ten_kilobytes_in_blocks() {
    let (mut server, address) = Server::bind().await;
    for client in CLIENTS {
        let who = ["sensor@factory", "secret"];
        let body = "0123456789".repeat(1024);
        let answer = post(&mut server, address, client, who, body.clone()).await;
        let Some(answer) = answer else { return };
        assert_eq!(answer, format!("sensor-1: {body}"), "{client}");
    }
}

#[tokio::test]
async fn libcoaps_clients_without_the_key_are_refused() {
    let (mut server, address) = Server::bind().await;
    for client in CLIENTS {
        for (who, reason) in [
            (["sensor@factory", "wrong"], Refusal::WrongKey),
            (["nobody", "secret"], Refusal::UnknownIdentity),
        ] {
            let answer = post(&mut server, address, client, who, "hello".to_owned()).await;
            let Some(answer) = answer else { return };
            assert!(!answer.contains("sensor-1"), "{client}: {answer}");
            let refused = (Some(who[0].to_owned()), reason);
            assert!(
                server.refused.contains(&refused),
                "{client}: {:?}",
                server.refused
            );
            server.refused.clear();
        }
    }
    assert_eq!(server.ready, 0);
    assert_eq!(server.table.stats().sessions, 0);
}
