//! Provisioning over AMQP: logins by token and by certificate, requests and answers.
#![allow(clippy::unwrap_used, reason = "a test file")]

#[path = "support/dps.rs"]
mod dps;
mod support;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use dps::{at_once, derive, device, grouped};
use fe2o3_amqp::connection::{Connection, ConnectionHandle, OpenError};
use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::Session;
use fe2o3_amqp::types::messaging::{ApplicationProperties, Message, Properties};
use fe2o3_amqp::types::primitives::SimpleValue;
use hub_simulator::HubSimulator;
use serde_json::{Value, json};
use support::{DataBody, accepted, rejection, soon, tls_stream};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Opens an AMQP connection over TLS.
async fn open(
    stream: TlsStream<TcpStream>,
    profile: SaslProfile,
) -> Result<ConnectionHandle<()>, OpenError> {
    let builder = Connection::builder().container_id("device");
    let builder = builder.sasl_profile(profile);
    soon(builder.open_with_stream(stream)).await
}

fn plain(username: &str, password: &str) -> SaslProfile {
    SaslProfile::Plain {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}

/// Registers over AMQP at an address and polls; returns the registration state.
async fn register_over_amqp(mut connection: ConnectionHandle<()>, address: &str) -> Value {
    let mut session = soon(Session::begin(&mut connection)).await.unwrap();
    let mut receiver = soon(Receiver::attach(&mut session, "in", address))
        .await
        .unwrap();
    let mut sender = soon(Sender::attach(&mut session, "out", address))
        .await
        .unwrap();
    let request = |operation: &str, id: &str| {
        let application = ApplicationProperties::builder()
            .insert("iotdps-operation-type", operation)
            .insert("iotdps-operation-id", id)
            .insert("iotdps-forceRegistration", false)
            .build();
        let properties = Properties::builder()
            .correlation_id("request".to_owned())
            .build();
        Message::builder()
            .properties(properties)
            .application_properties(application)
            .data(b"{}".to_vec())
            .build()
    };
    let mut operation = String::new();
    for (name, waits) in [
        ("iotdps-register", true),
        ("iotdps-get-operationstatus", false),
    ] {
        accepted(soon(sender.send(request(name, &operation))).await.unwrap());
        let reply = soon(receiver.recv::<DataBody>()).await.unwrap();
        soon(receiver.accept(&reply)).await.unwrap();
        let message = reply.message();
        let correlation = &message.properties.as_ref().unwrap().correlation_id;
        assert_eq!(correlation, &Some("request".to_owned().into()));
        for name in ["Retry-After", "retry-after"] {
            let found = message.application_properties.as_ref();
            let found = found.and_then(|found| found.0.get(name).cloned());
            assert_eq!(found, waits.then(|| SimpleValue::String("0".to_owned())));
        }
        let DataBody::Data(data) = &message.body else {
            panic!("no data")
        };
        let bytes: Vec<u8> = data.iter().flat_map(|part| part.0.to_vec()).collect();
        let mut body: Value = serde_json::from_slice(&bytes).unwrap();
        operation = body["operationId"].as_str().unwrap().to_owned();
        if !waits {
            return body["registrationState"].take();
        }
    }
    unreachable!("the last answer returns")
}

async fn tls_hub() -> HubSimulator {
    let builder = HubSimulator::builder().with_provisioning(at_once());
    builder.start().await.unwrap()
}

#[tokio::test]
async fn a_device_registers_over_amqp() {
    let hub = tls_hub().await;
    let key = derive(&hub.provisioning().group_key(), "d");
    let (token, path) = device(&hub, "d", &key);
    let address = path.trim_start_matches('/');
    let stream = tls_stream(&hub).await;
    let connection = open(stream, plain(address, &token)).await.unwrap();
    let state = register_over_amqp(connection, address).await;
    assert_eq!(state["deviceId"], "d");
    assert_eq!(hub.device_keys("d").unwrap().primary, BASE64.encode(key));
}

#[tokio::test]
async fn a_device_registers_by_its_certificate_and_connects_with_it() {
    let hub = tls_hub().await;
    let certified = rcgen::generate_simple_self_signed(["unit-7".to_owned()]).unwrap();
    let certificate = certified.cert.pem();
    let terms = json!({
        "attestation": {
            "type": "x509",
            "x509": { "clientCertificates": { "primary": { "certificate": certificate } } },
        },
    });
    let provisioning = hub.provisioning();
    provisioning.enrol_device("unit-7", &terms).unwrap();
    let key = certified.signing_key.serialize_pem();
    let address = |id: &str| format!("{}/registrations/{id}", provisioning.id_scope());
    let connect = async || {
        let stream = stream_to(&hub, hub.host(), Some((&certificate, &key))).await;
        open(stream, SaslProfile::Anonymous).await.unwrap()
    };
    let state = register_over_amqp(connect().await, &address("unit-7")).await;
    assert_eq!(
        (&state["deviceId"], &state["x509"]),
        (&json!("unit-7"), &json!({}))
    );
    let mut connection = connect().await;
    let mut session = soon(Session::begin(&mut connection)).await.unwrap();
    let events = "/devices/unit-7/messages/events";
    let events = soon(Sender::attach(&mut session, "events", events)).await;
    soon(events.unwrap().close()).await.unwrap();
    // Another's registration is refused when it is asked for.
    let other = address("unit-8");
    let mut sender = soon(Sender::attach(&mut session, "out", other.as_str()))
        .await
        .unwrap();
    let request = Message::builder().data(b"{}".to_vec()).build();
    let (condition, text) = rejection(soon(sender.send(request)).await.unwrap());
    assert_eq!(condition, "amqp:unauthorized-access");
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&text["errorCode"], &text["message"]),
        (&json!(401_002), &json!("Invalid certificate."))
    );
}

/// A TLS connection to a name that the certificate must have; with a certificate and key to show.
async fn stream_to(
    hub: &HubSimulator,
    name: &str,
    shown: Option<(&str, &str)>,
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(hub.ca_pem().unwrap().as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(hub.addr()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    soon(connector.connect(name, stream)).await.unwrap()
}

#[tokio::test]
async fn the_service_may_have_a_host_name_of_its_own() {
    let options = at_once().with_host("dps.test").with_id_scope("0ne0000000A");
    let builder = HubSimulator::builder().with_provisioning(options);
    let hub = builder.start().await.unwrap();
    let (token, path) = grouped(&hub, "d");
    let address = path.trim_start_matches('/');
    assert_eq!(address, "0ne0000000A/registrations/d");
    let stream = stream_to(&hub, "dps.test", None).await;
    let connection = open(stream, plain(address, &token)).await.unwrap();
    let state = register_over_amqp(connection, address).await;
    assert_eq!(state["assignedHub"], hub.host());
    let string = hub.provisioning().service_connection_string();
    assert!(string.starts_with("HostName=dps.test;"));
}

#[tokio::test]
async fn a_login_over_amqp_is_good_for_its_own_registration_and_nothing_else() {
    let hub = tls_hub().await;
    let (token, path) = grouped(&hub, "d");
    let username = path.trim_start_matches('/').to_owned();
    let wrong = device(&hub, "d", b"another key").0;
    let refused = open(tls_stream(&hub).await, plain(&username, &wrong)).await;
    refused.unwrap_err();
    let stream = tls_stream(&hub).await;
    let mut connection = open(stream, plain(&username, &token)).await.unwrap();
    for address in [
        username.replace("/d", "/e"),
        "$cbs".to_owned(),
        "/devices/d/messages/events".to_owned(),
    ] {
        let mut session = soon(Session::begin(&mut connection)).await.unwrap();
        soon(Sender::attach(&mut session, "out", address.as_str()))
            .await
            .unwrap_err();
    }
    let mut session = soon(Session::begin(&mut connection)).await.unwrap();
    let mut sender = soon(Sender::attach(&mut session, "out", username.as_str()))
        .await
        .unwrap();
    let unknown = Message::builder().data(b"{}".to_vec()).build();
    let (condition, text) = rejection(soon(sender.send(unknown)).await.unwrap());
    assert_eq!(condition, "amqp:not-allowed");
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(text["errorCode"], 400_004);
}

#[tokio::test]
async fn a_certificate_registers_nobody_at_first_sight() {
    let builder = HubSimulator::builder().with_auto_register(true);
    let hub = builder.start().await.unwrap();
    let certified = rcgen::generate_simple_self_signed(["anybody".to_owned()]).unwrap();
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let stream = stream_to(&hub, hub.host(), Some((&certificate, &key))).await;
    let mut connection = open(stream, SaslProfile::Anonymous).await.unwrap();
    let mut session = soon(Session::begin(&mut connection)).await.unwrap();
    let events = "/devices/unknown/messages/events";
    let refused = soon(Sender::attach(&mut session, "events", events)).await;
    assert!(refused.is_err());
    assert_eq!(hub.device_keys("unknown"), None);
}
