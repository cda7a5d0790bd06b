//! What a table promises, with clients of another state machine at the other end.

mod model;
pub(crate) mod world;

use std::net::SocketAddr;

use super::wire;
use super::{DtlsConfig, DtlsEvent, DtlsSendError, DtlsStats, Refusal, SessionEnd, SessionId};
use world::{Client, IMPOSTOR, STRANGER, World, address, seconds};

fn world() -> World {
    World::new(DtlsConfig::default())
}

fn ended(session: SessionId, reason: SessionEnd) -> DtlsEvent {
    DtlsEvent::Ended { session, reason }
}

fn stats(sessions: usize, handshakes: usize) -> DtlsStats {
    DtlsStats {
        sessions,
        handshakes,
    }
}

/// The hello with the cookie of a new client at an address, and the client.
fn hello(world: &mut World, who: usize, at: SocketAddr) -> (Client, Vec<u8>) {
    let (mut client, first) = Client::new(who, world.now);
    world.table.receive(world.now, at, &first[0]);
    let request = world.table.poll_transmit().unwrap();
    let mut second = client.take(world.now, &request.bytes);
    (client, second.remove(0))
}

#[test]
fn a_device_with_its_key_is_ready_and_messages_go_both_ways() {
    let mut world = world();
    let at = address(1);
    let session = world.ready(0, at);
    assert!(world.clients[&at].is_connected);
    assert_eq!(world.table.device(session).unwrap().as_str(), "device-0");
    assert_eq!(world.table.address(session), Some(at));
    assert_eq!(world.table.stats(), stats(1, 0));
    world.say(at, b"up");
    assert_eq!(world.heard(), Some((session, &b"up"[..])));
    world.table.send(world.now, session, b"down").unwrap();
    world.carry(at, Vec::new());
    assert_eq!(world.clients[&at].received, [b"down"]);
}

#[test]
fn a_wrong_key_and_an_unknown_identity_are_refused_alike() {
    let mut world = world();
    for (who, identity, reason) in [
        (IMPOSTOR, "device-0", Refusal::WrongKey),
        (STRANGER, "stranger", Refusal::UnknownIdentity),
    ] {
        let at = address(9);
        world.connect(who, at);
        let expected = DtlsEvent::Refused {
            from: at,
            identity: Some(identity.to_owned()),
            reason,
        };
        assert_eq!(world.events.last(), Some(&expected));
        let client = &world.clients[&at];
        assert!(
            !client.is_connected && client.is_closed,
            "the alert tells it"
        );
        assert_eq!(world.table.stats(), stats(0, 0));
        assert_eq!(world.table.next_timeout(), None);
    }
}

#[test]
fn a_source_that_brings_no_cookie_back_costs_nothing_and_gets_no_more_than_it_sent() {
    let mut world = world();
    let (_, hello) = Client::new(0, world.now);
    for port in 1..=5000 {
        world.table.receive(world.now, address(port), &hello[0]);
        let request = world.table.poll_transmit().unwrap();
        assert!(request.bytes.len() <= hello[0].len());
        assert_eq!(request.to, address(port));
        assert_eq!(world.table.poll_transmit(), None);
    }
    assert_eq!(world.table.stats(), stats(0, 0));
    assert_eq!(world.table.next_timeout(), None);
    assert_eq!(world.table.poll_event(), None);
}

#[test]
fn a_cookie_of_another_address_is_none() {
    let mut world = world();
    let (_, second) = hello(&mut world, 0, address(1));
    world.table.receive(world.now, address(2), &second);
    assert_eq!(world.table.stats(), stats(0, 0));
    world.table.receive(world.now, address(1), &second);
    assert_eq!(world.table.stats(), stats(0, 1));
}

#[test]
fn the_oldest_handshake_makes_room_for_a_new_one() {
    let config = DtlsConfig {
        max_handshakes: 2,
        ..DtlsConfig::default()
    };
    let mut world = World::new(config);
    for port in 1..=3 {
        let (_, second) = hello(&mut world, 0, address(port));
        world.table.receive(world.now, address(port), &second);
        while world.table.poll_transmit().is_some() {}
    }
    assert_eq!(world.table.stats(), stats(0, 2));
    let displaced = DtlsEvent::Refused {
        from: address(1),
        identity: None,
        reason: Refusal::Displaced,
    };
    assert_eq!(world.table.poll_event(), Some(displaced));
    assert_eq!(world.table.poll_event(), None);
}

#[test]
fn a_handshake_that_is_not_finished_ends_by_time_with_nothing_left() {
    let mut world = world();
    let (_, second) = hello(&mut world, 0, address(1));
    world.table.receive(world.now, address(1), &second);
    world.has_store = false;
    world.connect(1, address(2));
    assert_eq!(world.table.stats(), stats(0, 2));
    world.clients.clear();
    world.pass(seconds(41));
    assert_eq!(world.table.stats(), stats(0, 0));
    assert_eq!(world.table.next_timeout(), None);
    let refused = world.events.iter().filter(|event| {
        matches!(
            event,
            DtlsEvent::Refused {
                reason: Refusal::TimedOut,
                ..
            }
        )
    });
    assert_eq!(refused.count(), 2);
}

#[test]
fn a_slow_store_is_waited_for_and_asked_once() {
    let mut world = world();
    world.has_store = false;
    world.connect(0, address(1));
    world.pass(seconds(20));
    let asked = world.events.drain(..).collect::<Vec<_>>();
    let [DtlsEvent::Identify { session, identity }] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(identity, "device-0");
    world.has_store = true;
    let device = gateway_core::DeviceId::new("device-0").unwrap();
    let entry = super::PskEntry::new(device.clone(), super::PskKey::new("device-0").unwrap());
    world.table.identified(world.now, *session, Some(entry));
    let session = *session;
    let ready = DtlsEvent::Ready { session, device };
    assert_eq!(world.table.poll_event(), Some(ready));
    world.carry(address(1), Vec::new());
    assert!(world.clients[&address(1)].is_connected);
    assert_eq!(world.events, []);
}

#[test]
fn a_new_address_takes_the_devices_session_over_and_nobody_elses() {
    let mut world = world();
    let old = world.ready(0, address(1));
    let other = world.ready(1, address(2));
    // The NAT has forgotten: nobody knows whose this is.
    let lost = world.clients.get_mut(&address(1)).unwrap().say(b"lost");
    world.carry(address(3), lost);
    assert!(
        !world
            .events
            .iter()
            .any(|event| matches!(event, DtlsEvent::Datagram { .. }))
    );
    let new = world.ready(0, address(3));
    assert_eq!(
        world.events[world.events.len() - 2],
        ended(old, SessionEnd::Replaced)
    );
    assert_eq!(
        world.table.send(world.now, old, b""),
        Err(DtlsSendError::Gone)
    );
    let is_told = world.clients[&address(1)].is_closed;
    assert!(!is_told, "somebody else may be there by now");
    assert_eq!(world.table.address(new), Some(address(3)));
    assert_eq!(world.table.address(other), Some(address(2)));
    assert_eq!(world.table.stats(), stats(2, 0));
}

#[test]
fn another_device_at_a_known_address_takes_the_address_over() {
    let mut world = world();
    let first = world.ready(0, address(1));
    let second = world.ready(1, address(1));
    assert!(world.events.contains(&ended(first, SessionEnd::Replaced)));
    assert_eq!(world.table.stats(), stats(1, 0));
    world.say(address(1), b"hello");
    assert_eq!(world.heard(), Some((second, &b"hello"[..])));
}

#[test]
fn a_session_serves_until_the_next_one_at_its_address_is_proved() {
    let mut world = world();
    let at = address(1);
    let session = world.ready(0, at);
    let (_, second) = hello(&mut world, 0, at);
    world.table.receive(world.now, at, &second);
    assert_eq!(world.table.stats(), stats(1, 1));
    while world.table.poll_transmit().is_some() {}
    world.say(at, b"still here");
    assert_eq!(world.heard(), Some((session, &b"still here"[..])));
    // The same device, restarted.
    let new = world.ready(0, at);
    assert_ne!(new, session);
    assert!(world.events.contains(&ended(session, SessionEnd::Replaced)));
    assert_eq!(world.table.stats(), stats(1, 0));
}

#[test]
fn an_impostor_ends_nobodys_session() {
    let mut world = world();
    let session = world.ready(0, address(1));
    world.connect(IMPOSTOR, address(2));
    world.connect(IMPOSTOR, address(1));
    assert_eq!(world.table.stats(), stats(1, 0));
    assert_eq!(world.table.address(session), Some(address(1)));
}

#[test]
fn the_session_that_was_silent_longest_makes_room() {
    let config = DtlsConfig {
        max_sessions: 2,
        ..DtlsConfig::default()
    };
    let mut world = World::new(config);
    let first = world.ready(0, address(1));
    let second = world.ready(1, address(2));
    world.say(address(1), b"not silent");
    world.ready(2, address(3));
    assert!(world.events.contains(&ended(second, SessionEnd::Evicted)));
    assert!(world.clients[&address(2)].is_closed, "it is told");
    assert!(world.table.device(first).is_some());
    assert_eq!(world.table.stats(), stats(2, 0));
}

#[test]
fn a_silent_device_loses_its_session_in_time_and_one_that_speaks_does_not() {
    let mut world = world();
    let silent = world.ready(0, address(1));
    let speaking = world.ready(1, address(2));
    world.pass(seconds(1800));
    world.say(address(2), b"here");
    world.pass(seconds(1801));
    assert_eq!(world.events.last(), Some(&ended(silent, SessionEnd::Idle)));
    assert!(world.clients[&address(1)].is_closed, "it is told");
    assert!(world.table.device(speaking).is_some());
    world.pass(seconds(1800));
    assert_eq!(
        world.events.last(),
        Some(&ended(speaking, SessionEnd::Idle))
    );
    assert_eq!(world.table.next_timeout(), None);
}

#[test]
fn closing_all_ends_every_session_once_and_tells_the_devices() {
    let mut world = world();
    let sessions = [world.ready(0, address(1)), world.ready(1, address(2))];
    world.table.close_all();
    let ends = std::iter::from_fn(|| world.table.poll_event()).collect::<Vec<_>>();
    world.carry(address(0), Vec::new());
    assert_eq!(
        ends,
        sessions.map(|session| ended(session, SessionEnd::Closed))
    );
    assert!(world.clients.values().all(|client| client.is_closed));
    assert_eq!(world.table.stats(), stats(0, 0));
}

#[test]
fn a_datagram_that_is_too_large_is_dropped() {
    let mut world = world();
    let session = world.ready(0, address(1));
    world.say(address(1), &[1; 2000]);
    world.say(address(1), b"small");
    assert_eq!(world.heard(), Some((session, &b"small"[..])));
    let messages = world
        .events
        .iter()
        .filter(|event| matches!(event, DtlsEvent::Datagram { .. }));
    assert_eq!(messages.count(), 1);
}

#[test]
fn a_forged_alert_ends_no_session() {
    let mut world = world();
    let session = world.ready(0, address(1));
    world.carry(address(1), vec![wire::alert(wire::Alert::DecryptError)]);
    assert!(world.table.device(session).is_some());
}
