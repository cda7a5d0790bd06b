//! A device or service on `fe2o3-amqp`, an AMQP stack that has nothing in common with the hub's.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use fe2o3_amqp::connection::{Connection, ConnectionHandle};
use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::{Session, SessionHandle};
use fe2o3_amqp::types::messaging::{
    AmqpValue, ApplicationProperties, Data, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp::types::primitives::SimpleValue;
use hub_simulator::{ConnectionString, HubSimulator};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Bounds a wait, so that a broken hub fails a test instead of hanging it.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("it happens in time")
}

/// A hub on plain TCP.
pub(crate) async fn plain_hub() -> HubSimulator {
    HubSimulator::builder()
        .with_tls(false)
        .start()
        .await
        .unwrap()
}

/// Seconds since the Unix epoch, `ahead` from now.
pub(crate) fn expiry(ahead: Duration) -> u64 {
    (SystemTime::now() + ahead)
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A token made of a connection string, good for an hour.
pub(crate) fn token(connection_string: &str) -> String {
    ConnectionString::parse(connection_string)
        .unwrap()
        .sign(expiry(Duration::from_secs(3600)))
}

pub(crate) async fn tls_stream(hub: &HubSimulator) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(hub.ca_pem().unwrap().as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(hub.host().to_owned()).unwrap();
    let stream = TcpStream::connect(hub.addr()).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

/// A connection with its session for `$cbs`.
pub(crate) struct Client {
    pub(crate) connection: ConnectionHandle<()>,
    pub(crate) session: SessionHandle<()>,
    pub(crate) cbs: Cbs,
}

impl Client {
    /// Connects over plain TCP without SASL, as the .NET and Node SDKs do after TLS.
    pub(crate) async fn connect(hub: &HubSimulator) -> Self {
        let builder = Connection::builder().container_id("test").channel_max(8191);
        let stream = TcpStream::connect(hub.addr()).await.unwrap();
        Self::begin(soon(builder.open_with_stream(stream)).await.unwrap()).await
    }

    /// Connects over TLS with SASL.
    pub(crate) async fn connect_tls(hub: &HubSimulator, profile: SaslProfile) -> Self {
        let builder = Connection::builder()
            .container_id("test")
            .sasl_profile(profile);
        let stream = tls_stream(hub).await;
        Self::begin(soon(builder.open_with_stream(stream)).await.unwrap()).await
    }

    pub(crate) async fn begin(mut connection: ConnectionHandle<()>) -> Self {
        let mut session = soon(Session::begin(&mut connection)).await.unwrap();
        let cbs = Cbs::open(&mut session).await;
        Self {
            connection,
            session,
            cbs,
        }
    }

    /// Connects and puts the token of a device.
    pub(crate) async fn device(hub: &HubSimulator, id: &str) -> Self {
        let mut client = Self::connect(hub).await;
        client
            .authorize(&hub.device_connection_string(id), id)
            .await;
        client
    }

    /// Connects and puts a token of the `service` policy.
    pub(crate) async fn service(hub: &HubSimulator) -> Self {
        let mut client = Self::connect(hub).await;
        client
            .authorize(&hub.policy_connection_string("service"), "service")
            .await;
        client
    }

    /// Puts a token of a connection string under a name.
    pub(crate) async fn authorize(&mut self, connection_string: &str, name: &str) {
        let status = self.cbs.put(name, &token(connection_string)).await;
        assert_eq!(status, (200, "OK".to_owned()));
    }

    pub(crate) async fn telemetry(&mut self, id: &str) -> Sender {
        self.sender(&format!("/devices/{id}/messages/events")).await
    }

    pub(crate) async fn sender(&mut self, address: &str) -> Sender {
        soon(Sender::attach(
            &mut self.session,
            link_name("sender"),
            address,
        ))
        .await
        .unwrap()
    }

    pub(crate) async fn receiver(&mut self, address: &str) -> Receiver {
        soon(Receiver::attach(
            &mut self.session,
            link_name("receiver"),
            address,
        ))
        .await
        .unwrap()
    }
}

fn link_name(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// The two `$cbs` links.
pub(crate) struct Cbs {
    sender: Sender,
    receiver: Receiver,
}

impl Cbs {
    pub(crate) async fn open(session: &mut SessionHandle<()>) -> Self {
        let sender = soon(Sender::attach(session, link_name("cbs-sender"), "$cbs"))
            .await
            .unwrap();
        let receiver = soon(Receiver::attach(session, link_name("cbs-receiver"), "$cbs"))
            .await
            .unwrap();
        Self { sender, receiver }
    }

    /// Puts a token; returns status and description.
    pub(crate) async fn put(&mut self, name: &str, token: &str) -> (i32, String) {
        self.ask(
            &[
                ("operation", "put-token"),
                ("type", "servicebus.windows.net:sastoken"),
                ("name", name),
            ],
            token,
        )
        .await
    }

    pub(crate) async fn ask(&mut self, properties: &[(&str, &str)], body: &str) -> (i32, String) {
        let id = MessageId::from(link_name("request"));
        let mut application = ApplicationProperties::builder();
        for (name, value) in properties {
            application = application.insert(*name, *value);
        }
        let request = Message::builder()
            .properties(Properties::builder().message_id(id.clone()).build())
            .application_properties(application.build())
            .value(body.to_owned())
            .build();
        accepted(soon(self.sender.send(request)).await.unwrap());
        let reply = soon(
            self.receiver
                .recv::<fe2o3_amqp::types::messaging::Body<fe2o3_amqp::types::primitives::Value>>(),
        )
        .await
        .unwrap();
        soon(self.receiver.accept(&reply)).await.unwrap();
        let message = reply.message();
        assert_eq!(
            message.properties.as_ref().unwrap().correlation_id,
            Some(id)
        );
        assert!(message.body.is_empty());
        let properties = message.application_properties.as_ref().unwrap();
        let property = |name: &str| properties.0.get(name).expect("the answer is complete");
        let SimpleValue::Int(code) = property("status-code") else {
            panic!("the status is no int")
        };
        let SimpleValue::String(text) = property("status-description") else {
            panic!("no text")
        };
        (*code, text.clone())
    }
}

pub(crate) fn accepted(outcome: Outcome) {
    assert!(outcome.is_accepted(), "{outcome:?}");
}

/// The condition and description of a rejection.
pub(crate) fn rejection(outcome: Outcome) -> (String, String) {
    match outcome {
        Outcome::Rejected(rejected) => {
            let error = rejected.error.expect("a rejection has its reason");
            (condition_of(&error), error.description.unwrap_or_default())
        }
        other => panic!("{other:?}"),
    }
}

/// The wire form of an error condition.
pub(crate) fn condition_of(error: &fe2o3_amqp::types::definitions::Error) -> String {
    match serde_amqp::to_value(&error.condition).unwrap() {
        serde_amqp::Value::Symbol(symbol) => symbol.into_inner(),
        other => panic!("{other:?}"),
    }
}

/// A message with an id and a body.
pub(crate) fn message(id: &str, body: &str) -> Message<Data> {
    Message::builder()
        .properties(Properties::builder().message_id(id.to_owned()).build())
        .data(body.as_bytes().to_vec())
        .build()
}

/// A message of a service to a device.
pub(crate) fn c2d(device: &str, body: &str) -> Message<Data> {
    let properties = Properties::builder()
        .to(format!("/devices/{device}/messages/deviceBound"))
        .build();
    Message::builder()
        .properties(properties)
        .data(body.as_bytes().to_vec())
        .build()
}

pub(crate) type ValueMessage = Message<AmqpValue<String>>;

/// The body of a delivery of one Data section.
pub(crate) type DataBody = fe2o3_amqp::types::messaging::Body<fe2o3_amqp::types::primitives::Value>;

/// The bytes of a body.
pub(crate) fn bytes_of(body: &DataBody) -> Vec<u8> {
    body.try_as_data()
        .unwrap()
        .flat_map(|part| part.to_vec())
        .collect()
}
