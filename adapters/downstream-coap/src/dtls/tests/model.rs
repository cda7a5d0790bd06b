//! Any network, any bytes.

use std::collections::HashSet;

use proptest::prelude::*;

use super::world::{NAMES, World, address, seconds};
use crate::dtls::{DtlsConfig, DtlsEvent, SessionId};

/// What devices and the network do.
#[derive(Debug, Clone)]
enum Act {
    /// A device starts, or starts again, at one of a few addresses.
    Connect(usize, u16),
    /// Whoever is at an address speaks.
    Say(u16),
    Pass(u64),
    /// Somebody sends, under this address, bytes that look like a record.
    Forge(u16, u8, bool, Vec<u8>),
}

fn act() -> impl Strategy<Value = Act> {
    let port = 1..5_u16;
    prop_oneof![
        4 => (0..5_usize, port.clone()).prop_map(|(who, port)| Act::Connect(who, port)),
        3 => port.clone().prop_map(Act::Say),
        2 => (0..30_u64).prop_map(Act::Pass),
        2 => (port, 19..27_u8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(port, kind, is_protected, body)| Act::Forge(port, kind, is_protected, body)),
    ]
}

fn forge(kind: u8, is_protected: bool, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    let head = [kind, 0xfe, 0xfd, 0, is_protected.into(), 0, 0, 0, 0, 0, 99];
    [&head[..], &length, body].concat()
}

/// Numbers that look random, from a seed.
fn dice(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    }
}

/// Every session that is ready ends once at most, says nothing before or after, and belongs to a
/// device that proved itself.
fn check(world: &World) -> Result<(), TestCaseError> {
    let (mut open, mut seen) = (HashSet::<SessionId>::new(), HashSet::new());
    for event in &world.events {
        match event {
            DtlsEvent::Ready { session, device } => {
                prop_assert!(seen.insert(*session), "ready twice");
                prop_assert!(NAMES.contains(&device.as_str()));
                open.insert(*session);
            }
            DtlsEvent::Datagram { session, .. } => prop_assert!(open.contains(session)),
            DtlsEvent::Ended { session, .. } => prop_assert!(open.remove(session)),
            _ => {}
        }
    }
    prop_assert_eq!(open.len(), world.table.stats().sessions);
    for session in open {
        let device = world.table.device(session);
        prop_assert_eq!(
            device.and_then(|device| world.table.session(device)),
            Some(session)
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_comes_a_table_keeps_its_bounds_and_its_word_and_in_the_end_holds_nothing(
        seed: u64, loss in 0..40_u64, doubled in 0..40_u64,
        acts in prop::collection::vec(act(), 1..25),
    ) {
        let bounds = DtlsConfig { max_sessions: 2, max_handshakes: 2, ..DtlsConfig::default() };
        let mut world = World::new(bounds);
        let mut dice = dice(seed);
        world.fate = Box::new(move || match dice() % 100 {
            number if number < loss => 0,
            number if number < loss + doubled => 2,
            _ => 1,
        });
        for act in acts {
            match act {
                Act::Connect(who, port) => world.connect(who, address(port)),
                Act::Say(port) => {
                    let client = world.clients.get(&address(port));
                    if client.is_some_and(|client| client.is_connected && !client.is_closed) {
                        world.say(address(port), b"message");
                    }
                }
                Act::Pass(time) => world.pass(seconds(time)),
                Act::Forge(port, kind, is_protected, body) => {
                    world.carry(address(port), vec![forge(kind, is_protected, &body)]);
                }
            }
            let stats = world.table.stats();
            prop_assert!(stats.sessions <= 2 && stats.handshakes <= 2, "{:?}", stats);
            check(&world)?;
        }
        world.pass(seconds(3700));
        prop_assert_eq!(world.table.stats(), Default::default());
        prop_assert_eq!(world.table.next_timeout(), None);
        check(&world)?;
    }

    #[test]
    fn nothing_forged_under_its_address_ends_or_deafens_a_session(
        forged in prop::collection::vec(
            (19..27_u8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..80)), 1..60,
        ),
    ) {
        let mut world = World::new(DtlsConfig::default());
        let session = world.ready(0, address(1));
        for (kind, is_protected, body) in forged {
            world.table.receive(world.now, address(1), &forge(kind, is_protected, &body));
            while world.table.poll_transmit().is_some() {}
        }
        world.say(address(1), b"message");
        prop_assert_eq!(world.heard(), Some((session, &b"message"[..])));
    }
}

/// The share of devices that come in says whether retransmission works at all.
#[test]
fn nearly_every_device_comes_in_through_a_fifth_of_losses() {
    let mut dice = dice(3);
    let mut world = World::new(DtlsConfig::default());
    world.fate = Box::new(move || usize::from(!dice().is_multiple_of(5)));
    let mut ready = 0;
    for round in 1..=60 {
        world.clients.clear();
        world.connect(0, address(round));
        world.pass(seconds(45));
        ready += usize::from(world.clients[&address(round)].is_connected);
    }
    assert!(ready >= 50, "{ready} of 60");
}
