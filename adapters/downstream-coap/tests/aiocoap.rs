//! Devices on aiocoap, over UDP and TCP.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use gateway_core::{
    CloudMessage, CorrelationId, DeviceId, Disposition, Interest, MethodCall, MethodName,
    MethodReply,
};
use gateway_downstream_coap::{CoapConfig, TcpConfig};
use support::peers::{aiocoap, beside, has_aiocoap};
use support::proxy::{Proxy, Weather};
use support::{Running, TOKEN, device, in_time};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(100);
/// What the device posts.
const BODY: usize = 10_000;

/// Where a device speaks over UDP, and another over TCP.
struct Peer {
    device: DeviceId,
    uri: String,
}

async fn start(path: &str) -> (Running, Vec<Peer>) {
    let mut config = CoapConfig::default();
    let mut tcp = TcpConfig::default();
    tcp.listen.set_port(0);
    config.tcp = Some(tcp);
    let running = Running::start(config, &["udp", "tcp"]).await;
    let addresses = [
        ("udp", "coap", running.coap.udp_addr().unwrap()),
        ("tcp", "coap+tcp", running.coap.tcp_addr().unwrap()),
    ];
    let token = TOKEN.replace(' ', "%20");
    let peers = addresses.map(|(name, scheme, address)| Peer {
        device: device(name),
        uri: format!("{scheme}://{address}/{path}?$.id={name}&$.token={token}"),
    });
    // Nobody where it is not installed.
    let peers = if has_aiocoap() {
        peers.into()
    } else {
        Vec::new()
    };
    (running, peers)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kilobytes_arrive_whole() {
    let test = async {
        let (running, peers) = start("t").await;
        let body: Vec<_> = (0..BODY).map(|number| (number % 251) as u8).collect();
        for (number, peer) in peers.into_iter().enumerate() {
            let printed = aiocoap("post", &peer.uri, BODY).await;
            assert_eq!(printed.out, "2.04 Changed\n", "{}", printed.log);
            let accepted = running.hub.accepted();
            assert_eq!(accepted.len(), number + 1);
            assert_eq!(accepted[number].device, peer.device);
            assert_eq!(accepted[number].body, body);
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kilobytes_are_read_whole() {
    let test = async {
        let (running, peers) = start("twin/desired").await;
        let text = "x".repeat(BODY);
        let patch = format!("{{\"text\":\"{text}\"}}");
        for peer in peers {
            let patched = running.hub.patch_desired(&peer.device, &patch).await;
            patched.unwrap();
            let printed = aiocoap("get", &peer.uri, 1).await;
            let json = printed.out.strip_prefix("2.05 Content ");
            let json = json.expect(&printed.log);
            let desired: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(desired["text"], text);
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_observed_and_complete() {
    const MESSAGES: [&str; 3] = ["one", "two", "three"];
    let test = async {
        let (running, peers) = start("c").await;
        for Peer { device: name, uri } in peers {
            let sending = async {
                running.hub.wait_listening(&name, Interest::COMMANDS).await;
                let mut settled = Vec::new();
                for body in MESSAGES {
                    let deadline = Instant::now() + LONG;
                    let message = CloudMessage::new(name.clone(), body, deadline);
                    settled.push(running.hub.send_message(message).await);
                }
                settled
            };
            let observing = aiocoap("observe", &uri, 3);
            let (printed, settled) = beside(observing, sending).await;
            assert_eq!(printed.out, "one\ntwo\nthree\n", "{}", printed.log);
            assert_eq!(settled, [Some(Disposition::Complete); 3]);
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_are_answered() {
    let test = async {
        let (running, peers) = start("c").await;
        for Peer { device: name, uri } in peers {
            let calling = async {
                running.hub.wait_listening(&name, Interest::COMMANDS).await;
                let call = MethodCall::new(
                    name.clone(),
                    CorrelationId::new("call-1").unwrap(),
                    MethodName::new("echo").unwrap(),
                    "\"x\"",
                    Instant::now() + LONG,
                );
                running.hub.call_method(call).await
            };
            let answering = aiocoap("answer", &uri, 1);
            let (printed, reply) = beside(answering, calling).await;
            assert_eq!(printed.out, "2.04 Changed\n", "{}", printed.log);
            assert_eq!(reply, Some(MethodReply::new(201, "\"x\"")));
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_takes_its_time_comes_apart() {
    let test = async {
        let (running, peers) = start("t").await;
        for (number, peer) in peers.into_iter().enumerate() {
            running.hub.hold();
            let release = async {
                running.hub.wait_held(1).await;
                // Longer than it takes until the request is sent again, were it not acknowledged.
                tokio::time::sleep(Duration::from_secs(4)).await;
                running.hub.release();
            };
            let posting = aiocoap("post", &peer.uri, 4);
            let (printed, ()) = beside(posting, release).await;
            assert_eq!(printed.out, "2.04 Changed\n", "{}", printed.log);
            assert_eq!(running.hub.accepted().len(), number + 1);
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_over_a_bad_network_is_at_the_hub_once() {
    const MESSAGES: usize = 12;
    let test = async {
        let (running, peers) = start("t").await;
        // Of ten datagrams three do not arrive, and three come twice, both ways.
        let weather = Weather {
            lost: 30,
            doubled: 30,
        };
        let proxy = Proxy::start(running.coap.udp_addr().unwrap(), weather, 11).await;
        let (gateway, through) = (running.coap.udp_addr().unwrap(), proxy.address());
        if let Some(peer) = peers.first() {
            let uri = peer.uri.replace(&gateway.to_string(), &through.to_string());
            let printed = aiocoap("insist", &uri, MESSAGES).await;
            let mut lines: Vec<_> = printed.out.lines().collect();
            let again = lines.pop().and_then(|line| line.parse().ok());
            let again: usize = again.expect(&printed.log);
            assert_eq!(lines, ["2.04 Changed"; MESSAGES], "{}", printed.log);
            assert!(proxy.lost() > 20, "{} datagrams were lost", proxy.lost());
            let accepted = running.hub.accepted();
            for uplink in &accepted {
                let number = uplink.id.as_str().strip_prefix('m').unwrap();
                assert_eq!(uplink.body, number.repeat(3000 / number.len()));
            }
            let ids: HashSet<_> = accepted.iter().map(|uplink| &uplink.id).collect();
            assert_eq!(ids.len(), MESSAGES);
            // Only what the device began anew may have come again, under the same id.
            assert!(accepted.len() <= MESSAGES + again, "{accepted:?}");
        }
        running.end().await;
    };
    in_time(test).await;
}
