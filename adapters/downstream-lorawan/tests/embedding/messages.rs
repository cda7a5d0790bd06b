//! Messages of the hub in the windows after uplinks.

use std::time::Duration;

use gateway_core::{CloudMessage, DeviceId, Disposition, ErrorKind, Interest, Settlement};
use gateway_downstream_lorawan::embed::{LorawanConfig, Order};
use gateway_downstream_lorawan::event::{
    DevEui, DeviceAck, Timing, TransmitAck, TransmitError, Uplink,
};
use gateway_downstream_lorawan::payload::command::CommandForm;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{
    DEV_EUI, LONG, Network, WATCH, always, closed, everybody, message, name, patient, uplink,
};

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
