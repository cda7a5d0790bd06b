//! Devices on libcoap's clients: over UDP, DTLS with OpenSSL and GnuTLS, TCP, and TLS with both.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::{CloudMessage, DeviceId, Disposition, Interest};
use gateway_downstream_coap::dtls::{PskEntry, PskKey, StaticPskStore};
use gateway_downstream_coap::{CoapConfig, CoapDownstream, SecureConfig, TcpConfig};
use support::peers::{Printed, beside, has_libcoap, libcoap};
use support::pki::Pki;
use support::{Running, TOKEN, device, in_time};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(100);
const KEY: &str = "secret";

/// A client, how it gets in, and as whom.
struct Peer {
    program: &'static str,
    scheme: &'static str,
    address: SocketAddr,
    proof: Proof,
    device: DeviceId,
}

enum Proof {
    /// A token in the query, behind what the client needs to know of the gateway.
    Token(Vec<String>),
    /// A key of the session.
    Key,
}

impl Peer {
    fn uri(&self, path: &str) -> String {
        let (scheme, address, token) = (self.scheme, self.address, TOKEN.replace(' ', "%20"));
        match self.proof {
            Proof::Token(_) => {
                let name = &self.device;
                format!("{scheme}://{address}/{path}?$.id={name}&$.token={token}")
            }
            // What the session has proved stands.
            Proof::Key => format!("{scheme}://{address}/{path}?$.id=another"),
        }
    }

    fn run(&self, arguments: &[&str], path: &str) -> impl Future<Output = Printed> + use<> {
        let proof = match &self.proof {
            Proof::Token(arguments) => arguments.clone(),
            Proof::Key => ["-u", self.device.as_str(), "-k", KEY]
                .map(str::to_owned)
                .into(),
        };
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        let all = proof.into_iter().chain(arguments).chain([self.uri(path)]);
        libcoap(self.program, all.collect())
    }

    fn name(&self) -> String {
        format!("{} by {}", self.scheme, self.program)
    }
}

struct World {
    running: Running,
    peers: Vec<Peer>,
    _pki: Pki,
}

async fn start() -> World {
    let pki = Pki::new();
    let mut config = CoapConfig::default();
    config.udp.get_or_insert_default().listen.set_port(0);
    let mut dtls = SecureConfig::default();
    dtls.listen = "127.0.0.1:0".parse().unwrap();
    config.dtls = Some(dtls);
    let mut tcp = TcpConfig::default();
    tcp.listen.set_port(0);
    config.tcp = Some(tcp);
    config.tls = Some(pki.config());
    let mut store = StaticPskStore::new();
    let kinds = [
        ("udp", "coap-client-notls"),
        ("dtls-openssl", "coap-client-openssl"),
        ("dtls-gnutls", "coap-client-gnutls"),
        ("tcp", "coap-client-notls"),
        ("tls-openssl", "coap-client-openssl"),
        ("tls-gnutls", "coap-client-gnutls"),
    ];
    for (name, _) in kinds {
        let entry = PskEntry::new(device(name), PskKey::new(KEY).unwrap());
        store = store.with(name, entry);
        let token = TOKEN.to_owned().into();
        config.identity.tokens.insert(device(name), token);
    }
    let builder = CoapDownstream::builder(config).with_psk_store(store);
    let running = Running::start_with(builder).await;
    let coap = &running.coap;
    let root = pki.path("ca.pem").display().to_string();
    let peers = kinds.map(|(name, program)| {
        let token = || Proof::Token(Vec::new());
        let trusting = || Proof::Token(vec!["-R".to_owned(), root.clone()]);
        let (scheme, address, proof) = match name {
            "udp" => ("coap", Some(coap.udp_addr().unwrap()), token()),
            "tcp" => ("coap+tcp", coap.tcp_addr(), token()),
            "dtls-openssl" | "dtls-gnutls" => ("coaps", coap.dtls_addr(), Proof::Key),
            _ => ("coaps+tcp", coap.tls_addr(), trusting()),
        };
        Peer {
            program,
            scheme,
            address: address.unwrap(),
            proof,
            device: device(name),
        }
    });
    let peers = peers.into_iter();
    World {
        peers: peers.filter(|peer| has_libcoap(peer.program)).collect(),
        running,
        _pki: pki,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kilobytes_arrive_whole_and_in_blocks() {
    let test = async {
        let World {
            running,
            peers,
            _pki,
        } = start().await;
        let body = "x".repeat(10_000);
        let mut count = 0;
        for peer in &peers {
            for blocks in [&[][..], &["-b", "256"]] {
                let post = [&["-m", "post", "-e", &body][..], blocks].concat();
                let printed = peer.run(&post, "t").await;
                let accepted = running.hub.accepted();
                assert_eq!(accepted.len(), count + 1, "{}: {printed:?}", peer.name());
                assert_eq!(accepted[count].device, peer.device);
                assert_eq!(accepted[count].body, body);
                count += 1;
            }
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kilobytes_are_read_whole() {
    let test = async {
        let World {
            running,
            peers,
            _pki,
        } = start().await;
        let text = "x".repeat(10_000);
        let patch = format!("{{\"text\":\"{text}\"}}");
        for peer in &peers {
            let patched = running.hub.patch_desired(&peer.device, &patch).await;
            patched.unwrap();
            let printed = peer.run(&["-m", "get"], "twin/desired").await;
            let json = serde_json::from_str::<serde_json::Value>(&printed.out);
            let desired = json.unwrap_or_else(|_| panic!("{}: {printed:?}", peer.name()));
            assert_eq!(desired["text"], text);
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_observed_and_completes() {
    let test = async {
        let World {
            running,
            peers,
            _pki,
        } = start().await;
        let observers = peers.iter().map(|peer| async {
            let sending = async {
                let name = peer.device.clone();
                running.hub.wait_listening(&name, Interest::COMMANDS).await;
                let message = CloudMessage::new(name, "go", Instant::now() + LONG);
                running.hub.send_message(message).await
            };
            let observing = peer.run(&["-s", "10", "-m", "get"], "c");
            let (printed, settled) = beside(observing, sending).await;
            let seen = format!("{}: {printed:?}", peer.name());
            assert_eq!(settled, Some(Disposition::Complete), "{seen}");
            assert!(printed.out.contains("go"), "{seen}");
        });
        join_all(observers).await;
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_takes_its_time_comes_apart() {
    let test = async {
        let World {
            running,
            peers,
            _pki,
        } = start().await;
        running.hub.hold();
        let post = ["-v", "7", "-m", "post", "-e", "1"];
        let posts = join_all(peers.iter().map(|peer| peer.run(&post, "t")));
        let release = async {
            running.hub.wait_held(peers.len()).await;
            // Longer than it takes until a request is acknowledged without an answer.
            tokio::time::sleep(Duration::from_secs(1)).await;
            running.hub.release();
        };
        let (printed, ()) = beside(posts, release).await;
        for (peer, printed) in peers.iter().zip(printed) {
            let seen = format!("{}: {printed:?}", peer.name());
            assert!(printed.out.contains("c:2.04"), "{seen}");
            let is_apart =
                printed.out.contains("t:ACK c:0.00") && printed.out.contains("t:CON c:2.04");
            assert!(is_apart || peer.scheme.ends_with("+tcp"), "{seen}");
        }
        assert_eq!(running.hub.accepted().len(), peers.len());
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_wrong_key_or_token_gets_nowhere() {
    let test = async {
        let World {
            running,
            peers,
            _pki,
        } = start().await;
        for mut peer in peers {
            // As another, for which neither its key nor its token holds.
            match &peer.proof {
                Proof::Key => peer.device = device("nobody"),
                Proof::Token(_) => peer.device = device("dtls-nobody"),
            }
            let post = ["-B", "3", "-m", "post", "-e", "1"];
            let printed = peer.run(&post, "t").await;
            let seen = format!("{}: {printed:?}", peer.name());
            assert!(running.hub.accepted().is_empty(), "{seen}");
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_resources_are_listed() {
    let test = async {
        let World {
            running,
            peers,
            _pki,
        } = start().await;
        for peer in &peers {
            let printed = peer.run(&["-m", "get"], ".well-known/core").await;
            let seen = format!("{}: {printed:?}", peer.name());
            assert!(printed.out.contains("</t>;rt=\"telemetry\""), "{seen}");
        }
        running.end().await;
    };
    in_time(test).await;
}
