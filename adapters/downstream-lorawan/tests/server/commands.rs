//! What the hub asks of devices.

use super::*;

#[tokio::test]
async fn a_command_for_a_sleeper_goes_in_its_window_and_completes_with_the_radios_result() {
    let (network, concentrator, mut device) = awake(identity).await;
    let command = message(&device, "on");
    let radio = async {
        let asked = concentrator.asked().await;
        assert_eq!(asked.txpk["tmst"], 16_000_000);
        assert_eq!(asked.txpk["freq"], 868.1);
        let read = device.read(&asked.frame());
        assert_eq!((read.port, &read.payload[..]), (Some(5), &b"on"[..]));
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn a_frame_that_is_too_late_for_one_window_goes_in_the_other() {
    let (network, concentrator, device) = awake(identity).await;
    let command = message(&device, "on");
    let radio = async {
        let first = concentrator.asked().await;
        concentrator.acknowledge(&first, "TOO_LATE").await;
        let second = concentrator.asked().await;
        assert_eq!(second.txpk["tmst"], 17_000_000);
        assert_eq!(second.txpk["freq"], 869.525);
        assert_eq!(first.frame(), second.frame());
        concentrator.acknowledge(&second, "NONE").await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn a_command_that_the_device_is_to_confirm_completes_when_it_has() {
    let (network, concentrator, mut device) = awake(class_c).await;
    let mut command = message(&device, "on");
    command.properties.insert("lorawan-confirmed", "true");
    let radio = async {
        let asked = concentrator.asked().await;
        assert_eq!(
            asked.txpk["imme"], true,
            "a device of class C is sent it at once"
        );
        device.read(&asked.frame());
        concentrator.acknowledge(&asked, "NONE").await;
        concentrator.hear(&device.acknowledging(b"2")).await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

/// What becomes of a command that a sleeper is to confirm, by what it says next.
async fn confirmed_then(next: fn(&mut Device) -> Vec<u8>) -> Option<Disposition> {
    let (network, concentrator, mut device) = awake(identity).await;
    let mut command = message(&device, "on");
    command.properties.insert("lorawan-confirmed", "true");
    let radio = async {
        let asked = concentrator.asked().await;
        device.read(&asked.frame());
        concentrator.acknowledge(&asked, "NONE").await;
        concentrator.hear(&next(&mut device)).await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    settled
}

#[tokio::test]
async fn a_sleepers_next_uplink_says_whether_it_has_the_command() {
    let acknowledged = confirmed_then(|device| device.acknowledging(b"2")).await;
    assert_eq!(acknowledged, Some(Disposition::Complete));
    let unheard = confirmed_then(|device| device.uplink(b"2")).await;
    assert_eq!(unheard, Some(Disposition::Abandon));
}

#[tokio::test]
async fn an_uplink_that_the_hub_takes_late_says_nothing_of_the_command_in_its_window() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let concentrator = network.concentrator(1).await;
    for _ in 0..3 {
        network.hub.reject_next(ErrorKind::Other);
    }
    concentrator.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    let mut command = message(&device, "on");
    command.properties.insert("lorawan-confirmed", "true");
    let radio = async {
        let asked = concentrator.asked().await;
        concentrator.acknowledge(&asked, "NONE").await;
        assert_eq!(network.data(1).await, ["MQ=="]);
        device.read(&asked.frame());
        concentrator.hear(&device.acknowledging(b"2")).await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
    assert!(!concentrator.has_been_asked());
}

#[tokio::test]
async fn a_concentrator_that_takes_no_downlinks_leaves_the_answer_to_another() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.hold = Duration::from_millis(500);
    let network = Network::start(config, &folder).await;
    let deaf = Forwarder::open(1, network.forwarders).await;
    let concentrator = network.concentrator(2).await;
    let name = name(device.dev_eui);
    let command = message(&device, "on");
    let radio = async {
        loop {
            // Both copies come together unless the machine sleeps between them.
            let frame = device.uplink(b"1");
            deaf.push(&frame, 9.0).await;
            concentrator.push(&frame, 1.0).await;
            if let Ok(asked) = timeout(Duration::from_secs(5), concentrator.asked()).await {
                return concentrator.acknowledge(&asked, "NONE").await;
            }
        }
    };
    let sending = async {
        network.hub.wait_listening(&name, Interest::COMMANDS).await;
        network.hub.send_message(command).await
    };
    let (settled, ()) = tokio::join!(sending, radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn a_method_is_answered_with_what_the_radio_did() {
    let (network, concentrator, mut device) = awake(class_c).await;
    let call = MethodCall::new(
        name(device.dev_eui),
        gateway_core::CorrelationId::new("call").unwrap(),
        MethodName::new("send_downlink").unwrap(),
        r#"{"data":"AQI="}"#,
        Instant::now() + LONG,
    );
    let radio = async {
        let asked = concentrator.asked().await;
        assert_eq!(device.read(&asked.frame()).payload, [1, 2]);
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let (reply, ()) = tokio::join!(network.hub.call_method(call), radio);
    assert_eq!(reply.unwrap().status, 200);
}

#[tokio::test]
async fn a_command_waits_for_the_hubs_word_and_goes_in_the_frame_that_acknowledges() {
    let (network, concentrator, mut device) = awake(identity).await;
    network.hub.hold();
    concentrator.hear(&device.confirmed(b"2")).await;
    network.hub.wait_held(1).await;
    let command = message(&device, "on");
    let radio = async {
        // Long enough for a command that does not wait.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!concentrator.has_been_asked());
        network.hub.release();
        let asked = concentrator.asked().await;
        let read = device.read(&asked.frame());
        assert!(read.ack);
        assert_eq!(read.payload, b"on");
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn a_command_that_is_too_long_for_the_second_window_leaves_it_to_the_acknowledgement() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.rx_delay = 2;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    let long = CloudMessage::new(name(device.dev_eui), &[0; 100][..], Instant::now() + LONG);
    let radio = async {
        // On a machine that sleeps through a window, once more.
        loop {
            network.hub.hold();
            concentrator.hear(&device.confirmed(b"2")).await;
            network.hub.wait_held(1).await;
            // Between the moments in which frames for the two windows must be on their way.
            tokio::time::sleep(Duration::from_millis(2100)).await;
            network.hub.release();
            let asked = timeout(Duration::from_secs(3), concentrator.asked()).await;
            let Ok(asked) = asked else { continue };
            let read = device.read(&asked.frame());
            if asked.txpk["tmst"] == 4_000_000 && read.ack && read.port.is_none() {
                break;
            }
            concentrator.acknowledge(&asked, "TOO_LATE").await;
        }
        // The command goes in the next window that has room for it.
        loop {
            concentrator.hear(&device.uplink(b"3")).await;
            let asked = timeout(Duration::from_secs(3), concentrator.asked()).await;
            let Ok(asked) = asked else { continue };
            assert_eq!(device.read(&asked.frame()).payload, [0; 100]);
            concentrator.acknowledge(&asked, "NONE").await;
            break;
        }
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(long), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn a_command_that_its_concentrator_says_nothing_of_is_given_back() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![class_c(device.config())]), &folder).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    let name = name(device.dev_eui);
    network.hub.wait_listening(&name, Interest::COMMANDS).await;
    let settled = network.hub.send_message(message(&device, "on"));
    let (settled, _) = tokio::join!(settled, concentrator.asked());
    assert_eq!(settled, Some(Disposition::Abandon));
}

#[tokio::test]
async fn a_command_with_no_concentrator_to_send_it_is_given_back() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![class_c(device.config())]), &folder).await;
    // It is heard, but never asks for downlinks.
    let concentrator = Forwarder::open(1, network.forwarders).await;
    concentrator.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    let settled = network.hub.send_message(message(&device, "on")).await;
    assert_eq!(settled, Some(Disposition::Abandon));
}

#[tokio::test]
async fn a_copy_over_a_slow_line_is_not_taken_for_the_devices_repetition() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.rx_delay = 5;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    let slow = network.concentrator(2).await;
    let frame = device.uplink(b"1");
    concentrator.hear(&frame).await;
    network.listens(&device).await;
    let mut command = message(&device, "on");
    command.properties.insert("lorawan-confirmed", "true");
    let radio = async {
        let asked = concentrator.asked().await;
        concentrator.acknowledge(&asked, "NONE").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        slow.hear(&frame).await;
        // Longer than a first copy waits for others.
        tokio::time::sleep(Duration::from_millis(500)).await;
        device.read(&asked.frame());
        concentrator.hear(&device.acknowledging(b"2")).await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
    assert!(!concentrator.has_been_asked() && !slow.has_been_asked());
}

#[tokio::test]
async fn a_concentrator_is_not_asked_for_more_power_than_it_has() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![class_c(device.config())]);
    config.max_power = Some(27);
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    let radio = async {
        let asked = concentrator.asked().await;
        // As a forwarder does whose table ends there; in EU868 the second window allows 29.
        let result = match asked.txpk["powe"].as_i64() {
            Some(..=27) => "NONE",
            _ => "TX_POWER",
        };
        concentrator.acknowledge(&asked, result).await;
    };
    let settled = network.hub.send_message(message(&device, "on"));
    let (settled, ()) = tokio::join!(settled, radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

/// As many devices as a small town has meters, each with a command that waits; the hub is 50 ms
/// away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_devices_get_their_commands_in_their_windows() {
    const DEVICES: u16 = 1000;
    const CONCENTRATORS: u16 = 8;
    let folder = folder();
    let mut devices: Vec<_> = (0..DEVICES).map(Device::abp).collect();
    let mut config = config(devices.iter().map(Device::config).collect());
    let euis = 0..u64::from(CONCENTRATORS);
    let listed = euis
        .clone()
        .map(|eui| ConcentratorConfig::new(Eui64::new(eui)));
    config.concentrators = listed.collect();
    let network = Network::start(config, &folder).await;
    network.hub.set_latency(Duration::from_millis(50));
    let mut tasks = JoinSet::new();
    for eui in euis {
        let concentrator = network.concentrator(eui).await;
        let share = usize::from(DEVICES / CONCENTRATORS);
        let mut devices = devices.split_off(devices.len() - share);
        let hub = network.hub.clone();
        tasks.spawn(async move {
            let mut commands = JoinSet::new();
            for device in &mut devices {
                concentrator.push(&device.uplink(b"1"), 5.0).await;
                let (hub, command) = (hub.clone(), message(device, "on"));
                commands.spawn(async move {
                    hub.wait_listening(&command.device, Interest::COMMANDS)
                        .await;
                    hub.send_message(command).await
                });
                // What a concentrator at its busiest hears, and no more than this machine can take.
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            for _ in 0..share {
                let asked = concentrator.asked().await;
                assert_eq!(asked.txpk["tmst"], 16_000_000, "the first window");
                concentrator.acknowledge(&asked, "NONE").await;
            }
            while let Some(settled) = commands.join_next().await {
                assert_eq!(settled.unwrap(), Some(Disposition::Complete));
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(
        network.data(DEVICES.into()).await.len(),
        usize::from(DEVICES)
    );
}
