//! Devices with DTLS sessions.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use gateway_downstream_coap::dtls::{PskEntry, PskKey, StaticPskStore};
use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message};
use gateway_downstream_coap::{CoapConfig, CoapDownstream, SecureConfig};
use support::session::Session;
use support::{Running, device, in_time};

/// A gateway that knows the key `secret` of `sensor@factory`, which is `dev1`.
async fn start() -> Running {
    let mut config = CoapConfig::default();
    let mut dtls = SecureConfig::default();
    dtls.listen = "127.0.0.1:0".parse().unwrap();
    config.dtls = Some(dtls);
    config.udp.get_or_insert_default().listen.set_port(0);
    let entry = PskEntry::new(device("dev1"), PskKey::new("secret").unwrap());
    let store = StaticPskStore::new().with("sensor@factory", entry);
    let builder = CoapDownstream::builder(config).with_psk_store(store);
    Running::start_with(builder).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_says_before_it_takes_leave_is_heard() {
    let running = start().await;
    let address = running.coap.dtls_addr().unwrap();
    for count in 1..=5 {
        let mut session = Session::open(address, "sensor@factory", "secret").await;
        let message = Message::new(Code::POST)
            .with_path("t")
            .with_payload("last words");
        let (kind, id) = (Kind::Confirmable, count);
        let message = Datagram { kind, id, message }.encode();
        let mut datagrams = session.seal(&message);
        datagrams.extend(session.close());
        // All that can be in a datagram can be in one batch.
        session.send(&[datagrams.concat()]).await;
        let accepted = in_time(running.hub.wait_accepted(count.into())).await;
        assert_eq!(accepted.last().unwrap().device, device("dev1"));
    }
    running.end().await;
}
