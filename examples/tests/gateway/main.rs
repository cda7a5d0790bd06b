//! The gateway program as its operators run it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[cfg(unix)]
mod lorawan;

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, Token, option};
use hub_simulator::HubSimulator;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gateway");

/// Writes a configuration for a simulated hub, which knows the device `dev1`, with these devices.
fn configure(directory: &Path, hub: &HubSimulator, downstream: &str) {
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write("hub-ca.pem", hub.ca_pem().unwrap());
    write("hub.txt", &(hub.policy_connection_string("device") + "\n"));
    write("secrets.json", r#"{"dev1": "open sesame"}"#);
    let (address, port) = (hub.addr().ip(), hub.addr().port());
    let text = format!(
        r#"
        [upstream.amqp]
        connection_string = {{ file = "hub.txt" }}
        address = "{address}"
        port = {port}
        ca_file = "hub-ca.pem"
        [credentials]
        kind = "policy"
        {downstream}
        "#
    );
    write("gateway.toml", &text);
}

/// The program, and the lines that it prints.
#[cfg(unix)]
struct Running(Child, Lines<BufReader<ChildStdout>>);

#[cfg(unix)]
impl Running {
    fn start(directory: &Path) -> Self {
        let mut gateway = Command::new(PROGRAM)
            .arg("--config")
            .arg(directory.join("gateway.toml"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(gateway.stdout.take().unwrap()).lines();
        Self(gateway, output)
    }

    /// The address that it says next.
    fn listening(&mut self) -> String {
        let line = self.1.next().unwrap().unwrap();
        let address = line.strip_prefix("Listening for devices on ");
        address.unwrap().to_owned()
    }

    fn terminate(&self) {
        let process = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its orderly end.
    fn end(mut self) {
        let report = self.1.next().unwrap().unwrap();
        assert!(
            report.starts_with("Shut down: ") && report.contains(" 0 cut off"),
            "{report}"
        );
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_served_and_sigterm_drains_with_a_report() {
    let hub = HubSimulator::builder().start().await.unwrap();
    hub.add_device("dev1");
    let directory = tempfile::tempdir().unwrap();
    let tcp = r#"
        [downstream.tcp]
        listen = "127.0.0.1:0"
        identity = { secrets_file = "secrets.json" }
    "#;
    configure(directory.path(), &hub, tcp);
    let mut gateway = Running::start(directory.path());
    let address = gateway.listening();

    let device = TcpStream::connect(address).unwrap();
    device
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut frames = BufReader::new(&device).lines();
    let mut exchange = |frame: &str, answer: &str| {
        (&device)
            .write_all(format!("{frame}\n").as_bytes())
            .unwrap();
        let line = frames.next().unwrap().unwrap();
        assert!(line.contains(answer), "{line}");
    };
    exchange(
        r#"{"type":"hello","id":"dev1","secret":"open sesame"}"#,
        r#""type":"welcome""#,
    );
    exchange(
        r#"{"type":"telemetry","id":"m-1","body":{"t":21}}"#,
        r#""type":"ack","id":"m-1""#,
    );
    let recorded = hub.record().take();
    assert_eq!(recorded.len(), 1);
    assert_eq!(
        (&*recorded[0].device_id, &*recorded[0].body),
        ("dev1", &br#"{"t":21}"#[..])
    );

    gateway.terminate();
    let bye = frames.next().unwrap().unwrap();
    assert!(bye.contains(r#""type":"bye""#), "{bye}");
    gateway.end();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_device_on_coap_is_served_alone_or_beside_others() {
    let hub = HubSimulator::builder().start().await.unwrap();
    hub.add_device("dev1");
    let directory = tempfile::tempdir().unwrap();
    let coap = r#"
        [downstream.coap]
        udp = { listen = "127.0.0.1:0" }
        identity = { tokens_file = "secrets.json" }
        dtls = { listen = "127.0.0.1:0" }
        tcp = { listen = "127.0.0.1:0" }
    "#;
    configure(directory.path(), &hub, coap);
    let mut gateway = Running::start(directory.path());
    let plain = gateway.listening();
    assert!(gateway.listening().starts_with("coaps://"));
    assert!(gateway.listening().starts_with("coap+tcp://"));

    let device = UdpSocket::bind("127.0.0.1:0").unwrap();
    device
        .connect(plain.strip_prefix("coap://").unwrap())
        .unwrap();
    let patience = Some(Duration::from_secs(2));
    device.set_read_timeout(patience).unwrap();
    let message = Message::new(Code::POST)
        .with_token(Token::from(1))
        .with_path("t")
        .with_option(option::URI_QUERY, "$.id=dev1")
        .with_option(option::URI_QUERY, "$.token=open sesame")
        .with_payload(&br#"{"t":21}"#[..]);
    let (kind, id) = (Kind::Confirmable, 7);
    let request = Datagram { kind, id, message }.encode();
    let mut buffer = [0; 1024];
    let answer = (0..30).find_map(|_| {
        device.send(&request).unwrap();
        let length = device.recv(&mut buffer).ok()?;
        let answer = Datagram::decode(&buffer[..length]).unwrap();
        // An empty acknowledgement may come first.
        (answer.message.code != Code::EMPTY).then_some(answer)
    });
    assert_eq!(answer.unwrap().message.code, Code::CHANGED);
    let recorded = hub.record().take();
    assert_eq!(recorded.len(), 1);
    assert_eq!(&*recorded[0].body, &br#"{"t":21}"#[..]);
    gateway.terminate();
    gateway.end();
}

#[test]
fn a_check_names_the_mistakes_and_fails_or_says_that_there_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let output = Command::new(PROGRAM)
            .args(["--check", "--config"])
            .arg(&path)
            .output();
        let output = output.unwrap();
        let words = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(words).unwrap())
    };
    let good =
        "[upstream.amqp]\nhost = 'h'\n[credentials]\nkind = 'device_tokens'\n[downstream.tcp]\n";
    let (code, words) = check(good);
    assert_eq!(
        (code, words.contains("is valid")),
        (Some(0), true),
        "{words}"
    );
    let (code, words) = check(&format!("{good}port = 1\n[gateway]\nmax_in_flight = 0\n"));
    assert_eq!(code, Some(1), "{words}");
    assert!(
        words.contains("gateway.toml, line 6: `downstream.tcp.port` is not known"),
        "{words}"
    );
    assert!(
        words.contains("gateway.toml, line 8: `gateway.max_in_flight` is 0"),
        "{words}"
    );
    assert_eq!(words.lines().count(), 2, "{words}");
    // What cannot be told from the text: it is no file of secrets, for one.
    let (code, words) = check(&format!("{good}identity.secrets_file = 'gateway.toml'\n"));
    assert_eq!(code, Some(1), "{words}");
    assert!(
        words.contains("gateway.toml, line 6: `downstream.tcp.identity.secrets_file` is wrong"),
        "{words}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = Command::new(PROGRAM)
        .args(["--config", "nowhere.toml"])
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("nowhere.toml cannot be read"), "{words}");
}
