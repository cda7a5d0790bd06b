//! The embedding API as a network server and a hub see it, on a clock that does not wait for this
//! machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{
    CloudMessage, CorrelationId, DeviceId, Disposition, ErrorKind, Gateway, GatewayConfig,
    Interest, MethodCall, MethodName, MethodReply, Settlement,
};
use gateway_downstream_lorawan::embed::{
    Device, Directory, EuiDirectory, ListenPolicy, LorawanConfig, LorawanDownstream, MethodPolicy,
    NetworkEvents, Order, OrderStream, Profile, ProfileConfig,
};
use gateway_downstream_lorawan::event::{
    Battery, DevEui, DeviceAck, Downlink, Event, Log, LogLevel, Status, Timing, TransmitAck,
    TransmitError, Uplink,
};
use gateway_downstream_lorawan::payload::command::CommandForm;
use gateway_downstream_lorawan::payload::{
    CodecError, Decoded, Encoded, PayloadCodec, decode_with,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

const DEV_EUI: DevEui = DevEui::new([1; 8]);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
/// How long is watched for what must not happen.
const WATCH: Duration = Duration::from_millis(100);

/// A gateway between a hub in memory and a network server that the test plays.
struct Network {
    hub: MemoryUpstream,
    events: NetworkEvents,
    orders: OrderStream,
    gateway: Gateway,
    _run: JoinSet<()>,
}

impl Network {
    fn start(directory: impl Directory, config: LorawanConfig) -> Self {
        Self::start_with(directory, config, GatewayConfig::default())
    }

    fn start_with(
        directory: impl Directory,
        config: LorawanConfig,
        gateway: GatewayConfig,
    ) -> Self {
        let hub = MemoryUpstream::new();
        let (lorawan, orders) = LorawanDownstream::builder(config)
            .with_directory(directory)
            .stream()
            .unwrap();
        let events = lorawan.events();
        let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
        let gateway = Gateway::builder(hub.clone())
            .with_config(gateway)
            .with_credentials(HubPolicyCredentials::new(SharedAccessPolicy::new(
                "device", key,
            )))
            .with_downstream("lorawan", lorawan)
            .build()
            .unwrap();
        let mut run = JoinSet::new();
        let running = gateway.clone();
        run.spawn(async move {
            running.run(CancellationToken::new()).await.unwrap();
        });
        Self {
            hub,
            events,
            orders,
            gateway,
            _run: run,
        }
    }

    async fn downlink(&mut self) -> Downlink {
        match self.orders.next().await.unwrap() {
            Order::Send(downlink) => downlink,
            other => panic!("saw {other:?} instead of a downlink"),
        }
    }

    async fn transmitted(&self, downlink: &Downlink) {
        let ack = TransmitAck::new(downlink.dev_eui, downlink.id.clone(), Ok(()));
        self.events.transmit_ack(ack).await;
    }

    async fn wait_listening(&self) {
        self.hub.wait_listening(&name(), Interest::COMMANDS).await;
    }
}

fn name() -> DeviceId {
    DeviceId::new(DEV_EUI.to_string()).unwrap()
}

/// Everybody under their EUI, on port 5.
fn everybody(change: impl FnOnce(&mut ProfileConfig)) -> EuiDirectory {
    let mut profile = ProfileConfig::default();
    profile.port = Some(5);
    change(&mut profile);
    EuiDirectory::new(Profile::new(profile).unwrap())
}

fn always(profile: &mut ProfileConfig) {
    profile.listen = Some(ListenPolicy::Always);
}

/// Windows so long that none closes while something is watched.
fn patient() -> LorawanConfig {
    let mut config = LorawanConfig::default();
    config.window = Duration::from_secs(15);
    config
}

fn uplink(frame_counter: u32) -> Uplink {
    Uplink::new(DEV_EUI, frame_counter, 1, &[0xaa, 0][..])
}

/// An uplink after which the device does not hear.
fn closed(frame_counter: u32) -> Uplink {
    uplink(frame_counter).with_window(Duration::ZERO)
}

fn message(body: &'static str, patience: Duration) -> CloudMessage {
    CloudMessage::new(name(), body, Instant::now() + patience)
}

fn call(method: &str, payload: &'static str, patience: Duration) -> MethodCall {
    MethodCall::new(
        name(),
        CorrelationId::new("call").unwrap(),
        MethodName::new(method).unwrap(),
        payload,
        Instant::now() + patience,
    )
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_uplink_is_its_devices_message_and_the_hubs_verdict_comes_back() {
    let network = Network::start(everybody(|_| {}), patient());
    assert_eq!(network.events.uplink(uplink(4)).await, Settlement::Accepted);
    let accepted = network.hub.accepted();
    assert_eq!(accepted[0].device, name());
    assert_eq!(accepted[0].id.as_str(), "0101010101010101-00000000-4");
    assert_eq!(accepted[0].properties.get("event"), Some("uplink"));
    assert_eq!(parsed(&accepted[0].body)["data"], "qgA=");
}

#[tokio::test(start_paused = true)]
async fn without_credit_an_uplink_waits() {
    let mut gateway = GatewayConfig::default();
    gateway.max_in_flight = 1;
    let network = Network::start_with(everybody(|_| {}), patient(), gateway);
    network.hub.hold();
    let first = network.events.uplink(uplink(1));
    let second = network.events.uplink(uplink(2));
    let both = async { tokio::join!(first, second) };
    tokio::pin!(both);
    assert!(timeout(WATCH, &mut both).await.is_err());
    assert_eq!(network.gateway.stats().in_flight, 1);
    network.hub.release();
    assert_eq!(both.await, (Settlement::Accepted, Settlement::Accepted));
}

#[tokio::test(start_paused = true)]
async fn what_else_is_told_becomes_a_message_if_it_is_wanted() {
    let network = Network::start(everybody(|_| {}), patient());
    let status = Status::new(DEV_EUI, Battery::External, 7);
    let log = Log::new(DEV_EUI, LogLevel::Error, "UPLINK_MIC", "wrong MIC");
    for event in [Event::Log(log), Event::Status(status)] {
        assert_eq!(network.events.handle(event).await, Settlement::Accepted);
    }
    let accepted = network.hub.accepted();
    assert_eq!(accepted.len(), 1, "logs are not wanted by default");
    assert_eq!(
        parsed(&accepted[0].body)["status"],
        json!({"margin": 7, "battery": "external"})
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_in_the_window_after_the_uplink_and_completes_with_the_radios_result() {
    let mut network = Network::start(everybody(|_| {}), patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let hub = network.hub.clone();
    let sending = hub.send_message(message("on", LONG));
    let radio = async {
        let downlink = network.downlink().await;
        assert_eq!((downlink.port, &downlink.payload[..]), (5, &b"on"[..]));
        assert!(matches!(downlink.timing, Timing::Window { .. }));
        network.transmitted(&downlink).await;
    };
    let (settled, ()) = tokio::join!(sending, radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_device_of_class_a_is_deaf_again_when_its_window_has_passed() {
    let mut config = LorawanConfig::default();
    config.window = Duration::from_millis(50);
    let network = Network::start(everybody(|_| {}), config);
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.hub.wait_deaf(&name()).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_came_early_waits_for_the_uplink_and_one_that_was_too_late_for_the_next() {
    let mut network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let hub = network.hub.clone();
    let sending = hub.send_message(message("on", LONG));
    let radio = async {
        assert!(timeout(WATCH, network.orders.next()).await.is_err());
        assert_eq!(network.events.uplink(uplink(2)).await, Settlement::Accepted);
        let first = network.downlink().await;
        let (dev_eui, id) = (first.dev_eui, first.id.clone());
        let late = TransmitAck::new(dev_eui, id, Err(TransmitError::TooLate));
        network.events.transmit_ack(late).await;
        assert_eq!(network.events.uplink(uplink(3)).await, Settlement::Accepted);
        let again = network.downlink().await;
        assert_eq!(again.id, first.id);
        network.transmitted(&again).await;
    };
    let (settled, ()) = tokio::join!(sending, radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_no_window_took_in_time_is_abandoned() {
    let network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let settled = network.hub.send_message(message("on", WATCH)).await;
    assert_eq!(settled, Some(Disposition::Abandon));
}

#[tokio::test(start_paused = true)]
async fn a_downlink_that_nobody_waits_for_any_more_is_withdrawn() {
    let mut network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let settled = network.hub.send_message(message("on", WATCH)).await;
    assert_eq!(settled, Some(Disposition::Abandon));
    let sent = network.downlink().await;
    let withdrawn = Order::Withdraw {
        dev_eui: sent.dev_eui,
        downlink: sent.id,
    };
    assert_eq!(network.orders.next().await, Some(withdrawn));
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_after_the_hubs_lock_completes_what_the_hub_gives_out_again() {
    let mut network = Network::start(everybody(|_| {}), patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let hub = network.hub.clone();
    let command = |count| {
        let mut command = message("on", WATCH);
        command.properties.insert("lorawan-confirmed", "true");
        command.sequence = Some(7);
        command.delivery_count = count;
        command
    };
    let radio = async {
        let downlink = network.downlink().await;
        network.transmitted(&downlink).await;
        downlink
    };
    let (settled, sent) = tokio::join!(hub.send_message(command(0)), radio);
    assert_eq!(settled, Some(Disposition::Abandon));
    // The next uplink brings the confirmation, an hour later.
    let ack = DeviceAck::new(DEV_EUI, sent.id, true);
    network.events.device_ack(ack).await;
    assert_eq!(network.events.uplink(uplink(2)).await, Settlement::Accepted);
    network.wait_listening().await;
    let settled = hub.send_message(command(1)).await;
    assert_eq!(settled, Some(Disposition::Complete));
    assert!(timeout(WATCH, network.orders.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_handed_in_again_is_no_other_one_of_its_device() {
    let mut network = Network::start(everybody(always), patient());
    network.hub.reject_next(ErrorKind::Other);
    let settlement = network.events.uplink(uplink(1)).await;
    assert!(matches!(settlement, Settlement::RetryLater(_)));
    network.wait_listening().await;
    let hub = network.hub.clone();
    let mut command = message("on", LONG);
    command.properties.insert("lorawan-confirmed", "true");
    let radio = async {
        let downlink = network.downlink().await;
        network.transmitted(&downlink).await;
        for _ in 0..2 {
            network.hub.reject_next(ErrorKind::Other);
            let settlement = network.events.uplink(closed(1)).await;
            assert!(matches!(settlement, Settlement::RetryLater(_)));
        }
        assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
        let ack = DeviceAck::new(DEV_EUI, downlink.id, true);
        network.events.device_ack(ack).await;
    };
    let (settled, ()) = tokio::join!(hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

/// A command that is here before the uplink goes without any wait.
#[tokio::test(start_paused = true)]
async fn what_goes_in_a_window_is_decided_at_once() {
    let mut network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let mut sending = JoinSet::new();
    let hub = network.hub.clone();
    sending.spawn(async move { hub.send_message(message("on", LONG)).await });
    assert!(timeout(WATCH, network.orders.next()).await.is_err());
    // The hub takes its time over the uplink, and the command does not wait for it.
    network.hub.set_latency(LONG);
    let heard_at = Instant::now();
    let events = network.events.clone();
    sending.spawn(async move {
        assert_eq!(events.uplink(uplink(2)).await, Settlement::Accepted);
        None
    });
    network.downlink().await;
    assert_eq!(heard_at.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_can_never_be_sent_is_rejected() {
    let network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let mut bad_port = message("on", LONG);
    bad_port.properties.insert("lorawan-port", "224");
    let mut too_long = message("", LONG);
    too_long.body = vec![0; 243].into();
    let mut unreadable = message("{}", LONG);
    unreadable.system.content_type = Some("application/json".to_owned());
    for message in [bad_port, too_long, unreadable] {
        let settled = network.hub.send_message(message).await;
        assert_eq!(settled, Some(Disposition::Reject));
    }
}

#[tokio::test(start_paused = true)]
async fn the_starter_kits_message_is_sent() {
    let directory = everybody(|profile| {
        always(profile);
        profile.commands = CommandForm::StarterKit;
    });
    let mut network = Network::start(directory, patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let body = r#"{"DevEUI":"0101010101010101","Fport":9,"RawPayload":"AQI="}"#;
    let hub = network.hub.clone();
    let radio = async {
        let downlink = network.downlink().await;
        assert_eq!((downlink.port, &downlink.payload[..]), (9, &[1, 2][..]));
        network.transmitted(&downlink).await;
    };
    let (settled, ()) = tokio::join!(hub.send_message(message(body, LONG)), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test(start_paused = true)]
async fn the_starter_kits_method_is_understood_whatever_form_messages_have() {
    let mut network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let argument = r#"{"DevEUI":"01-01-01-01-01-01-01-01","fport":9,"payload":"on"}"#;
    let hub = network.hub.clone();
    let calling = hub.call_method(call("cloudToDeviceMessage", argument, LONG));
    let radio = async {
        let heard = network.events.uplink(uplink(2)).await;
        assert_eq!(heard, Settlement::Accepted);
        let downlink = network.downlink().await;
        assert_eq!((downlink.port, &downlink.payload[..]), (9, &b"on"[..]));
        network.transmitted(&downlink).await;
    };
    let (reply, ()) = tokio::join!(calling, radio);
    assert_eq!(reply.map(|reply| reply.status), Some(200));
}

#[tokio::test(start_paused = true)]
async fn a_method_waits_for_the_window_and_is_answered_with_the_outcome() {
    let mut network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let hub = network.hub.clone();
    let calling = hub.call_method(call("send_downlink", r#"{"data":"AQI"}"#, LONG));
    let radio = async {
        assert!(timeout(WATCH, network.orders.next()).await.is_err());
        assert_eq!(network.events.uplink(uplink(2)).await, Settlement::Accepted);
        let downlink = network.downlink().await;
        network.transmitted(&downlink).await;
    };
    let (reply, ()) = tokio::join!(calling, radio);
    let expected = MethodReply::new(200, r#"{"outcome":"transmitted"}"#);
    assert_eq!(reply, Some(expected));
}

#[tokio::test(start_paused = true)]
async fn a_method_for_a_sleeper_is_refused_if_its_profile_says_so() {
    let directory = everybody(|profile| {
        always(profile);
        profile.methods = MethodPolicy::Refuse;
    });
    let network = Network::start(directory, patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let call = call("send_downlink", r#"{"data":"AQI"}"#, LONG);
    let reply = network.hub.call_method(call).await.unwrap();
    assert_eq!(reply.status, 503);
    assert_eq!(parsed(&reply.payload)["error"], "asleep");
}

#[tokio::test(start_paused = true)]
async fn a_method_answered_at_once_is_reported_when_it_was_sent() {
    let directory = everybody(|profile| {
        always(profile);
        profile.methods = MethodPolicy::Later;
    });
    let mut network = Network::start(directory, patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let call = call("send_downlink", r#"{"data":"AQI"}"#, LONG);
    let reply = network.hub.call_method(call).await.unwrap();
    assert_eq!(reply.status, 202);
    assert_eq!(network.events.uplink(uplink(2)).await, Settlement::Accepted);
    let downlink = network.downlink().await;
    network.transmitted(&downlink).await;
    let accepted = network.hub.wait_accepted(3).await;
    let expected = json!({"method": "send_downlink", "request": "call", "outcome": "transmitted"});
    assert_eq!(parsed(&accepted[2].body)["command"], expected);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_takes_its_commands_with_it() {
    let network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let began = Instant::now();
    let sending = network.hub.send_message(message("on", LONG));
    let ending = async {
        tokio::time::sleep(WATCH).await;
        network.hub.end_session(&name(), ErrorKind::Displaced).await;
    };
    let (settled, ()) = tokio::join!(sending, ending);
    assert_eq!(settled, Some(Disposition::Abandon));
    assert!(began.elapsed() < LONG, "it waited for its deadline");
}

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

/// 50 ms to the hub, and to hear of each command.
#[tokio::test(start_paused = true)]
async fn a_thousand_devices_miss_no_window() {
    const DEVICES: u64 = 1000;
    const HUB: Duration = Duration::from_millis(50);
    let network = Network::start(everybody(|_| {}), LorawanConfig::default());
    let Network {
        hub,
        events,
        mut orders,
        ..
    } = network;
    hub.set_latency(HUB);
    let mut devices = JoinSet::new();
    for number in 0..DEVICES {
        let (hub, events) = (hub.clone(), events.clone());
        devices.spawn(async move {
            let dev_eui = DevEui::new(number.to_be_bytes());
            let name = DeviceId::new(dev_eui.to_string()).unwrap();
            let command = async {
                hub.wait_listening(&name, Interest::COMMANDS).await;
                tokio::time::sleep(HUB).await;
                let deadline = Instant::now() + Duration::from_secs(55);
                let message = CloudMessage::new(name.clone(), "on", deadline);
                hub.send_message(message).await
            };
            tokio::join!(events.uplink(Uplink::new(dev_eui, 1, 1, "x")), command)
        });
    }
    let mut radio = JoinSet::new();
    radio.spawn(async move {
        while let Some(Order::Send(downlink)) = orders.next().await {
            let ack = TransmitAck::new(downlink.dev_eui, downlink.id, Ok(()));
            events.transmit_ack(ack).await;
        }
    });
    while let Some(device) = devices.join_next().await {
        let expected = (Settlement::Accepted, Some(Disposition::Complete));
        assert_eq!(device.unwrap(), expected);
    }
}
