//! A concentrator's datagram, frames on air, payloads, and what two clouds' networks tell.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use benches::lorawan_device::{KEY, PAYLOAD, SCRIPT, dev_addr, dev_eui, frame};
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use gateway_downstream_lorawan::payload::{
    CayenneLpp, DecodeInput, JavaScriptCodec, JavaScriptConfig, PayloadCodec as _,
};
use gateway_downstream_lorawan::proto::gwmp::Datagram;
use gateway_downstream_lorawan::proto::mac::{
    Activation, Collected, DeviceProfile, Network, NetworkConfig, Region, RegionName,
};
use gateway_downstream_lorawan::proto::{ConcentratorClock, Eui64, Key, Reception};
use gateway_downstream_lorawan::{chirpstack, tts};

/// Devices of the network server, each of which is heard once.
const DEVICES: usize = 100;

const CHIRPSTACK: &[u8] = br#"{"deduplicationId":"3ac7e3c4","time":"2026-11-21T09:34:15Z","deviceInfo":{"applicationId":"ca739e26-7b67-4f14-b69e-d568c22a5a75","devEui":"0102030405060708"},"devAddr":"00189440","dr":5,"fCnt":4,"fPort":1,"confirmed":false,"data":"AWcA1wJnANgDZwDZBGcA2gVnANs=","rxInfo":[{"gatewayId":"0016c001f153a14c","rssi":-48,"snr":9}],"txInfo":{"frequency":868100000,"modulation":{"lora":{"bandwidth":125000,"spreadingFactor":7,"codeRate":"CR_4_5"}}}}"#;
const TTS: &[u8] = br#"{"end_device_ids":{"device_id":"dev1","application_ids":{"application_id":"app1"},"dev_eui":"70B3D57ED0000001","dev_addr":"00BCB929"},"received_at":"2026-11-21T12:00:00Z","uplink_message":{"f_port":1,"f_cnt":4,"frm_payload":"AWcA1wJnANgDZwDZBGcA2gVnANs=","rx_metadata":[{"gateway_ids":{"gateway_id":"gtw1"},"rssi":-35,"snr":5.2}],"settings":{"data_rate":{"lora":{"bandwidth":125000,"spreading_factor":7}},"frequency":"868300000"}}}"#;

fn network() -> Network {
    let region = Region::new(RegionName::Eu868);
    let config = NetworkConfig::new(&region);
    let mut network = Network::new(region, config);
    for number in 0..DEVICES {
        let activation = Activation::Abp {
            dev_addr: dev_addr(number),
            nwk_s_key: Key::new(KEY),
            app_s_key: Key::new(KEY),
            reset_allowed: false,
        };
        network.insert(DeviceProfile::new(dev_eui(number), activation), None);
    }
    network
}

fn reception() -> Reception {
    Reception::new(
        Eui64::new(2),
        868_100_000,
        5,
        ConcentratorClock::Forwarder(0),
    )
    .with_signal(-48.0, 9.5)
}

/// A packet forwarder's datagram with one frame (PROTOCOL.TXT of Lora-net/packet_forwarder).
fn datagram(frame: &[u8]) -> Vec<u8> {
    let json = format!(
        r#"{{"rxpk":[{{"tmst":1,"chan":2,"rfch":0,"freq":868.1,"stat":1,"modu":"LORA","datr":"SF7BW125","codr":"4/5","rssi":-48,"lsnr":9.5,"size":{},"data":"{}"}}]}}"#,
        frame.len(),
        BASE64_STANDARD.encode(frame)
    );
    [&[2, 0, 1, 0][..], &2_u64.to_be_bytes(), json.as_bytes()].concat()
}

pub(crate) fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codecs_lorawan");
    let frames = (0..DEVICES).map(|number| frame(number, 0).expect("a frame"));
    let frames: Vec<Bytes> = frames.map(Bytes::from).collect();
    group.throughput(Throughput::Elements(DEVICES as u64));
    group.bench_function("hear", |bencher| {
        let fresh = || {
            let heard = frames.iter().cloned();
            let heard = heard.map(|frame| Collected::new(frame, reception()));
            (network(), heard.collect::<Vec<_>>())
        };
        let hear = |(mut network, heard): (Network, Vec<Collected>)| {
            for heard in &heard {
                network.hear(heard, Duration::MAX).expect("it is signed");
            }
            network
        };
        bencher.iter_batched(fresh, hear, BatchSize::LargeInput);
    });

    group.throughput(Throughput::Elements(1));
    let datagram = datagram(&frames[0]);
    group.bench_function("gwmp", |bencher| {
        bencher.iter(|| {
            let datagram = Datagram::decode(black_box(&datagram)).expect("it was made here");
            (datagram.acknowledgement(), datagram)
        });
    });
    group.bench_function("cayenne", |bencher| {
        bencher.iter(|| CayenneLpp::read(black_box(&PAYLOAD)).expect("five temperatures"));
    });
    group.bench_function("javascript", |bencher| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let loaded = JavaScriptCodec::load(SCRIPT, JavaScriptConfig::default());
        let codec = runtime.block_on(loaded).expect("a script");
        let input = DecodeInput::new(1, &PAYLOAD[..], SystemTime::UNIX_EPOCH);
        bencher.to_async(&runtime).iter(|| async {
            let decoded = codec.decode(input.clone()).await;
            decoded.expect("five temperatures")
        });
    });
    group.bench_function("chirpstack", |bencher| {
        let kind = "up".parse().expect("a kind of event");
        bencher.iter(|| {
            let event = chirpstack::decode(kind, chirpstack::Format::Json, black_box(CHIRPSTACK));
            event.expect("an uplink")
        });
    });
    group.bench_function("tts", |bencher| {
        bencher.iter(|| tts::decode(black_box(TTS)).expect("an uplink"));
    });
    group.finish();
}
