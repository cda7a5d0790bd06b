//! Any schedule of requests both ways, on any network.

use proptest::prelude::*;

use super::world::{Ask, Weather, World, body};
use super::{millis, seconds};
use crate::proto::config::EndpointConfig;
use crate::proto::message::Code;
use crate::proto::udp::CallError;

const DEVICES: u8 = 3;

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..60_usize, 2 => 60..700_usize]
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let delay = prop_oneof![3 => 0..400_u64, 2 => 400..3000_u64, 1 => 3000..40_000_u64];
    let ask = (
        0..60_000_u64,
        1..=DEVICES,
        proptest::bool::weighted(0.3),
        proptest::bool::weighted(0.8),
        (size(), size()),
        delay,
    );
    let ask = ask.prop_map(
        |(at, device, is_downward, is_confirmable, (body, answer), delay)| Ask {
            at: millis(at),
            device,
            is_downward,
            is_confirmable,
            body,
            answer,
            delay: millis(delay),
        },
    );
    proptest::collection::vec(ask, 1..20)
}

/// Bounds that no schedule here reaches, and blocks so small that there are many.
fn config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.blocks.size = 64;
    config.blocks.max_per_peer = 64;
    config.limits.max_remembered_per_peer = 10_000;
    config.limits.max_pending_per_peer = 64;
    config.limits.max_calls_per_peer = 64;
    config
}

fn run(seed: u64, weather: Weather, asks: &[Ask]) -> World {
    let mut world = World::new(seed, &config(), DEVICES, weather);
    for ask in asks {
        world.ask(ask.clone());
    }
    world.run();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Half of all datagrams may be lost and half come twice, up to a minute late.
    #[test]
    fn whatever_the_network_does_every_request_ends_and_is_handled_at_most_once_and_nothing_stays(
        seed: u64, asks in asks(), loss in 0..50_u64, doubled in 0..50_u64, detour in 0..60_u64,
    ) {
        let (latency, detour) = (millis(800), seconds(detour));
        let world = run(seed, Weather { loss, doubled, latency, detour }, &asks);
        for (number, ask) in asks.iter().enumerate() {
            let handled = world.handled.get(&number).copied().unwrap_or(0);
            prop_assert!(handled <= 1, "request {} was handled {} times", number, handled);
            match world.results.get(&number) {
                Some(Ok(response)) => {
                    prop_assert_eq!(response.code, Code::CHANGED);
                    prop_assert_eq!(&response.payload, &body(ask.answer, number + 1));
                    prop_assert_eq!(handled, 1);
                }
                Some(Err(error)) => prop_assert_eq!(*error, CallError::TimedOut),
                None => prop_assert!(false, "request {} has no end", number),
            }
        }
    }

    /// A network that only delays and doubles: nothing is lost, not even without acknowledgement.
    #[test]
    fn on_a_network_that_loses_nothing_every_request_is_answered(
        seed: u64, asks in asks(), doubled in 0..100_u64,
    ) {
        let weather = Weather { loss: 0, doubled, latency: millis(300), detour: millis(1900) };
        let world = run(seed, weather, &asks);
        for number in 0..asks.len() {
            let result = world.results.get(&number);
            prop_assert!(matches!(result, Some(Ok(_))), "request {}: {:?}", number, result);
        }
    }
}

/// The share of requests that get through says whether retransmission works at all.
#[test]
fn nearly_all_requests_get_through_a_third_of_losses() {
    let ask = |at: u64| Ask {
        at: seconds(at),
        device: 1,
        is_downward: false,
        is_confirmable: true,
        body: 20,
        answer: 20,
        delay: millis(if at.is_multiple_of(2) { 10 } else { 900 }),
    };
    let asks: Vec<_> = (0..400).map(|at| ask(at * 20)).collect();
    let weather = Weather {
        loss: 30,
        doubled: 30,
        latency: millis(400),
        detour: seconds(3),
    };
    let world = run(11, weather, &asks);
    let answered = world.results.values().filter(|result| result.is_ok());
    // A try fails by 51 %, five of them by 3.5 %; a separate answer has tries of its own.
    assert!(answered.count() > 360);
}
