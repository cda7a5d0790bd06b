//! LoRaWAN devices without a network server of their own: concentrators on one side, and on the
//! other the simulated hub, which judges.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../../adapters/downstream-lorawan/tests/server/device.rs"]
#[expect(dead_code, reason = "tests of the adapter use the rest")]
mod device;
mod feedback;
#[path = "../../../adapters/downstream-lorawan/tests/server/forwarder.rs"]
#[expect(dead_code, reason = "tests of the adapter use the rest")]
mod forwarder;
mod killed;
mod site;

use std::time::Duration;

use gateway_downstream_lorawan::server::DeviceConfig;
use hub_simulator::{Ack, C2d, C2dOutcome};
use serde_json::json;
use tokio::task::JoinSet;

use device::Device;
use site::Site;

#[tokio::test]
async fn what_three_concentrators_hear_is_one_message_and_nothing_forged_is_any() {
    let mut device = Device::abp(1);
    let site = Site::start(vec![device.config()]).await;
    let mut concentrators = Vec::new();
    for eui in 1..=3 {
        concentrators.push(site.concentrator(eui).await);
    }
    let mut replayed = Vec::new();
    for payload in [b"1", b"2", b"3"] {
        let frame = device.uplink(payload);
        for (concentrator, snr) in concentrators.iter().zip([-3.0, 7.5, 2.0]) {
            concentrator.push(&frame, snr).await;
        }
        replayed.push(frame);
    }
    assert_eq!(site.data(3).await, ["MQ==", "Mg==", "Mw=="]);

    let genuine = device.uplink(b"4");
    let flipped = (0..genuine.len() * 8).map(|bit| {
        let mut frame = genuine.clone();
        frame[bit / 8] ^= 1 << (bit % 8);
        frame
    });
    for frame in replayed.into_iter().chain(flipped) {
        concentrators[0].hear(&frame).await;
    }
    concentrators[0].hear(&genuine).await;
    concentrators[0].hear(&device.uplink(b"5")).await;
    assert_eq!(site.data(5).await[3..], ["NA==", "NQ=="]);
    let accepted = site.hub.record().accepted();
    assert_eq!(accepted[0].device_id, device.dev_eui.to_string());
    // Their ids tell what is the same.
    let id = |at: usize| accepted[at].message_id.clone().unwrap();
    assert_ne!(id(0), id(1));
}

#[tokio::test]
async fn a_command_for_a_sleeper_completes_in_its_next_window_and_the_sender_is_told() {
    let mut device = Device::abp(1);
    let (name, config) = (device.dev_eui.to_string(), device.config());
    let site = Site::start(vec![config]).await;
    let concentrator = site.concentrator(1).await;
    let command = |id, body: Vec<u8>| C2d::new(body).with_message_id(id).with_ack(Ack::Full);
    let sent = site
        .hub
        .send_c2d(&name, command("on", b"on".to_vec()))
        .unwrap();
    let long = command("long", vec![0; 243]);
    let too_long = site.hub.send_c2d(&name, long).unwrap();

    concentrator.hear(&device.uplink(b"1")).await;
    let asked = concentrator.asked().await;
    let read = device.read(&asked.frame());
    assert_eq!((read.port, &read.payload[..]), (Some(5), &b"on"[..]));
    assert_eq!(sent.outcome_now(), None, "the radio has not said anything");
    concentrator.acknowledge(&asked, "NONE").await;
    assert_eq!(sent.outcome().await, C2dOutcome::Completed);
    assert_eq!(too_long.outcome().await, C2dOutcome::Rejected);
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(feedback::records(&site.hub).await);
    }
    told.sort_by_key(|record| record["originalMessageId"].to_string());
    let told: Vec<_> = told
        .iter()
        .map(|record| (&record["originalMessageId"], &record["statusCode"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!("long"), &json!("Rejected")),
            (&json!("on"), &json!("Success")),
        ]
    );
}

/// As many devices as a small town has meters, each with a command that waits; the hub is 50 ms
/// away, and nobody of theirs is known there yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_devices_get_their_commands_in_their_windows() {
    const DEVICES: u16 = 1000;
    const CONCENTRATORS: u64 = 8;
    let mut devices: Vec<_> = (0..DEVICES).map(Device::abp).collect();
    let configs: Vec<DeviceConfig> = devices.iter().map(Device::config).collect();
    let site = Site::start(configs).await;
    site.hub.faults().latency(Duration::from_millis(50));
    let mut tasks = JoinSet::new();
    for eui in 1..=CONCENTRATORS {
        let concentrator = site.concentrator(eui).await;
        let share = devices.len() / (CONCENTRATORS - eui + 1) as usize;
        let mut devices = devices.split_off(devices.len() - share);
        let command = |device: &Device| {
            let name = device.dev_eui.to_string();
            site.hub.send_c2d(&name, C2d::new("on")).unwrap()
        };
        let tickets: Vec<_> = devices.iter().map(command).collect();
        tasks.spawn(async move {
            for device in &mut devices {
                concentrator.push(&device.uplink(b"1"), 5.0).await;
                // What a concentrator at its busiest hears, and no more than this machine can take.
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            for _ in 0..share {
                let asked = concentrator.asked().await;
                assert_eq!(asked.txpk["tmst"], 6_000_000, "the first window");
                concentrator.acknowledge(&asked, "NONE").await;
            }
            for ticket in tickets {
                assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(site.data(DEVICES.into()).await.len(), usize::from(DEVICES));
}
