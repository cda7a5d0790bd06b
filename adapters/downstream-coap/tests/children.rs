//! Gateways that observe for their children, over plain UDP and a hub in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::time::Duration;

use gateway_core::{CloudMessage, Disposition, Interest};
use gateway_downstream_coap::CoapConfig;
use gateway_downstream_coap::proto::message::{Code, Message, option};
use support::{Running, device, in_time};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_child_with_many_commands_does_not_hold_up_its_siblings() {
    let test = async {
        let mut config = CoapConfig::default();
        let children = [device("a"), device("b")].into_iter().collect();
        config.identity.children.insert(device("gateway"), children);
        let running = Running::start(config, &["gateway"]).await;
        let mut client = running.device("gateway").await;
        for child in ["a", "b"] {
            let observe = Message::new(Code::GET).with_path(&format!("d/{child}/c"));
            let answer = client.say(observe.with_uint(option::OBSERVE, 0)).await;
            assert!(answer.options.has(option::OBSERVE));
            let child = device(child);
            running.hub.wait_listening(&child, Interest::COMMANDS).await;
        }
        let send = |child, body: &'static str| {
            let message = CloudMessage::new(device(child), body, Instant::now() + LONG);
            running.hub.send_message(message)
        };
        let take = async {
            let mut taken = Vec::new();
            while taken.len() < 4 {
                let notification = client.requested().await;
                taken.push(notification.message.payload);
                client.acknowledge(notification.id).await;
            }
            taken
        };
        // All are there before the first one is acknowledged.
        let (a1, a2, a3, b, taken) = tokio::join!(
            send("a", "a1"),
            send("a", "a2"),
            send("a", "a3"),
            send("b", "b"),
            take
        );
        assert_eq!([a1, a2, a3, b], [Some(Disposition::Complete); 4]);
        assert_eq!(taken, ["a1", "b", "a2", "a3"]);
        running.end().await;
    };
    in_time(test).await;
}
