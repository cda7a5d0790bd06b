//! TLS: names in certificates, and clients that are not ours.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gateway_core::Interest;
use gateway_downstream_tcp::{BindError, TcpConfig, TcpDownstream, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;
use support::{Device, Running, SECRET, config, device};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A certificate authority, a server's certificate and a client's, in files.
struct Pki {
    directory: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test root");
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(directory.path().join("ca.pem"), root.pem()).unwrap();
        for (file, common, alternative) in [
            ("server", "server", "localhost"),
            ("client", "not the name", "dev1"),
        ] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new([alternative.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, common);
            let certificate = params.signed_by(&key, &root).unwrap();
            let path = |kind| directory.path().join(format!("{file}.{kind}.pem"));
            std::fs::write(path("cert"), certificate.pem()).unwrap();
            std::fs::write(path("key"), key.serialize_pem()).unwrap();
        }
        Self { directory }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn config(&self) -> TcpConfig {
        let mut tls = TlsConfig::new(self.path("server.cert.pem"), self.path("server.key.pem"));
        tls.client_ca = Some(self.path("ca.pem"));
        let mut config = config(&["dev2"]);
        config.tls = Some(tls);
        config.identity.certificate = true;
        config
    }

    async fn dial(&self, running: &Running, with_certificate: bool) -> Device {
        let certificates = |file| CertificateDer::pem_file_iter(self.path(file)).unwrap();
        let mut roots = RootCertStore::empty();
        for root in certificates("ca.pem") {
            roots.add(root.unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let client = match with_certificate {
            false => builder.with_no_client_auth(),
            true => builder
                .with_client_auth_cert(
                    certificates("client.cert.pem")
                        .map(Result::unwrap)
                        .collect(),
                    PrivateKeyDer::from_pem_file(self.path("client.key.pem")).unwrap(),
                )
                .unwrap(),
        };
        let stream = TcpStream::connect(running.address()).await.unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        Device::new(
            connector
                .connect("localhost".try_into().unwrap(), stream)
                .await
                .unwrap(),
        )
    }
}

#[tokio::test]
async fn a_certificate_names_the_device_without_a_hello() {
    let pki = Pki::new();
    let running = Running::start(pki.config()).await;
    let mut dev1 = pki.dial(&running, true).await;
    assert_eq!(dev1.hear().await, json!({"type": "welcome", "id": "dev1"}));
    dev1.works("m").await;
    // Firmware that says hello all the same is welcome under its own name only.
    dev1.say(json!({"type": "hello", "id": "dev1"})).await;
    assert_eq!(dev1.hear().await["type"], "welcome");
    // It may say what it wants to hear.
    let all = json!({"messages": true, "methods": true, "desired": true});
    dev1.say(json!({"type": "hello", "id": "dev1", "interest": all}))
        .await;
    assert_eq!(dev1.hear().await["type"], "welcome");
    let name = device("dev1");
    let listening = running.hub.wait_listening(&name, Interest::ALL);
    timeout(Duration::from_secs(10), listening).await.unwrap();
    dev1.say(json!({"type": "hello", "id": "dev2", "secret": SECRET}))
        .await;
    assert_eq!(dev1.hear().await["reason"], "already_identified");
    running.end().await;
}

#[tokio::test]
async fn a_device_without_a_certificate_says_hello_over_tls() {
    let pki = Pki::new();
    let running = Running::start(pki.config()).await;
    let mut dev2 = pki.dial(&running, false).await;
    dev2.hello("dev2").await;
    dev2.works("m").await;
    running.end().await;
}

#[tokio::test]
async fn a_required_certificate_is_required() {
    let pki = Pki::new();
    let mut config = pki.config();
    config.tls.as_mut().unwrap().client_certificate_required = true;
    let running = Running::start(config).await;
    let mut dev2 = pki.dial(&running, false).await;
    dev2.say(json!({"type": "hello", "id": "dev2", "secret": SECRET}))
        .await;
    assert_eq!(dev2.try_hear().await, None);
    assert_eq!(pki.dial(&running, true).await.hear().await["id"], "dev1");
    running.end().await;
}

#[tokio::test]
async fn noise_instead_of_a_handshake_costs_nobody_else_anything() {
    let pki = Pki::new();
    let mut config = pki.config();
    config.timeouts.hello = Duration::from_secs(3);
    let running = Running::start(config).await;
    let mut half = TcpStream::connect(running.address()).await.unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    let mut plain = TcpStream::connect(running.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut dev1 = pki.dial(&running, true).await;
    assert_eq!(dev1.hear().await["type"], "welcome");
    // Both are closed, at once or after the time for a hello.
    for stream in [half, plain] {
        Device::new(stream).read_to_end().await;
    }
    dev1.works("m").await;
    running.end().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let pki = Pki::new();
    for (certificate, key) in [
        ("none.pem", "server.key.pem"),
        ("server.cert.pem", "ca.pem"),
    ] {
        let mut config = config(&[]);
        config.tls = Some(TlsConfig::new(pki.path(certificate), pki.path(key)));
        let error = TcpDownstream::bind(config).await.unwrap_err();
        assert!(matches!(error, BindError::File { .. }), "{error}");
    }
    let mut config = config(&[]);
    let other = Pki::new();
    config.tls = Some(TlsConfig::new(
        pki.path("server.cert.pem"),
        other.path("server.key.pem"),
    ));
    let error = TcpDownstream::bind(config).await.unwrap_err();
    assert!(matches!(error, BindError::Tls(_)), "{error}");
}

/// Runs a program with this input and gives its output; none where it is not installed.
async fn run_foreign(mut command: Command, input: &'static str) -> Option<String> {
    tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else {
            #[expect(clippy::print_stdout, reason = "a test's reader is to see it")]
            {
                println!("{command:?} is not installed");
            }
            return None;
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        Some(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap())
    })
    .await
    .unwrap()
}

const PYTHON: &str = r#"
import json, socket, ssl, sys
port, directory = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=directory + "/ca.pem")
context.load_cert_chain(directory + "/client.cert.pem", directory + "/client.key.pem")
raw = socket.create_connection(("127.0.0.1", port))
with context.wrap_socket(raw, server_hostname="localhost") as device:
    lines = device.makefile("rw", newline="\n")
    print(json.loads(lines.readline())["type"])
    for n in range(3):
        lines.write(json.dumps({"type": "telemetry", "id": "py-%d" % n, "body": n}) + "\n")
    lines.flush()
    for n in range(3):
        answer = json.loads(lines.readline())
        print(answer["type"], answer["id"])
"#;

#[tokio::test(flavor = "multi_thread")]
async fn python_is_served() {
    let pki = Pki::new();
    let running = Running::start(pki.config()).await;
    let mut python = Command::new("python3");
    python
        .arg("-")
        .arg(running.address().port().to_string())
        .arg(pki.directory.path());
    if let Some(output) = run_foreign(python, PYTHON).await {
        assert_eq!(output, "welcome\nack py-0\nack py-1\nack py-2\n");
        assert_eq!(running.hub.accepted().len(), 3);
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_is_served() {
    let pki = Pki::new();
    let mut config = pki.config();
    // It does not end by itself: the gateway says goodbye.
    config.timeouts.idle = Duration::from_secs(4);
    let running = Running::start(config).await;
    let mut openssl = Command::new("openssl");
    openssl
        .args(["s_client", "-quiet", "-servername", "localhost", "-connect"])
        .arg(running.address().to_string())
        .args(["-verify_return_error", "-CAfile"])
        .arg(pki.path("ca.pem"));
    openssl.arg("-cert").arg(pki.path("client.cert.pem"));
    openssl
        .arg("-key")
        .arg(pki.path("client.key.pem"))
        .arg("-ign_eof");
    let input = "{\"type\":\"telemetry\",\"id\":\"o\",\"body\":1}\n";
    if let Some(output) = run_foreign(openssl, input).await {
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(
            lines,
            [
                r#"{"type":"welcome","id":"dev1"}"#,
                r#"{"type":"ack","id":"o"}"#,
                r#"{"type":"bye","reason":"idle_timeout"}"#,
            ]
        );
    }
    running.end().await;
}
