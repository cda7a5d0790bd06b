//! LoRaWAN devices, by each way to them.

#[path = "../../../adapters/upstream-mqtt/tests/common/broker.rs"]
mod broker;
#[path = "../../src/bin/quickstart/device/lorawan/mac.rs"]
mod mac;

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hub_simulator::HubSimulator;
use serde_json::{Value, json};

use super::{Running, configure};
use broker::Mosquitto;
use mac::{Heard, Identity};

const SERVER: &str = r#"
    [downstream.lorawan]
    devices_file = "devices.csv"
    profile = "meter"
    [downstream.lorawan.profiles.meter]
    codec = { kind = "javascript", file = "meter.js" }
    [downstream.lorawan.server]
    region = "EU868"
    store = "lorawan.redb"
    forwarders = { listen = "127.0.0.1:0" }
    timing = { rx_delay = 5 }
    [[downstream.lorawan.server.concentrators]]
    eui = "b827ebfffe010203"
"#;
/// A device whose network server is elsewhere.
const LIST: &str = "dev_eui,id\n0102030405060708,meter-1\n";
const DEVICE: Identity = Identity {
    dev_eui: 0x70b3_d57e_d000_0001,
    app_key: [0x2b; 16],
};

/// The one concentrator.
struct Concentrator(UdpSocket);

impl Concentrator {
    fn connect(server: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        // Until the window has passed; then a device says it again.
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).unwrap();
        let this = Self(socket);
        this.send(2, "");
        assert_eq!(this.receive().unwrap()[3], 4);
        this
    }

    fn send(&self, kind: u8, json: &str) {
        let head = [2, 0, 1, kind, 0xb8, 0x27, 0xeb, 0xff, 0xfe, 1, 2, 3];
        self.0.send(&[&head, json.as_bytes()].concat()).unwrap();
    }

    /// Waits for a datagram; none comes if a window was missed, as on a machine that sleeps.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        let length = self.0.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }

    /// Hands on what a device says, until it is answered.
    fn answered(&self, frame: &[u8]) -> Vec<u8> {
        let heard = json!({"rxpk": [{
            "tmst": 1_000_000, "freq": 868.1, "chan": 0, "rfch": 0, "stat": 1, "modu": "LORA",
            "datr": "SF7BW125", "codr": "4/5", "rssi": -60, "lsnr": 5.0, "size": frame.len(),
            "data": BASE64_STANDARD.encode(frame),
        }]});
        for _ in 0..6 {
            self.send(0, &heard.to_string());
            while let Some(datagram) = self.receive() {
                if datagram[3] == 3 {
                    let asked: Value = serde_json::from_slice(&datagram[4..]).unwrap();
                    let data = asked["txpk"]["data"].as_str().unwrap();
                    return BASE64_STANDARD.decode(data).unwrap();
                }
            }
        }
        panic!("no answer came");
    }
}

fn address<'a>(line: &'a str, scheme: &str) -> &'a str {
    line.strip_prefix(scheme).unwrap()
}

/// The bodies of the first messages that the hub has, once there are so many.
async fn bodies(hub: &HubSimulator, count: u64) -> Vec<Value> {
    let record = hub.record();
    record.wait_for(count).await;
    let taken = record.take();
    let body = |message: &hub_simulator::Accepted| serde_json::from_slice(&message.body).unwrap();
    assert!(taken.iter().all(|message| message.device_id == "meter-1"));
    taken.iter().map(body).collect()
}

async fn hub() -> (HubSimulator, tempfile::TempDir) {
    let hub = HubSimulator::builder().start().await.unwrap();
    hub.add_device("meter-1");
    let directory = tempfile::tempdir().unwrap();
    (hub, directory)
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_joins_the_network_server_inside_and_the_hub_has_what_it_says() {
    let (hub, directory) = hub().await;
    let key = "2b".repeat(16);
    let list = format!("DevEUI;AppKey;ID\n70-B3-D5-7E-D0-00-00-01;{key};meter-1\n");
    write(directory.path(), "devices.csv", &list);
    let script = "function decodeUplink(input) { return { data: { level: input.bytes[0] } } }";
    write(directory.path(), "meter.js", script);
    configure(directory.path(), &hub, SERVER);
    let mut gateway = Running::start(directory.path());
    let server = gateway.listening();
    let concentrator = Concentrator::connect(address(&server, "lorawan+udp://"));

    let accept = concentrator.answered(&DEVICE.join_request(1).unwrap());
    let mut session = DEVICE.joined(1, &accept).unwrap();
    let answer = concentrator.answered(&session.say(Some(&[42])).unwrap());
    let expected = Heard {
        ack: true,
        speak: false,
        payload: Vec::new(),
    };
    assert_eq!(session.read(&answer).unwrap(), expected);
    let messages = bodies(&hub, 2).await;
    let levels: Vec<_> = messages
        .iter()
        .map(|body| &body["object"]["level"])
        .collect();
    assert_eq!(levels, [&Value::Null, &json!(42)], "it joined, and spoke");

    gateway.terminate();
    gateway.end();
    assert!(directory.path().join("lorawan.redb").exists());
}

/// Posts an event as a network server does, and gives the first line of the answer.
fn post(address: &str, path: &str, body: &Value) -> String {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer 0123456789abcdef\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap().to_owned()
}

/// What ChirpStack tells of a frame.
fn chirpstack_up() -> Value {
    let info = json!({"applicationId": "a", "devEui": "0102030405060708"});
    json!({
        "deduplicationId": "one", "deviceInfo": info, "devAddr": "00189440", "fCnt": 4, "fPort": 1,
        "data": "qgA=",
    })
}

/// What The Things Stack tells of another.
fn tts_up() -> Value {
    let ids = json!({
        "device_id": "d", "application_ids": {"application_id": "app"},
        "dev_eui": "0102030405060708", "dev_addr": "00189440",
    });
    let up = json!({"f_port": 1, "f_cnt": 5, "frm_payload": "qgE="});
    json!({"end_device_ids": ids, "uplink_message": up})
}

/// Waits until the hub has both.
async fn both(hub: &HubSimulator) {
    let messages = bodies(hub, 2).await;
    let mut data: Vec<_> = messages
        .iter()
        .filter_map(|it| it["data"].as_str())
        .collect();
    data.sort_unstable();
    assert_eq!(data, ["qgA=", "qgE="]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_network_servers_elsewhere_post_is_at_the_hub_under_the_listed_name() {
    let (hub, directory) = hub().await;
    write(directory.path(), "token", "0123456789abcdef");
    write(directory.path(), "devices.csv", LIST);
    let ways = r#"
        [downstream.lorawan]
        devices_file = "devices.csv"
        [downstream.lorawan.chirpstack_http]
        listen = "127.0.0.1:0"
        token = { file = "token" }
        [downstream.lorawan.tts_webhook]
        webhook = "gateway"
        http = { listen = "127.0.0.1:0", token = { file = "token" } }
    "#;
    configure(directory.path(), &hub, ways);
    let mut gateway = Running::start(directory.path());
    let (chirpstack, tts) = (gateway.listening(), gateway.listening());

    let path = "/?event=up";
    let answer = post(
        address(&chirpstack, "lorawan+http://"),
        path,
        &chirpstack_up(),
    );
    assert!(answer.contains(" 20"), "{answer}");
    let answer = post(address(&tts, "lorawan+http://"), "/up", &tts_up());
    assert!(answer.contains(" 20"), "{answer}");
    both(&hub).await;

    gateway.terminate();
    gateway.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_network_servers_elsewhere_publish_is_at_the_hub_under_the_listed_name() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let (hub, directory) = hub().await;
    write(directory.path(), "devices.csv", LIST);
    let port = broker.port();
    let ways = format!(
        r#"
        [downstream.lorawan]
        devices_file = "devices.csv"
        [downstream.lorawan.chirpstack]
        mqtt = {{ host = "127.0.0.1", port = {port} }}
        [downstream.lorawan.tts]
        application = "app"
        mqtt = {{ host = "127.0.0.1", port = {port}, password = {{ file = "hub.txt" }} }}
        "#
    );
    configure(directory.path(), &hub, &ways);
    let gateway = Running::start(directory.path());
    let told = [
        (
            "application/a/device/0102030405060708/event/up",
            chirpstack_up(),
        ),
        ("v3/app/devices/d/up", tts_up()),
    ];
    for (topic, body) in told {
        // It subscribes when it is ready; what is retained it gets then.
        publish(port, topic, &body.to_string());
    }
    both(&hub).await;

    gateway.terminate();
    gateway.end();
}

/// Publishes a message, which the broker retains: MQTT 3.1.1 at quality of service 0, by hand.
fn publish(port: u16, topic: &str, body: &str) {
    let text = |text: &str| [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat();
    let packet = |head: u8, rest: Vec<u8>| {
        let (low, high) = (rest.len() % 128, rest.len() / 128);
        assert!((1..128).contains(&high), "two bytes say how long it is");
        [vec![head, low as u8 | 0x80, high as u8], rest].concat()
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02me")
        .unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    let publish = [text(topic), body.as_bytes().to_vec()].concat();
    stream.write_all(&packet(0x31, publish)).unwrap();
    stream.write_all(b"\xe0\0").unwrap();
    // Until the broker has read it all.
    stream.read_to_end(&mut Vec::new()).unwrap();
}
