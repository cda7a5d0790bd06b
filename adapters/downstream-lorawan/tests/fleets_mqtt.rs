//! Fleets on ChirpStack and on The Things Stack, which the tests play, with a real broker between.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/authority.rs"]
mod authority;
#[path = "../../upstream-mqtt/tests/common/broker.rs"]
mod broker;
#[path = "support/site.rs"]
mod site;

use std::sync::Arc;
use std::time::Duration;

use gateway_core::testkit::MemoryUpstream;
use gateway_core::{CloudMessage, DeviceId, Disposition, Interest};
use gateway_downstream_lorawan::chirpstack::{self, ChirpStackConfig};
use gateway_downstream_lorawan::cloud::{CloudDownstream, MqttConfig};
use gateway_downstream_lorawan::tts::{self, TtsConfig};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use authority::Identity;
use broker::Mosquitto;

const APPLICATION: &str = "ca739e26-7b67-4f14-b69e-d568c22a5a75";
const DEV_EUI: &str = "0102030405060708";
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

/// A network server's MQTT integration.
struct Server {
    client: AsyncClient,
    requests: mpsc::Receiver<(String, Value)>,
    _connection: JoinSet<()>,
}

impl Server {
    /// Connects, and hears what is asked on these topics.
    async fn start(broker: &Mosquitto, requests: &str) -> Self {
        let options = MqttOptions::new("server", "127.0.0.1", broker.port());
        Self::connect(options, requests).await
    }

    async fn connect(mut options: MqttOptions, requests: &str) -> Self {
        options.set_max_packet_size(4 << 20, 4 << 20);
        let (client, mut eventloop) = AsyncClient::new(options, 64);
        client.subscribe(requests, QoS::AtLeastOnce).await.unwrap();
        let (heard, requests) = mpsc::channel(64);
        let (ready, mut is_ready) = mpsc::channel(1);
        let mut connection = JoinSet::new();
        connection.spawn(async move {
            loop {
                match eventloop.poll().await.unwrap() {
                    Event::Incoming(Packet::SubAck(_)) => ready.send(()).await.unwrap(),
                    Event::Incoming(Packet::Publish(message)) => {
                        let body = serde_json::from_slice(&message.payload).unwrap();
                        heard.send((message.topic, body)).await.unwrap();
                    }
                    _ => {}
                }
            }
        });
        is_ready.recv().await.unwrap();
        Self {
            client,
            requests,
            _connection: connection,
        }
    }

    async fn tell(&self, topic: String, body: impl Into<Vec<u8>>) {
        let told = self.client.publish(topic, QoS::AtLeastOnce, false, body);
        told.await.unwrap();
    }

    /// Tells an uplink until somebody has subscribed to it; the hub has it once.
    async fn tell_until_heard(&self, hub: &MemoryUpstream, topic: String, body: &Value) {
        let mut again = interval(Duration::from_millis(50));
        let tell = async {
            loop {
                again.tick().await;
                self.tell(topic.clone(), body.to_string()).await;
            }
        };
        tokio::select! {
            () = tell => {}
            _ = hub.wait_accepted(1) => {}
        }
    }

    async fn request(&mut self) -> (String, Value) {
        self.requests.recv().await.unwrap()
    }
}

fn broker_at(broker: &Mosquitto) -> MqttConfig {
    let mut config = MqttConfig::default();
    config.host = "127.0.0.1".into();
    config.port = Some(broker.port());
    config.client_id = Some("gateway".into());
    config
}

fn chirpstack(broker: &Mosquitto) -> CloudDownstream {
    let mut config = ChirpStackConfig::default();
    config.mqtt = broker_at(broker);
    chirpstack::mqtt(config, site::everybody()).unwrap()
}

fn event(name: &str) -> String {
    format!("application/{APPLICATION}/device/{DEV_EUI}/event/{name}")
}

fn up(frame_counter: u32) -> Value {
    json!({
        "deduplicationId": format!("frame-{frame_counter}"),
        "deviceInfo": {"applicationId": APPLICATION, "devEui": DEV_EUI},
        "devAddr": "00189440",
        "fCnt": frame_counter,
        "fPort": 1,
        "data": "qgA=",
    })
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn command(name: &str) -> CloudMessage {
    CloudMessage::new(device(name), &b"on"[..], Instant::now() + LONG)
}

fn counters(hub: &MemoryUpstream) -> Vec<u64> {
    let counter = |body: &[u8]| {
        let body: Value = serde_json::from_slice(body).unwrap();
        body["frameCounter"].as_u64().unwrap()
    };
    hub.accepted()
        .iter()
        .map(|message| counter(&message.body))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_for_chirpstack_ends_with_the_radios_result() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let hub = MemoryUpstream::new();
    let mut server = Server::start(&broker, "application/+/device/+/command/down").await;
    let _run = site::run(&hub, chirpstack(&broker));
    server.tell_until_heard(&hub, event("up"), &up(1)).await;
    hub.wait_listening(&device(DEV_EUI), Interest::COMMANDS)
        .await;

    let radio = async {
        server.tell(event("up"), up(2).to_string()).await;
        let (topic, body) = server.request().await;
        let expected = format!("application/{APPLICATION}/device/{DEV_EUI}/command/down");
        assert_eq!(topic, expected);
        assert_eq!(
            (&body["devEui"], &body["fPort"], &body["data"]),
            (&DEV_EUI.into(), &10.into(), &"b24=".into())
        );
        let ack = json!({"deviceInfo": {"applicationId": APPLICATION, "devEui": DEV_EUI},
            "queueItemId": body["id"], "gatewayId": "0016c001f153a14c"});
        server.tell(event("txack"), ack.to_string()).await;
    };
    let (disposition, ()) = tokio::join!(hub.send_message(command(DEV_EUI)), radio);
    assert_eq!(disposition, Some(Disposition::Complete));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_command_does_not_wait_for_what_the_hub_puts_off() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let hub = MemoryUpstream::new();
    let mut server = Server::start(&broker, "application/+/device/+/command/down").await;
    let _run = site::run(&hub, chirpstack(&broker));
    server.tell_until_heard(&hub, event("up"), &up(1)).await;
    hub.wait_listening(&device(DEV_EUI), Interest::COMMANDS)
        .await;
    let radio = async {
        let (_, body) = server.request().await;
        hub.hold();
        server.tell(event("up"), up(2).to_string()).await;
        hub.wait_held(1).await;
        let log = json!({"deviceInfo": {"applicationId": APPLICATION, "devEui": DEV_EUI},
            "level": "ERROR", "code": "DOWNLINK_PAYLOAD_SIZE",
            "context": {"queue_item_id": body["id"]}});
        server.tell(event("log"), log.to_string()).await;
    };
    let (disposition, ()) = tokio::join!(hub.send_message(command(DEV_EUI)), radio);
    assert_eq!(disposition, Some(Disposition::Reject));
    hub.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_twice_is_one_message_and_garbage_is_none() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let hub = MemoryUpstream::new();
    let server = Server::start(&broker, "unused").await;
    let _run = site::run(&hub, chirpstack(&broker));
    server.tell_until_heard(&hub, event("up"), &up(1)).await;
    for body in [up(2), up(2), up(3), up(2), up(4)] {
        server.tell(event("up"), "garbage").await;
        server.tell(event("up"), body.to_string()).await;
    }
    hub.wait_accepted(4).await;
    assert_eq!(counters(&hub), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_did_not_take_before_a_crash_comes_again_after_it() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let hub = MemoryUpstream::new();
    let server = Server::start(&broker, "unused").await;
    let run = site::run(&hub, chirpstack(&broker));
    server.tell_until_heard(&hub, event("up"), &up(1)).await;
    hub.hold();
    server.tell(event("up"), up(2).to_string()).await;
    hub.wait_held(1).await;
    drop(run);

    let hub = MemoryUpstream::new();
    let _run = site::run(&hub, chirpstack(&broker));
    let accepted = hub.wait_accepted(1).await;
    assert_eq!(accepted[0].id.as_str(), "frame-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_is_dropped_and_those_after_it_come() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let hub = MemoryUpstream::new();
    let server = Server::start(&broker, "unused").await;
    let mut config = ChirpStackConfig::default();
    config.mqtt = broker_at(&broker);
    config.mqtt.max_message = 1024;
    let downstream = chirpstack::mqtt(config, site::everybody()).unwrap();
    let _run = site::run(&hub, downstream);
    server.tell_until_heard(&hub, event("up"), &up(1)).await;
    // The second would have passed with the first one's room.
    for (length, frame_counter) in [(1 << 20, 2), (500_000, 3), (2 << 20, 4)] {
        server.tell(event("up"), vec![b' '; length]).await;
        let uplink = up(frame_counter).to_string();
        server.tell(event("up"), uplink).await;
    }
    hub.wait_accepted(4).await;
    assert_eq!(counters(&hub), [1, 2, 3, 4]);
}

/// Starts a broker with a certificate.
async fn tls_broker(identity: &Identity) -> Option<Mosquitto> {
    let certificate = identity.certificate_file();
    let key = identity.key_file();
    Mosquitto::start_with(&format!(
        "allow_anonymous true\ncertfile {}\nkeyfile {}\n",
        certificate.display(),
        key.display()
    ))
    .await
}

fn tls_options(broker: &Mosquitto, identity: &Identity) -> MqttOptions {
    let mut roots = RootCertStore::empty();
    roots.add(identity.certified.cert.der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let trust = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut options = MqttOptions::new("server", "localhost", broker.port());
    let tls = TlsConfiguration::Rustls(Arc::new(trust));
    options.set_transport(Transport::tls_with_config(tls));
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_spoken_with_under_tls_if_its_certificate_is_trusted() {
    let identity = Identity::generate();
    let Some(broker) = tls_broker(&identity).await else {
        return;
    };
    let server = Server::connect(tls_options(&broker, &identity), "unused").await;
    let gateway = |name: &str, ca: &Identity| {
        let hub = MemoryUpstream::new();
        let mut config = ChirpStackConfig::default();
        config.mqtt = broker_at(&broker);
        config.mqtt.client_id = Some(name.into());
        config.mqtt.tls = true;
        config.mqtt.ca_file = Some(ca.certificate_file());
        let downstream = chirpstack::mqtt(config, site::everybody()).unwrap();
        (site::run(&hub, downstream), hub)
    };
    let (_suspicious, nobody) = gateway("suspicious", &Identity::generate());
    let (_run, hub) = gateway("gateway", &identity);
    server.tell_until_heard(&hub, event("up"), &up(1)).await;
    while !broker.log().contains(" alert ") {
        // The broker says in no other way that its certificate was refused.
        sleep(Duration::from_millis(10)).await;
    }
    assert!(!broker.log().contains("as suspicious"));
    assert!(nobody.accepted().is_empty());
}

#[test]
fn a_file_without_certificates_is_named() {
    let mut config = ChirpStackConfig::default();
    config.mqtt.tls = true;
    config.mqtt.ca_file = Some("/nowhere/ca.pem".into());
    let error = chirpstack::mqtt(config, site::everybody()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("`mqtt.ca_file` (/nowhere/ca.pem) cannot be read: "),
        "{error}"
    );
}

const TTS_DEVICE: &str = "v3/app1@ttn/devices/dev1";

fn things_stack(broker: &Mosquitto) -> CloudDownstream {
    let config = TtsConfig::new("app1@ttn", broker_at(broker));
    tts::mqtt(config, site::everybody()).unwrap()
}

fn application_up(id: &str, key: &str, value: Value) -> Value {
    json!({
        "end_device_ids": {"device_id": "dev1", "application_ids": {"application_id": "app1"},
            "dev_eui": "0102030405060708", "dev_addr": "00BCB929"},
        "correlation_ids": [format!("as:up:{id}")],
        key: value,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_for_the_things_stack_ends_with_the_radios_result() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let hub = MemoryUpstream::new();
    let mut server = Server::start(&broker, "v3/+/devices/+/down/push").await;
    let _run = site::run(&hub, things_stack(&broker));
    let uplink = |counter: u32| {
        let message = json!({"f_cnt": counter, "f_port": 1, "frm_payload": "qgA="});
        application_up(&counter.to_string(), "uplink_message", message)
    };
    let topic = format!("{TTS_DEVICE}/up");
    server
        .tell_until_heard(&hub, topic.clone(), &uplink(1))
        .await;
    hub.wait_listening(&device(DEV_EUI), Interest::COMMANDS)
        .await;

    let radio = async {
        server.tell(topic, uplink(2).to_string()).await;
        let (topic, body) = server.request().await;
        assert_eq!(topic, format!("{TTS_DEVICE}/down/push"));
        let downlink = body["downlinks"][0].clone();
        assert_eq!(
            (&downlink["f_port"], &downlink["frm_payload"]),
            (&10.into(), &"b24=".into())
        );
        let sent = application_up("sent", "downlink_sent", downlink);
        server
            .tell(format!("{TTS_DEVICE}/down/sent"), sent.to_string())
            .await;
    };
    let (disposition, ()) = tokio::join!(hub.send_message(command(DEV_EUI)), radio);
    assert_eq!(disposition, Some(Disposition::Complete));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downlink_that_nobody_waits_for_is_taken_out_of_the_things_stacks_queue() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let hub = MemoryUpstream::new();
    let mut server = Server::start(&broker, "v3/+/devices/+/down/+").await;
    let _run = site::run(&hub, things_stack(&broker));
    let message = json!({"f_cnt": 1, "f_port": 1});
    let uplink = application_up("1", "uplink_message", message);
    let topic = format!("{TTS_DEVICE}/up");
    server.tell_until_heard(&hub, topic, &uplink).await;
    hub.wait_listening(&device(DEV_EUI), Interest::COMMANDS)
        .await;

    let message = json!({"f_cnt": 2, "f_port": 1});
    let uplink = application_up("2", "uplink_message", message);
    server
        .tell(format!("{TTS_DEVICE}/up"), uplink.to_string())
        .await;
    let deadline = Instant::now() + Duration::from_secs(3);
    let message = CloudMessage::new(device(DEV_EUI), &b"on"[..], deadline);
    let queue = async {
        let (pushed, _) = server.request().await;
        let (replaced, body) = server.request().await;
        (pushed, replaced, body)
    };
    let (disposition, (pushed, replaced, body)) = tokio::join!(hub.send_message(message), queue);
    assert_eq!(disposition, Some(Disposition::Abandon));
    assert_eq!(pushed, format!("{TTS_DEVICE}/down/push"));
    assert_eq!(replaced, format!("{TTS_DEVICE}/down/replace"));
    assert_eq!(body, json!({"downlinks": []}));
}
