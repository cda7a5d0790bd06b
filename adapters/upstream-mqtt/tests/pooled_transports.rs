//! A broker behind TLS that asks for the gateway's certificate, and one behind a WebSocket.

#[path = "common/broker.rs"]
mod broker;
#[path = "common/pooled.rs"]
mod common;

use std::path::{Path, PathBuf};

use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{ErrorKind, Upstream};
use gateway_upstream_mqtt::MqttPoolUpstream;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use broker::Mosquitto;

/// An authority, and certificates of the broker and the gateway, in files.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = || KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
        let write = |file: &str, text: String| {
            std::fs::write(directory.path().join(file), text).expect("a file");
        };
        write("ca.pem", authority.pem());
        for name in ["localhost", "gateway"] {
            let key = key();
            let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.signed_by(&key, &authority).expect("a certificate");
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self(directory)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }
}

/// Attaches a device and sends a message, which the broker acknowledges or the error tells why not.
async fn carries(upstream: &MqttPoolUpstream) -> Result<(), ErrorKind> {
    let identity = common::identity("device");
    let device = identity.device.clone();
    let callback = RecordingCallback::new().shared();
    let attached = upstream.attach(identity, callback).await;
    attached.map_err(|error| error.kind())?;
    let sent = upstream.send(&common::uplink(&device, "m")).await;
    sent.map_err(|error| error.kind())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_knows_the_gateway_by_its_certificate_takes_its_devices() {
    let files = Certificates::new();
    let shown = |file: &str| files.path(file).display().to_string();
    let lines = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
         use_identity_as_username true\nallow_anonymous false\n",
        shown("ca.pem"),
        shown("localhost.pem"),
        shown("localhost.key")
    );
    let Some(broker) = Mosquitto::start_with(&lines).await else {
        return;
    };
    let config = |certificate: Option<&Path>| {
        let mut config = common::config(broker.port(), "gateway").with_tls(true);
        config.ca_file = Some(files.path("ca.pem"));
        config.certificate_file = certificate.map(Path::to_owned);
        config.key_file = certificate.map(|_| files.path("gateway.key"));
        config
    };
    let known = common::upstream(config(Some(&files.path("gateway.pem"))));
    carries(&known).await.expect("the broker takes it");

    let mut unknown = config(None);
    unknown.wire.connect_timeout = std::time::Duration::from_secs(2);
    let refused = carries(&common::upstream(unknown)).await;
    assert!(
        refused.is_err_and(ErrorKind::is_retryable),
        "{refused:?}: TLS does not tell whose fault it is"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_behind_a_web_socket_takes_devices_as_well() {
    let Some(broker) = Mosquitto::start_with(common::OPEN).await else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut bridges = JoinSet::new();
    let broker_port = broker.port();
    bridges.spawn(async move {
        let mut bridges = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            bridges.spawn(bridge(socket, broker_port));
        }
    });
    let mut config = common::config(port, "gateway");
    config.websocket = Some("/mqtt".to_owned());
    let upstream = common::upstream(config);
    carries(&upstream).await.expect("the broker takes it");
}

/// Takes bytes out of a WebSocket's messages and puts the broker's into them, as a broker's own
/// listener does.
#[expect(clippy::result_large_err, reason = "the library asks for it")]
async fn bridge(socket: TcpStream, port: u16) {
    let agree = |request: &Request, mut response: Response| {
        let protocol = request.headers()["Sec-WebSocket-Protocol"].clone();
        assert_eq!(protocol, "mqtt");
        let headers = response.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", protocol);
        Ok(response)
    };
    let mut socket = accept_hdr_async(socket, agree).await.expect("a WebSocket");
    let broker = TcpStream::connect(("127.0.0.1", port)).await;
    let (mut from, mut to) = broker.expect("the broker").into_split();
    let mut bytes = BytesMut::new();
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(message))) => {
                    to.write_all(&message).await.expect("the broker takes it");
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            read = from.read_buf(&mut bytes) => match read {
                Ok(1..) => {
                    let message = Message::Binary(bytes.split().freeze());
                    socket.send(message).await.expect("the gateway takes it");
                }
                _ => return,
            },
        }
    }
}
