//! What PyPI's `pamoja-gateway` makes and reads, through the server's sockets; see
//! `tests/pamoja.rs`.

use gateway_core::{Disposition, Interest};
use gateway_downstream_lorawan::proto::Eui64;
use gateway_downstream_lorawan::server::{ConcentratorConfig, DeviceConfig};
use serde_json::json;
use tempfile::TempDir;

use crate::device::Device;
use crate::forwarder::Forwarder;
use crate::station::Station;
use crate::support::{Peer, bytes, hex};
use crate::{Network, class_c, config, folder, message, name};

/// The peer's concentrator.
const GATEWAY: u64 = 0xb827_ebff_fe01_0203;

fn peer() -> Option<Peer> {
    let python = "peer.venv/bin/python";
    Peer::start("pamoja", python, python, "peer.py", "REQUIRE_PAMOJA")
}

async fn network(device: DeviceConfig, folder: &TempDir) -> Network {
    let mut config = config(vec![device]);
    config.concentrators = vec![ConcentratorConfig::new(Eui64::new(GATEWAY))];
    Network::start(config, folder).await
}

#[tokio::test]
async fn a_foreign_forwarder_is_heard_and_reads_the_command() {
    let Some(mut peer) = peer() else {
        return;
    };
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = network(class_c(device.config()), &folder).await;
    let concentrator = Forwarder::open(GATEWAY, network.forwarders).await;
    let frame = hex(&device.uplink(b"1"));
    let datagrams = [
        json!({"request": "pull"}),
        json!({"request": "push", "frames": [frame]}),
    ];
    for datagram in datagrams {
        let datagram = bytes(&peer.ask(&datagram), "datagram");
        concentrator.send_raw(&datagram).await;
    }
    let listening = Interest::COMMANDS;
    network
        .hub
        .wait_listening(&name(device.dev_eui), listening)
        .await;
    let command = message(&device, "on");
    let radio = async {
        let asked = concentrator.asked().await;
        let read = peer.ask(&json!({"request": "read", "datagram": hex(&asked.datagram)}));
        assert_eq!(read["kind"], "PullResp");
        assert_eq!(read["frame"], hex(&asked.frame()));
        assert_eq!(device.read(&asked.frame()).payload, b"on");
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn a_foreign_station_is_directed_heard_and_reads_the_command() {
    let Some(mut peer) = peer() else {
        return;
    };
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = network(device.config(), &folder).await;
    let question = peer.ask(&json!({"request": "discovery"}));
    let mut station = Station::open(network.stations, "/router-info")
        .await
        .unwrap();
    station
        .say_text(question["question"].as_str().unwrap())
        .await;
    let answer = station.hears().await.unwrap().to_string();
    let read = peer.ask(&json!({"request": "router", "answer": answer}));
    let url = read["uri"].as_str().unwrap();
    let path = url
        .strip_prefix(&format!("ws://{}", network.stations))
        .unwrap();

    let mut station = Station::open(network.stations, path).await.unwrap();
    let frame = hex(&device.uplink(b"1"));
    let heard = peer.ask(&json!({"request": "heard", "frame": frame}));
    station.say_text(heard["message"].as_str().unwrap()).await;
    let listening = Interest::COMMANDS;
    network
        .hub
        .wait_listening(&name(device.dev_eui), listening)
        .await;
    let command = message(&device, "on");
    let radio = async {
        let asked = station.hears().await.unwrap();
        let read = peer.ask(&json!({"request": "station", "message": asked.to_string()}));
        assert_eq!(
            (&read["kind"], &read["frame"]),
            (&json!("dnmsg"), &asked["pdu"])
        );
        station
            .say(json!({"msgtype": "dntxed", "diid": asked["diid"]}))
            .await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}
