//! A device's uplink goes through ChirpStack's trait to the hub, and a command comes back into
//! ChirpStack's queue.

use std::collections::HashMap;
use std::time::Duration;

use chirpstack::{Hub, Integration as _, Queue};
use chirpstack_api::integration::{DeviceInfo, TxAckEvent, UplinkEvent};
use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{CloudMessage, DeviceId, Disposition, Gateway, Interest};
use gateway_downstream_lorawan::embed::{LorawanConfig, LorawanDownstream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn device() -> Option<DeviceInfo> {
    Some(DeviceInfo {
        dev_eui: "0102030405060708".into(),
        ..DeviceInfo::default()
    })
}

fn uplink() -> UplinkEvent {
    UplinkEvent {
        deduplication_id: "3ac7e3c4-4401-4b8d-9386-a5c902f9202d".into(),
        device_info: device(),
        dev_addr: "00189440".into(),
        f_port: 1,
        data: vec![0xaa],
        ..UplinkEvent::default()
    }
}

#[tokio::test]
async fn an_uplink_and_a_command_go_through_chirpstacks_trait() {
    let (queue, mut queued) = mpsc::channel(8);
    let mut config = LorawanConfig::default();
    config.window = Duration::from_secs(15);
    let lorawan = LorawanDownstream::builder(config)
        .build(Queue(move |command| Ok(queue.try_send(command)?)))
        .unwrap();
    let integration = Hub(lorawan.events());
    let hub = MemoryUpstream::new();
    let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
    let policy = SharedAccessPolicy::new("device", key);
    let gateway = Gateway::builder(hub.clone())
        .with_credentials(HubPolicyCredentials::new(policy))
        .with_downstream("lorawan", lorawan)
        .build()
        .unwrap();
    let shutdown = CancellationToken::new();

    let story = async {
        let vars = HashMap::new();
        integration.uplink_event(&vars, &uplink()).await.unwrap();
        let accepted = hub.accepted();
        assert_eq!(
            accepted[0].id.as_str(),
            "3ac7e3c4-4401-4b8d-9386-a5c902f9202d"
        );

        let device_id = DeviceId::new("0102030405060708").unwrap();
        hub.wait_listening(&device_id, Interest::COMMANDS).await;
        let deadline = Instant::now() + Duration::from_secs(600);
        let mut message = CloudMessage::new(device_id, &b"on"[..], deadline);
        message.properties.insert("lorawan-port", "10");
        let radio = async {
            let command = queued.recv().await.unwrap();
            assert_eq!((command.f_port, &command.data[..]), (10, &b"on"[..]));
            let txack = TxAckEvent {
                device_info: device(),
                queue_item_id: command.id,
                ..TxAckEvent::default()
            };
            integration.txack_event(&vars, &txack).await.unwrap();
        };
        let (disposition, ()) = tokio::join!(hub.send_message(message), radio);
        assert_eq!(disposition, Some(Disposition::Complete));
        shutdown.cancel();
    };
    let (report, ()) = tokio::join!(gateway.run(shutdown.clone()), story);
    report.unwrap();
}
