//! Events made with ChirpStack's types go through a real broker to the hub, and a command comes back
//! as one of them, in both of ChirpStack's forms.

#[path = "../../../adapters/upstream-mqtt/tests/common/broker.rs"]
mod mosquitto;

use std::time::Duration;

use chirpstack_api::integration::{DeviceInfo, DownlinkCommand, TxAckEvent, UplinkEvent};
use chirpstack_api::prost::Message;
use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{CloudMessage, DeviceId, Disposition, Gateway, Interest};
use gateway_downstream_lorawan::chirpstack::{self, ChirpStackConfig, Format};
use gateway_downstream_lorawan::cloud::CloudDownstream;
use gateway_downstream_lorawan::embed::{
    EuiDirectory, ListenPolicy, LorawanConfig, LorawanDownstream, Profile, ProfileConfig,
};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use mosquitto::Mosquitto;

const DEVICE: &str = "application/ca739e26-7b67-4f14-b69e-d568c22a5a75/device/0102030405060708";

/// Writes as ChirpStack does.
fn write<T: Message + Serialize>(event: &T, format: Format) -> Vec<u8> {
    match format {
        Format::Json => serde_json::to_vec(event).unwrap(),
        Format::Protobuf => event.encode_to_vec(),
        _ => unreachable!("there are two forms"),
    }
}

/// Reads as ChirpStack does.
fn read<T: Message + Default + DeserializeOwned>(body: &[u8], format: Format) -> T {
    match format {
        Format::Json => serde_json::from_slice(body).unwrap(),
        Format::Protobuf => T::decode(body).unwrap(),
        _ => unreachable!("there are two forms"),
    }
}

fn device() -> Option<DeviceInfo> {
    Some(DeviceInfo {
        application_id: "ca739e26-7b67-4f14-b69e-d568c22a5a75".into(),
        dev_eui: "0102030405060708".into(),
        ..DeviceInfo::default()
    })
}

fn uplink(f_cnt: u32) -> UplinkEvent {
    UplinkEvent {
        deduplication_id: format!("frame-{f_cnt}"),
        device_info: device(),
        dev_addr: "00189440".into(),
        f_cnt,
        f_port: 1,
        data: vec![0xaa],
        ..UplinkEvent::default()
    }
}

/// Listens always, on port 10.
fn downstream(broker: &Mosquitto, format: Format) -> CloudDownstream {
    let mut profile = ProfileConfig::default();
    profile.port = Some(10);
    profile.listen = Some(ListenPolicy::Always);
    let directory = EuiDirectory::new(Profile::new(profile).unwrap());
    let mut config = LorawanConfig::default();
    config.window = Duration::from_secs(15);
    let lorawan = LorawanDownstream::builder(config).with_directory(directory);
    let mut config = ChirpStackConfig::default();
    config.format = format;
    config.mqtt.host = "127.0.0.1".into();
    config.mqtt.port = Some(broker.port());
    chirpstack::mqtt(config, lorawan).unwrap()
}

async fn published(eventloop: &mut EventLoop) -> Publish {
    loop {
        if let Event::Incoming(Packet::Publish(message)) = eventloop.poll().await.unwrap() {
            return message;
        }
    }
}

async fn a_frame_and_a_command_pass_through_the_broker(format: Format) {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let options = MqttOptions::new("chirpstack", "127.0.0.1", broker.port());
    let (server, mut eventloop) = AsyncClient::new(options, 64);
    let commands = "application/+/device/+/command/down";
    server.subscribe(commands, QoS::AtLeastOnce).await.unwrap();
    let tell = async |name: &str, body| {
        let topic = format!("{DEVICE}/event/{name}");
        let told = server.publish(topic, QoS::AtLeastOnce, false, body);
        told.await.unwrap();
    };
    let hub = MemoryUpstream::new();
    let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
    let policy = SharedAccessPolicy::new("device", key);
    let gateway = Gateway::builder(hub.clone())
        .with_credentials(HubPolicyCredentials::new(policy))
        .with_downstream("lorawan", downstream(&broker, format))
        .build()
        .unwrap();
    let shutdown = CancellationToken::new();

    let story = async {
        let mut again = interval(Duration::from_millis(50));
        let until_heard = async {
            loop {
                tokio::select! {
                    _ = again.tick() => tell("up", write(&uplink(1), format)).await,
                    happened = eventloop.poll() => drop(happened.unwrap()),
                }
            }
        };
        tokio::select! {
            () = until_heard => {}
            _ = hub.wait_accepted(1) => {}
        }
        assert_eq!(hub.accepted()[0].id.as_str(), "frame-1");

        let device_id = DeviceId::new("0102030405060708").unwrap();
        hub.wait_listening(&device_id, Interest::COMMANDS).await;
        let deadline = Instant::now() + Duration::from_secs(600);
        let message = CloudMessage::new(device_id, &b"on"[..], deadline);
        let radio = async {
            tell("up", write(&uplink(2), format)).await;
            let asked = published(&mut eventloop).await;
            assert_eq!(asked.topic, format!("{DEVICE}/command/down"));
            let command: DownlinkCommand = read(&asked.payload, format);
            assert_eq!((command.f_port, &command.data[..]), (10, &b"on"[..]));
            assert_eq!(command.dev_eui, "0102030405060708");
            let txack = TxAckEvent {
                device_info: device(),
                queue_item_id: command.id,
                ..TxAckEvent::default()
            };
            tell("txack", write(&txack, format)).await;
            // The broker is spoken with until somebody ends it.
            loop {
                eventloop.poll().await.unwrap();
            }
        };
        tokio::select! {
            disposition = hub.send_message(message) => {
                assert_eq!(disposition, Some(Disposition::Complete));
            }
            () = radio => {}
        }
        shutdown.cancel();
    };
    let (report, ()) = tokio::join!(gateway.run(shutdown.clone()), story);
    report.unwrap();
}

#[tokio::test]
async fn a_frame_and_a_command_pass_through_the_broker_as_json() {
    a_frame_and_a_command_pass_through_the_broker(Format::Json).await;
}

#[tokio::test]
async fn a_frame_and_a_command_pass_through_the_broker_as_protobuf() {
    a_frame_and_a_command_pass_through_the_broker(Format::Protobuf).await;
}
