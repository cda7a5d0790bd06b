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

#[test]
fn a_hundred_thousand_half_open_handshakes_take_the_memory_of_those_that_may_be_open() {
    let config = DtlsConfig::default();
    let most = config.max_handshakes;
    let mut table = DtlsTable::new(config, Seed([1, 2])).unwrap();
    let before = ALLOCATOR.allocated();
    for number in 0..CLIENTS {
        let now = Duration::from_micros(u64::from(number) * 100);
        let [_, a, b, c] = number.to_be_bytes();
        let from = SocketAddr::from(([10, a, b, c], 5684));
        table.receive(now, from, &hello(number, &[]));
        let request = table.poll_transmit().unwrap();
        table.receive(now, from, &hello(number, cookie_of(&request.bytes)));
        assert!(table.poll_transmit().is_some(), "the handshake goes on");
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
