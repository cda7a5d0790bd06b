//! Devices behind a network that loses and doubles three datagrams of ten, both ways.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::testkit::{DeviceEvent, MemoryUpstream};
use gateway_core::{CloudMessage, DeviceId, Disposition, Interest, MessageId};
use gateway_downstream_coap::CoapConfig;
use gateway_downstream_coap::proto::message::{Code, Message, option};
use gateway_downstream_coap::proto::udp::EndpointStats;
use support::proxy::{Proxy, Weather};
use support::{Device, Purpose, Running, device, in_time, until};
use tokio::time::{Instant, timeout};

const WEATHER: Weather = Weather {
    lost: 30,
    doubled: 30,
};
const UPLINKS: usize = 12;
const COMMANDS: usize = 4;
/// When devices and the gateway send again.
const PATIENCE: Duration = Duration::from_millis(60);

fn config() -> CoapConfig {
    let mut config = CoapConfig::default();
    config.udp.get_or_insert_default().sockets = 2;
    let transmission = &mut config.endpoint.transmission;
    transmission.ack_timeout = PATIENCE;
    transmission.ack_delay = PATIENCE / 3;
    // Longer than anybody sends a message again, and short enough to see it forgotten.
    transmission.exchange_lifetime = Duration::from_secs(10);
    config.endpoint.blocks.timeout = Duration::from_secs(10);
    config.timeouts.wait = Duration::from_secs(10);
    config
}

/// Sends messages, each until it is accepted; gives their ids.
async fn report(client: &mut Device, name: &DeviceId) -> Vec<MessageId> {
    let mut ids = Vec::new();
    for number in 0..UPLINKS {
        let id = MessageId::new(format!("{name}-{number}")).unwrap();
        let mut accepted = false;
        while !accepted {
            let part = format!("$.mid={id}").into_bytes();
            let request = Message::new(Code::POST)
                .with_path("t")
                .with_option(option::URI_QUERY, part)
                .with_payload(format!("body of {id}"));
            client.request(Purpose::Uplink(id.clone()), request).await;
            accepted = match client.next().await {
                DeviceEvent::Accepted(told) => {
                    assert_eq!(told, id);
                    true
                }
                DeviceEvent::RetryLater(_) => false,
                other => panic!("{other:?}"),
            };
        }
        ids.push(id);
    }
    ids
}

/// Takes commands, and registers anew when it hears nothing.
async fn obey(client: &mut Device, heard: &mut HashSet<String>) -> ! {
    client.observe_commands().await;
    loop {
        match timeout(40 * PATIENCE, client.next()).await {
            Ok(DeviceEvent::Message { tag, body }) => {
                client.acknowledge(tag.parse().unwrap()).await;
                heard.insert(String::from_utf8(body.to_vec()).unwrap());
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => client.observe_commands().await,
        }
    }
}

/// Sends commands, each until it is completed.
async fn command(hub: &MemoryUpstream, name: &DeviceId) {
    for number in 0..COMMANDS {
        let mut is_completed = false;
        while !is_completed {
            hub.wait_listening(name, Interest::COMMANDS).await;
            let deadline = Instant::now() + Duration::from_secs(60);
            let body = format!("do {number}");
            let command = CloudMessage::new(name.clone(), body, deadline);
            is_completed = hub.send_message(command).await == Some(Disposition::Complete);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_at_the_hub_once_and_commands_arrive_and_nothing_stays() {
    let names: Vec<_> = (0..8).map(|number| format!("dev{number}")).collect();
    let known: Vec<_> = names.iter().map(String::as_str).collect();
    let running = Running::start(config(), &known).await;
    // Some answers come with the acknowledgement, others apart.
    running.hub.set_latency(PATIENCE / 3);
    let proxy = Proxy::start(running.coap.udp_addr().unwrap(), WEATHER, 7).await;
    let fleet = known.iter().map(|name| async {
        let name = device(name);
        let mut client = Device::new(proxy.address(), &name).await;
        client.send_again_after(PATIENCE);
        let ids = report(&mut client, &name).await;
        let mut heard = HashSet::new();
        tokio::select! {
            () = command(&running.hub, &name) => {}
            never = obey(&mut client, &mut heard) => never,
        }
        client.deregister().await;
        (ids, heard)
    });
    let fleet = in_time(join_all(fleet)).await;
    assert!(proxy.lost() > 100, "{} datagrams were lost", proxy.lost());

    let mut at_hub: HashMap<MessageId, usize> = HashMap::new();
    for uplink in running.hub.accepted() {
        assert_eq!(uplink.body, format!("body of {}", uplink.id));
        *at_hub.entry(uplink.id).or_default() += 1;
    }
    let accepted: Vec<_> = fleet.iter().flat_map(|(ids, _)| ids).collect();
    for id in &accepted {
        assert_eq!(at_hub.get(*id), Some(&1), "{id}");
    }
    assert_eq!(at_hub.len(), accepted.len());
    let expected: HashSet<_> = (0..COMMANDS).map(|number| format!("do {number}")).collect();
    assert!(fleet.iter().all(|(_, heard)| *heard == expected));

    let coap = running.coap.clone();
    until(|| coap.listening() == 0 && coap.stats() == EndpointStats::default()).await;
    running.end().await;
}
