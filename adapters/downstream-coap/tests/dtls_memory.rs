//! What a session costs. It is a program of its own: it counts all that is allocated.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::alloc::System;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cap::Cap;
use dimpl::crypto::{Dtls12CipherSuite, rust_crypto};
use dimpl::{Config, Dtls, Output, PskResolver};
use gateway_core::DeviceId;
use gateway_downstream_coap::dtls::{
    DtlsConfig, DtlsEvent, DtlsTable, PskEntry, PskKey, SessionId,
};
use gateway_downstream_coap::proto::Seed;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const SESSIONS: u16 = 200;
/// As the issue has it.
const LIMIT: usize = 16 * 1024;

struct OneKey;

impl PskResolver for OneKey {
    fn resolve(&self, _identity: &[u8]) -> Option<Vec<u8>> {
        Some(b"secret".to_vec())
    }
}

/// Connects a client, has a large message go both ways, and forgets the client.
fn serve_one(table: &mut DtlsTable, config: &Arc<Config>, at: SocketAddr) {
    let now = Duration::ZERO;
    let mut client = Dtls::new_12_psk(config.clone(), tokio::time::Instant::now().into_std());
    client.set_active(true);
    client
        .handle_timeout(tokio::time::Instant::now().into_std())
        .unwrap();
    let (mut buffer, mut ready, mut received) = (vec![0; 4096], None::<SessionId>, 0);
    while received == 0 {
        loop {
            match client.poll_output(&mut buffer) {
                Output::Packet(bytes) => table.receive(now, at, bytes),
                Output::ApplicationData(bytes) => received += bytes.len(),
                Output::Timeout(_) => break,
                _ => {}
            }
        }
        while let Some(event) = table.poll_event() {
            match event {
                DtlsEvent::Identify { session, identity } => {
                    let device = DeviceId::new(format!("{identity}-{}", at.port())).unwrap();
                    let key = PskKey::new("secret").unwrap();
                    table.identified(now, session, Some(PskEntry::new(device, key)));
                }
                DtlsEvent::Ready { session, .. } => ready = Some(session),
                DtlsEvent::Datagram { session, .. } => {
                    table.send(now, session, &[2; 1100]).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(transmit) = table.poll_transmit() {
            client.handle_packet(&transmit.bytes).unwrap();
        }
        if ready.take().is_some() {
            client.send_application_data(&[1; 1100]).unwrap();
        }
    }
    assert_eq!(received, 1100);
}

#[test]
fn a_session_costs_no_more_than_16_kib() {
    let config = Config::builder()
        .with_crypto_provider(rust_crypto::default_provider())
        .with_psk_client(b"device".to_vec(), Arc::new(OneKey))
        .dtls12_cipher_suites(&[Dtls12CipherSuite::PSK_AES128_CCM_8])
        .dtls13_cipher_suites(&[])
        .build();
    let config = Arc::new(config.unwrap());
    let mut table = DtlsTable::new(DtlsConfig::default(), Seed([1, 2])).unwrap();
    let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
    serve_one(&mut table, &config, at(1));
    let before = ALLOCATOR.allocated();
    for number in 0..SESSIONS {
        serve_one(&mut table, &config, at(2 + number));
    }
    let each = (ALLOCATOR.allocated() - before) / usize::from(SESSIONS);
    assert_eq!(table.stats().sessions, usize::from(SESSIONS) + 1);
    println!("{each} bytes a session");
    assert!(each <= LIMIT, "{each} bytes a session");
}
