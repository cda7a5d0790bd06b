//! Several hubs behind one set of listeners: each client finds its own by the name that it calls.
#![allow(clippy::unwrap_used, reason = "a test file")]

#[path = "support/mqtt.rs"]
mod mqtt;
mod support;
#[path = "support/http.rs"]
mod web;

use std::sync::Arc;

use fe2o3_amqp::connection::Connection;
use fe2o3_amqp::sasl_profile::SaslProfile;
use hub_simulator::HubSimulator;
use mqtt::{ConnectReturnCode, Device, Wire, connect_packet};
use support::{Client, soon, token};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use web::Http;

const SECOND: &str = "two.hubs.test";

/// Two hubs; a device of the same id is registered in both, with a key for each.
async fn hubs(tls: bool) -> (HubSimulator, HubSimulator) {
    let builder = || HubSimulator::builder().with_tls(tls);
    let first = builder().with_host("one.hubs.test").start().await.unwrap();
    let second = builder().with_host(SECOND).beside(&first);
    let second = second.start().await.unwrap();
    for hub in [&first, &second] {
        hub.add_device("d");
    }
    (first, second)
}

/// Puts the token of a device; returns the status.
async fn put(client: &mut Client, hub: &HubSimulator) -> i32 {
    let token = token(&hub.device_connection_string("d"));
    client.cbs.put("d", &token).await.0
}

#[tokio::test]
async fn amqp_leads_to_the_hub_that_open_names() {
    let (first, second) = hubs(false).await;
    for (name, own, other) in [
        ("one.hubs.test", &first, &second),
        ("Two.Hubs.test:5671", &second, &first),
        // A gateway's own name, say.
        ("localhost", &first, &second),
    ] {
        let builder = Connection::builder().container_id("test").hostname(name);
        let stream = TcpStream::connect(first.addr()).await.unwrap();
        let connection = soon(builder.open_with_stream(stream)).await.unwrap();
        let mut client = Client::begin(connection).await;
        assert_eq!(put(&mut client, other).await, 401, "{name}");
        assert_eq!(put(&mut client, own).await, 200, "{name}");
        drop(client.telemetry("d").await);
        let counts = (own.connections().len(), other.connections().len());
        assert_eq!(counts, (1, 0), "{name}");
        drop(client);
        own.wait_until(|stats| stats.connections.is_empty()).await;
    }
}

#[tokio::test]
async fn a_login_leads_to_the_hub_that_it_names() {
    let (first, second) = hubs(false).await;
    for (hub, short_name) in [(&first, "one"), (&second, "two")] {
        let profile = SaslProfile::Plain {
            username: format!("d@sas.{short_name}"),
            password: token(&hub.device_connection_string("d")),
        };
        let builder = Connection::builder().container_id("test");
        let stream = TcpStream::connect(first.addr()).await.unwrap();
        let opened = builder.sasl_profile(profile).open_with_stream(stream);
        let mut connection = soon(opened).await.unwrap();
        assert_eq!(hub.connections().len(), 1);
        soon(connection.close()).await.unwrap();
    }
}

#[tokio::test]
async fn tls_leads_to_the_hub_of_the_server_name() {
    let (first, second) = hubs(true).await;
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(first.ca_pem().unwrap().as_bytes());
    roots.add(authority.unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(first.addr()).await.unwrap();
    // The certificate of that name is verified.
    let name = ServerName::try_from(SECOND).unwrap();
    let stream = soon(connector.connect(name, stream)).await.unwrap();
    let builder = Connection::builder().container_id("test");
    let connection = soon(builder.open_with_stream(stream)).await.unwrap();
    let mut client = Client::begin(connection).await;
    assert_eq!(put(&mut client, &first).await, 401);
    assert_eq!(put(&mut client, &second).await, 200);
}

#[tokio::test]
async fn mqtt_leads_to_the_hub_of_the_user_name() {
    let (first, second) = hubs(false).await;
    for (own, other) in [(&first, &second), (&second, &first)] {
        let device = Device::connect(own, "d").await;
        let counts = (own.connections().len(), other.connections().len());
        assert_eq!(counts, (1, 0));
        drop(device);
        own.wait_until(|stats| stats.connections.is_empty()).await;
        let mut wire = Wire::open(own).await;
        let mut foreign = connect_packet(own, "d");
        let token = connect_packet(other, "d").login.unwrap().password;
        foreign.login.as_mut().unwrap().password = token;
        let refused = wire.connect(foreign).await.unwrap();
        assert_eq!(refused.code, ConnectReturnCode::NotAuthorized);
    }
}

#[tokio::test]
async fn http_leads_to_the_hub_of_the_host_header() {
    let (first, second) = hubs(false).await;
    for (own, other) in [(&first, &second), (&second, &first)] {
        for (hub, status) in [(own, 200), (other, 401)] {
            let token = token(&hub.policy_connection_string("iothubowner"));
            let mut http = Http::connect(own, &token).await;
            let reply = http.get("/statistics/service").await;
            assert_eq!(reply.status, status);
        }
    }
}

#[tokio::test]
async fn a_hub_that_goes_leaves_the_others_their_listeners() {
    let (first, second) = hubs(false).await;
    drop(second);
    let mut client = Client::connect(&first).await;
    assert_eq!(put(&mut client, &first).await, 200);
}
