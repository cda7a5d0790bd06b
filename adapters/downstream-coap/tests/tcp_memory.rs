//! What a connection costs. It is a program of its own: it counts all that is allocated.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::alloc::System;

use cap::Cap;
use gateway_downstream_coap::proto::message::{Code, Message};
use gateway_downstream_coap::{CoapConfig, TcpConfig};
use support::{Running, in_time};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const CONNECTIONS: usize = 200;
const LIMIT: usize = 12 * 1024;

#[tokio::test]
async fn a_connection_costs_no_more_than_12_kib() {
    let test = async {
        let mut config = CoapConfig::default();
        let mut tcp = TcpConfig::default();
        tcp.listen.set_port(0);
        config.tcp = Some(tcp);
        let running = Running::start(config, &["dev1"]).await;
        let mut clients = Vec::with_capacity(CONNECTIONS + 1);
        let mut before = 0;
        for number in 0..=CONNECTIONS {
            let mut client = running.stream_device("dev1").await;
            // What a large message took is given back.
            let large = Message::new(Code::POST).with_path("t");
            let large = large.with_payload(vec![b'x'; 30_000]);
            assert_eq!(client.say(large).await.code, Code::CHANGED);
            clients.push(client);
            if number == 0 {
                before = ALLOCATOR.allocated();
            }
        }
        // The bodies at the hub, and the devices' side, are counted with them.
        let bodies: usize = running
            .hub
            .accepted()
            .iter()
            .map(|one| one.body.len())
            .sum();
        let grown = ALLOCATOR.allocated() - before;
        let each = (grown - bodies * CONNECTIONS / (CONNECTIONS + 1)) / CONNECTIONS;
        println!("{each} bytes a connection");
        assert!(each <= LIMIT, "{each} bytes a connection");
        running.end().await;
    };
    in_time(test).await;
}
