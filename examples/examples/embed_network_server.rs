//! A LoRaWAN network server that embeds the gateway.
//!
//! `cargo run --example embed_network_server` plays one over a hub in memory: a thermometer sends,
//! the hub sends it a command, and the command goes in the receive window of its frame.

#![expect(clippy::print_stdout, reason = "it shows what happens")]

use std::time::Duration;

use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{CloudMessage, Gateway, Interest};
use gateway_downstream_lorawan::embed::{
    EuiDirectory, LorawanConfig, LorawanDownstream, NetworkEvents, Order, OrderStream, Profile,
    ProfileConfig,
};
use gateway_downstream_lorawan::event::{DevEui, Reception, TransmitAck, Uplink};
use gateway_downstream_lorawan::payload::CayenneLpp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The network server hears a frame: its MAC has checked and decrypted it.
async fn hear(events: &NetworkEvents, dev_eui: DevEui, frame_counter: u32) {
    // Cayenne LPP: channel 1, temperature, 21.5 degrees.
    let uplink = Uplink::new(dev_eui, frame_counter, 1, &[1, 103, 0, 215][..])
        .with_reception(Reception::new("0016c001f1500812", -48, Some(9.0)));
    let settlement = events.uplink(uplink).await;
    println!("network: frame {frame_counter} is {settlement:?}");
}

/// The network server's other half: sends what it is given, and says what became of it.
async fn transmit(events: &NetworkEvents, orders: &mut OrderStream) {
    while let Some(order) = orders.next().await {
        // What is withdrawn would be dropped from the queue of the concentrator.
        if let Order::Send(downlink) = order {
            let (port, payload) = (downlink.port, &downlink.payload);
            println!("network: sends {payload:?} on port {port} in the receive window");
            let ack = TransmitAck::new(downlink.dev_eui, downlink.id, Ok(()));
            events.transmit_ack(ack).await;
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let profile = Profile::new(ProfileConfig::default())?.with_codec(CayenneLpp::new());
    let directory = EuiDirectory::new(profile);
    let (lorawan, mut orders) = LorawanDownstream::builder(LorawanConfig::default())
        .with_directory(directory)
        .stream()?;
    let events = lorawan.events();

    // A real one has an upstream of the AMQP or MQTT adapter here.
    let hub = MemoryUpstream::new();
    let policy = SharedAccessPolicy::new("device", SymmetricKey::from_base64("c2VjcmV0")?);
    let gateway = Gateway::builder(hub.clone())
        .with_credentials(HubPolicyCredentials::new(policy))
        .with_downstream("lorawan", lorawan)
        .build()?;

    let shutdown = CancellationToken::new();
    let story = async {
        let dev_eui: DevEui = "70b3d57ed0000001".parse()?;
        hear(&events, dev_eui, 1).await;
        let telemetry = &hub.accepted()[0];
        println!("hub: {}", String::from_utf8_lossy(&telemetry.body));

        // The uplink opened the device's ear: its commands are fetched while its window is open.
        let device = telemetry.device.clone();
        hub.wait_listening(&device, Interest::COMMANDS).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut command = CloudMessage::new(device, "on", deadline);
        command.properties.insert("lorawan-port", "10");
        let disposition = hub.send_message(command).await;
        println!("hub: the command ended as {disposition:?}");

        hear(&events, dev_eui, 2).await;
        shutdown.cancel();
        anyhow::Ok(())
    };
    let radio = async {
        tokio::select! {
            () = transmit(&events, &mut orders) => {}
            () = shutdown.cancelled() => {}
        }
    };
    let (report, told, ()) = tokio::join!(gateway.run(shutdown.clone()), story, radio);
    told?;
    println!("gateway: {:?}", report?);
    Ok(())
}
