//! What concentrators hear, and what becomes of it.

use super::*;

#[tokio::test]
async fn the_same_uplink_by_three_concentrators_is_one_message() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let mut concentrators = Vec::new();
    for eui in 1..=3 {
        concentrators.push(network.concentrator(eui).await);
    }
    let frame = device.uplink(b"1");
    for (concentrator, snr) in concentrators.iter().zip([-3.0, 7.5, 2.0]) {
        concentrator.push(&frame, snr).await;
    }
    network.data(1).await;
    concentrators[0].hear(&device.uplink(b"2")).await;
    assert_eq!(network.data(2).await, ["MQ==", "Mg=="]);
}

#[tokio::test]
async fn what_is_heard_while_the_hub_is_away_arrives_later_and_in_order() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let concentrator = network.concentrator(1).await;
    network.hub.set_down(true);
    for payload in [b"1", b"2", b"3"] {
        concentrator.hear(&device.uplink(payload)).await;
    }
    network.hub.set_down(false);
    assert_eq!(network.data(3).await, ["MQ==", "Mg==", "Mw=="]);
}

#[tokio::test]
async fn an_uplink_that_wants_an_acknowledgement_gets_one_without_a_command() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.rx_delay = 2;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    let frame = device.confirmed(b"1");
    // A device says it again if it hears nothing, as on a machine that sleeps through a window.
    let answer = async {
        let asked = concentrator.asked().await;
        device.read(&asked.frame())
    };
    let read = tokio::select! {
        read = answer => read,
        never = says(&concentrator, &frame) => match never {},
    };
    assert!(read.ack);
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn an_uplink_is_acknowledged_only_when_the_hub_has_it() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.rx_delay = 2;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    network.hub.hold();
    let frame = device.confirmed(b"1");
    concentrator.push(&frame, 5.0).await;
    network.hub.wait_held(1).await;
    // Both windows pass.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!concentrator.has_been_asked());
    network.hub.release();
    network.data(1).await;
    let asked = tokio::select! {
        asked = concentrator.asked() => asked,
        never = says(&concentrator, &frame) => match never {},
    };
    assert!(device.read(&asked.frame()).ack);
    assert_eq!(network.hub.accepted().len(), 1, "it was said once");
}

#[tokio::test]
async fn what_there_is_no_room_for_is_not_acknowledged_and_arrives_when_it_is_said_again() {
    let (folder, mut one, mut other) = (folder(), Device::abp(1), Device::abp(2));
    let mut config = config(vec![one.config(), other.config()]);
    config.limits.uplinks = 1;
    config.timing.rx_delay = 2;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    network.hub.hold();
    concentrator.push(&one.uplink(b"1"), 5.0).await;
    network.hub.wait_held(1).await;
    let frame = other.confirmed(b"2");
    concentrator.push(&frame, 5.0).await;
    // Both windows pass.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!concentrator.has_been_asked());
    network.hub.release();
    let asked = tokio::select! {
        asked = concentrator.asked() => asked,
        never = says(&concentrator, &frame) => match never {},
    };
    assert!(other.read(&asked.frame()).ack);
    assert_eq!(network.data(2).await, ["MQ==", "Mg=="]);
}

#[tokio::test]
async fn a_device_whose_messages_the_hub_puts_off_leaves_room_for_others() {
    let (folder, mut one, mut other) = (folder(), Device::abp(1), Device::abp(2));
    let mut config = config(vec![one.config(), other.config()]);
    (config.limits.uplinks, config.limits.uplinks_per_device) = (6, 5);
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    network.hub.refuse(&name(one.dev_eui), ErrorKind::Other);
    for payload in [b"1", b"2", b"3", b"4", b"5", b"6", b"7"] {
        concentrator.hear(&one.uplink(payload)).await;
    }
    concentrator.hear(&other.uplink(b"8")).await;
    assert_eq!(network.data(1).await, ["OA=="]);
    network.hub.refuse(&name(one.dev_eui), None);
    let data = network.data(6).await;
    assert_eq!(data[1..], ["MQ==", "Mg==", "Mw==", "NA==", "NQ=="]);
    concentrator.hear(&one.uplink(b"9")).await;
    assert_eq!(network.data(7).await[6], "OQ==");
}

#[tokio::test]
async fn a_concentrator_that_floods_does_not_drown_another() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    (config.limits.rate, config.limits.frames) = (20, 50);
    let network = Network::start(config, &folder).await;
    let flood = Forwarder::open(1, network.forwarders).await;
    for number in 0..100_u8 {
        flood.push(&[number; 30], 5.0).await;
    }
    let concentrator = network.concentrator(2).await;
    concentrator.hear(&device.uplink(b"1")).await;
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn frames_of_every_modulation_arrive_with_how_they_were_heard() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let concentrator = network.concentrator(1).await;
    let heard = [
        json!({"lsnr": 7.5, "chan": 3, "rfch": 1, "tmms": 1_261_872_018_500_u64, "ftime": 7}),
        json!({"modu": "FSK", "datr": 50_000, "codr": null, "freq": 868.8, "time": "2020-01-01T00:00:00Z"}),
        json!({"modu": "LR-FHSS", "datr": "M0CW137", "codr": "1/3", "foff": 12, "rssis": -61}),
    ];
    for fields in heard {
        concentrator.push_as(&device.uplink(b"1"), fields).await;
    }
    let accepted = network.hub.wait_accepted(3).await;
    let told = accepted.iter().map(|message| {
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        (body["dataRate"].clone(), body["receptions"][0].clone())
    });
    let gateway = "0000000000000001";
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            (
                json!(5),
                json!({"gateway": gateway, "rssi": -60, "snr": 7.5, "channel": 3, "rfChain": 1,
                       "time": "2020-01-01T00:00:00.500Z"})
            ),
            (
                json!(7),
                json!({"gateway": gateway, "rssi": -60, "channel": 0, "rfChain": 0,
                       "time": "2020-01-01T00:00:00.000Z"})
            ),
            (
                json!(8),
                json!({"gateway": gateway, "rssi": -60, "channel": 0, "rfChain": 0})
            ),
        ]
    );
}

#[tokio::test]
async fn a_message_tells_when_it_was_heard_not_when_its_copies_had_come() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.hold = Duration::from_millis(500);
    let hold = config.timing.hold;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    let accepted = network.hub.wait_accepted(1).await;
    let heard_at = accepted[0].system.created_at.unwrap();
    assert!(heard_at.elapsed().unwrap() >= hold);
}

#[tokio::test]
async fn nobody_else_speaks_for_a_listed_concentrator_and_garbage_ends_nothing() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.concentrators[2].source = Some("10.0.0.1".parse().unwrap());
    let network = Network::start(config, &folder).await;
    let mut foreign = device.uplink(b"1");
    // Unlisted, and listed but elsewhere.
    for eui in [99, 3] {
        let stranger = Forwarder::open(eui, network.forwarders).await;
        stranger.push(&foreign, 5.0).await;
    }
    let concentrator = network.concentrator(1).await;
    for garbage in [
        &b""[..],
        b"\x02",
        &[0xff; 400],
        b"\x02\0\0\0\0\0\0\0\0\0\0\x01{\"rxpk\":[{}]}",
    ] {
        concentrator.send_raw(garbage).await;
    }
    foreign[10] ^= 1;
    concentrator.push(&foreign, 5.0).await;
    concentrator.push(&device.uplink(b"2"), 5.0).await;
    assert_eq!(network.data(1).await, ["Mg=="]);
}

/// Keeps its thread for some seconds, in which nothing stops it.
#[cfg(feature = "javascript")]
const ENDLESS: &str = "function decodeUplink() {
    var long = { length: 100000000 };
    long[Symbol.isConcatSpreadable] = true;
    return { data: [].concat(long).length };
}";

#[cfg(feature = "javascript")]
#[tokio::test]
async fn a_codec_that_cannot_be_stopped_holds_up_neither_the_payload_nor_a_neighbours() {
    use gateway_downstream_lorawan::payload::{JavaScriptCodec, JavaScriptConfig};
    let (folder, mut one, mut other) = (folder(), Device::abp(1), Device::abp(2));
    let store = EmbeddedStore::open(folder.path().join("sessions")).await;
    let codec = JavaScriptCodec::load(ENDLESS, JavaScriptConfig::default()).await;
    let server = LorawanServer::builder(config(vec![one.config(), other.config()]))
        .with_store(store.unwrap())
        .with_codec("a", codec.unwrap());
    let network = Network::run(server).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&one.uplink(b"1")).await;
    assert_eq!(network.data(1).await, ["MQ=="]);
    concentrator.hear(&other.uplink(b"2")).await;
    concentrator.hear(&one.uplink(b"3")).await;
    let mut data = network.data(3).await;
    data.sort_by_key(Value::to_string);
    assert_eq!(data, ["MQ==", "Mg==", "Mw=="]);
}
