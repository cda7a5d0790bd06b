//! What handshakes cost that nobody finishes. It is a program of its own: it counts all that is
//! allocated.

#[path = "support/hello.rs"]
mod hello;

use std::alloc::System;
use std::net::SocketAddr;
use std::time::Duration;

use cap::Cap;
use gateway_downstream_coap::dtls::{DtlsConfig, DtlsTable};
use gateway_downstream_coap::proto::Seed;
use hello::{cookie_of, hello};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const CLIENTS: u32 = 100_000;
/// As for a session.
const LIMIT: usize = 16 * 1024;
/// What comes behind each hello, of each sort.
const DATAGRAMS: u32 = 29;
const CLIENT_HELLO: u8 = 1;
const FINISHED: u8 = 20;

/// A datagram of so many records, each with a part of a handshake message whose turn is later.
fn later_parts(kind: u8, message_seq: u8, offset: u32, records: u32) -> Vec<u8> {
    let three = |number: u32| number.to_be_bytes()[1..].to_vec();
    let body = vec![7; 1300 / records as usize];
    let length = body.len() as u32;
    let record = |number: u32| {
        let part = [
            vec![kind],
            three(16_000),
            vec![0, message_seq],
            three(offset + number),
            three(length),
            body.clone(),
        ]
        .concat();
        let sequence = (offset + number).to_be_bytes();
        let size = (part.len() as u16).to_be_bytes();
        let head = [&[22, 0xfe, 0xfd, 0, 0, 0, 0][..], &sequence, &size].concat();
        [head, part].concat()
    };
    (0..records).flat_map(record).collect()
}

/// One datagram of each sort.
fn later(number: u32) -> [Vec<u8>; 3] {
    let (offset, message_seq) = (number * 100, 2 + number as u8);
    [
        later_parts(CLIENT_HELLO, message_seq, offset, 8),
        later_parts(FINISHED, message_seq, offset, 8),
        // What a client may say now, as far as can be seen from outside.
        later_parts(FINISHED, 2, offset, 3),
    ]
}

#[test]
fn a_hundred_thousand_half_open_handshakes_take_the_memory_of_those_that_may_be_open() {
    let config = DtlsConfig::default();
    let most = config.max_handshakes;
    let mut table = DtlsTable::new(config, Seed([1, 2])).unwrap();
    let behind: Vec<_> = (1..=DATAGRAMS).flat_map(later).collect();
    let before = ALLOCATOR.allocated();
    for number in 0..CLIENTS {
        let now = Duration::from_micros(u64::from(number) * 100);
        let [_, a, b, c] = number.to_be_bytes();
        let from = SocketAddr::from(([10, a, b, c], 5684));
        table.receive(now, from, &hello(number, &[]));
        let request = table.poll_transmit().unwrap();
        table.receive(now, from, &hello(number, cookie_of(&request.bytes)));
        assert!(table.poll_transmit().is_some(), "the handshake goes on");
        // The others make room for those that come last.
        if number + most as u32 >= CLIENTS {
            for datagram in &behind {
                table.receive(now, from, datagram);
            }
        }
        while table.poll_transmit().is_some() {}
        while table.poll_event().is_some() {}
        assert!(table.stats().handshakes <= most);
    }
    let each = (ALLOCATOR.allocated() - before) / most;
    println!("{each} bytes a handshake");
    assert_eq!(table.stats().handshakes, most);
    assert!(each <= LIMIT, "{each} bytes a handshake");
    table.on_timeout(Duration::from_secs(3600));
    assert_eq!(table.stats().handshakes, 0);
    assert_eq!(table.next_timeout(), None);
}
