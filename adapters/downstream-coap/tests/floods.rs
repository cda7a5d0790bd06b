//! Floods from many addresses, while devices are served.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};

use gateway_core::testkit::MemoryUpstream;
use gateway_downstream_coap::dtls::{PskEntry, PskKey, StaticPskStore};
use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, Token, option};
use gateway_downstream_coap::{CoapConfig, CoapDownstream, SecureConfig};
use support::hello::{cookie_of, hello};
use support::session::Session;
use support::{Device, Running, TOKEN, device, in_time};
use tokio::net::UdpSocket;

const SOURCES: u32 = 3000;
const UPLINKS: u16 = 60;
const MAX_REMEMBERED: usize = 600;
const MAX_BLOCK_BYTES: usize = 32 * 1024;

async fn start() -> Running {
    let mut config = CoapConfig::default();
    config.udp.get_or_insert_default().listen.set_port(0);
    config.udp.get_or_insert_default().sockets = 2;
    let token = TOKEN.to_owned().into();
    config.identity.tokens.insert(device("dev1"), token);
    let limits = &mut config.endpoint.limits;
    limits.max_remembered = MAX_REMEMBERED;
    limits.max_block_bytes = MAX_BLOCK_BYTES;
    let mut dtls = SecureConfig::default();
    dtls.listen = "127.0.0.1:0".parse().unwrap();
    dtls.sessions.max_handshakes = 64;
    config.dtls = Some(dtls);
    let entry = PskEntry::new(device("dev2"), PskKey::new("secret").unwrap());
    let store = StaticPskStore::new().with("sensor@factory", entry);
    Running::start_with(CoapDownstream::builder(config).with_psk_store(store)).await
}

fn confirmable(id: u16, message: Message) -> Vec<u8> {
    let message = message.with_token(Token::from(u32::from(id)));
    let kind = Kind::Confirmable;
    Datagram { kind, id, message }.encode().to_vec()
}

/// Sends from ever new addresses what nobody has to pay for.
async fn flood(plain: SocketAddr, secure: SocketAddr) {
    let post = || Message::new(Code::POST).with_path("t");
    let block = |number: u32, more: u32| {
        let block = number << 4 | more << 3 | 6;
        post()
            .with_uint(option::BLOCK1, block)
            .with_payload(vec![0; 1024])
    };
    let observe = Message::new(Code::GET).with_path("c");
    let requests = [
        // Nobody, a body that never ends, one out of order, one that is too large, an observer.
        confirmable(1, post().with_payload("1")),
        confirmable(2, block(0, 1)),
        confirmable(3, block(7, 1)),
        confirmable(4, block(5000, 1)),
        confirmable(5, observe.with_uint(option::OBSERVE, 0)),
        vec![0x40; 60_000],
        vec![0xff; 1200],
    ];
    for number in 0..SOURCES {
        let [.., a, b] = number.to_be_bytes();
        let source = Ipv4Addr::new(127, 1, a, b);
        let socket = UdpSocket::bind((source, 0)).await.unwrap();
        for request in &requests {
            // A buffer that is full is what a flood is about.
            drop(socket.send_to(request, plain).await);
        }
        drop(socket.send_to(&hello(number, &[]), secure).await);
        let mut request = [0; 100];
        // It may have been lost, so that it is not waited for.
        if let Ok((60, _)) = socket.try_recv_from(&mut request) {
            let cookie = cookie_of(&request[..60]);
            drop(socket.send_to(&hello(number, cookie), secure).await);
        }
        tokio::task::yield_now().await;
    }
}

/// Posts by a socket and by a session; each is accepted.
async fn report(plain: &mut Device, secure: &mut Session, hub: &MemoryUpstream) {
    for number in 0..UPLINKS {
        let post = Message::new(Code::POST).with_path("t");
        let answer = plain.say(post.clone().with_payload("plain")).await;
        assert_eq!(answer.code, Code::CHANGED);
        let message = confirmable(number, post.with_payload("secure"));
        let answer = Datagram::decode(&secure.ask(&message).await).unwrap();
        assert_eq!(answer.message.code, Code::CHANGED);
    }
    assert_eq!(hub.accepted().len(), usize::from(UPLINKS) * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_many_addresses_is_bounded_and_devices_are_served_meanwhile() {
    let running = start().await;
    let plain = running.coap.udp_addr().unwrap();
    let secure = running.coap.dtls_addr().unwrap();
    let mut client = running.device("dev1").await;
    let mut session = Session::open(secure, "sensor@factory", "secret").await;
    in_time(async {
        tokio::join!(
            flood(plain, secure),
            report(&mut client, &mut session, &running.hub)
        );
    })
    .await;
    let stats = running.coap.stats();
    // Each of the three sockets has its part, rounded up, and one in hand.
    assert!(stats.remembered <= MAX_REMEMBERED + 6, "{stats:?}");
    assert!(
        stats.peers <= MAX_REMEMBERED && stats.peers > 0,
        "{stats:?}"
    );
    assert!(stats.block_bytes <= MAX_BLOCK_BYTES + 3, "{stats:?}");
    assert_eq!(stats.observations, 0);
    assert_eq!(running.coap.listening(), 0);
    running.end().await;
}
