//! Devices with a payload codec.

use std::sync::Arc;

use gateway_core::{DeviceId, Settlement};
use gateway_downstream_lorawan::embed::{Device, Directory, Profile, ProfileConfig};
use gateway_downstream_lorawan::event::{DevEui, Uplink};
use gateway_downstream_lorawan::payload::{
    CodecError, Decoded, Encoded, PayloadCodec, decode_with,
};
use serde_json::json;

use super::{DEV_EUI, LONG, Network, always, call, name, parsed, patient, uplink};

/// Devices with a codec that reads and writes.
#[derive(Debug)]
struct Coded(Arc<Profile>);

impl Coded {
    fn new() -> Self {
        let codec = decode_with(|_| Err(CodecError::Failed("no such sensor".to_owned())));
        Self::by(codec.encode_with(|data, _| Ok(Encoded::new(Some(7), data))))
    }

    fn by(codec: impl PayloadCodec) -> Self {
        let mut profile = ProfileConfig::default();
        always(&mut profile);
        Self(Arc::new(Profile::new(profile).unwrap().with_codec(codec)))
    }
}

impl Directory for Coded {
    fn device(&self, dev_eui: DevEui) -> Option<Device> {
        (dev_eui == DEV_EUI).then(|| Device::new(name(), self.0.clone()))
    }

    fn dev_eui(&self, device: &DeviceId) -> Option<DevEui> {
        (*device == name()).then_some(DEV_EUI)
    }
}

#[tokio::test(start_paused = true)]
async fn a_codec_that_fails_loses_no_payload() {
    let network = Network::start(Coded::new(), patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    let body = parsed(&network.hub.accepted()[0].body);
    assert_eq!(body["data"], "qgA=");
    assert_eq!(body["codecError"], "the codec failed: no such sensor");
}

#[tokio::test(start_paused = true)]
async fn a_codec_that_panics_loses_no_payload_and_no_verdict() {
    let codec = decode_with(|input| Ok(Decoded::new(input.bytes[3..].to_vec())));
    let codec = codec.encode_with(|data, _| Ok(Encoded::new(None, data.slice(100..))));
    let network = Network::start(Coded::by(codec), patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    let body = parsed(&network.hub.accepted()[0].body);
    assert_eq!(body["data"], "qgA=");
    assert_eq!(body["codecError"], "the codec failed: it panicked");
    network.wait_listening().await;
    let asked = network.hub.call_method(call("reboot", r#"{"in":5}"#, LONG));
    assert_eq!(asked.await.unwrap().status, 403);
}

#[tokio::test(start_paused = true)]
async fn a_codec_gets_a_methods_argument_as_it_was_written() {
    let long = r#"{"b":1,"a":12345678901234567890123}"#;
    for argument in ["1e999", r#""\ud800""#, long] {
        let mut network = Network::start(Coded::new(), patient());
        assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
        network.wait_listening().await;
        let hub = network.hub.clone();
        let radio = async {
            let downlink = network.downlink().await;
            assert_eq!(downlink.payload, format!(r#"{{"set":{argument}}}"#));
            network.transmitted(&downlink).await;
        };
        let calling = hub.call_method(call("set", argument, LONG));
        let (reply, ()) = tokio::join!(calling, radio);
        assert_eq!(reply.unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_method_of_a_device_with_a_codec_is_the_codecs() {
    let mut network = Network::start(Coded::new(), patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let hub = network.hub.clone();
    let radio = async {
        let downlink = network.downlink().await;
        assert_eq!(downlink.port, 7);
        assert_eq!(parsed(&downlink.payload), json!({"reboot": {"in": 5}}));
        network.transmitted(&downlink).await;
    };
    let calling = hub.call_method(call("reboot", r#"{"in":5}"#, LONG));
    let (reply, ()) = tokio::join!(calling, radio);
    assert_eq!(reply.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_to_the_directory_never_reaches_the_hub() {
    let network = Network::start(Coded::new(), patient());
    let stranger = Uplink::new(DevEui::new([2; 8]), 1, 1, "x");
    let settlement = network.events.uplink(stranger).await;
    assert!(matches!(settlement, Settlement::Rejected(_)));
    assert!(network.hub.accepted().is_empty());
}
