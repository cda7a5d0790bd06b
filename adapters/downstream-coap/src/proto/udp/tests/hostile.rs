//! Datagrams of somebody who means no good.

use proptest::prelude::*;

use super::*;
use crate::proto::config::EchoPolicy;
use crate::proto::message::tests::messages;
use crate::proto::message::{Code, option};

/// Datagrams that are nearly right: those reach furthest.
fn datagrams() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        Just(Kind::Confirmable),
        Just(Kind::NonConfirmable),
        Just(Kind::Acknowledgement),
        Just(Kind::Reset),
    ];
    let block = (any::<bool>(), any::<u8>(), 0..3_u8);
    let known = (kind, 0..8_u16, messages(), block, 0..3_u32);
    let written = known.prop_map(
        |(kind, id, mut message, (is_first, value, count), observe)| {
            if count > 0 {
                // Options that are known, so that the sieve lets it through.
                message.options = crate::proto::message::Options::new();
                let number = if is_first {
                    option::BLOCK1
                } else {
                    option::BLOCK2
                };
                message.options.set_uint(number, value.into());
                message.options.set_uint(option::OBSERVE, observe);
                message.code = if count == 1 { Code::GET } else { Code::POST };
            }
            Datagram { kind, id, message }.encode().to_vec()
        },
    );
    let written = written.boxed();
    let flipped = (written.clone(), any::<prop::sample::Index>(), any::<u8>());
    let flipped = flipped.prop_map(|(mut bytes, at, mask)| {
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        bytes
    });
    let random = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![4 => written, 4 => flipped, 1 => random]
}

proptest! {
    /// Nobody who has not shown where it is gets more than three times what came from there, a peer
    /// is told nothing that another asked for, and in the end nothing is left.
    #[test]
    fn whatever_comes_no_more_goes_out_than_may_and_nothing_stays(
        sent in proptest::collection::vec((0..3_u8, datagrams(), 0..30_000_u64), 0..60),
        answer in 0..3000_usize, is_always: bool, is_asking: bool,
    ) {
        let mut config = EndpointConfig::default();
        config.limits.max_block_bytes = 4096;
        if is_always {
            config.echo = EchoPolicy::Always;
        }
        let mut bench = Bench::new(config);
        // Room for what is sent, by peer. A call is our own wish.
        let mut room = [0_usize; 3];
        for (peer, bytes, wait) in sent {
            if is_asking {
                let request = Message::new(Code::GET).with_path("x");
                if bench.endpoint.request(bench.now, peer, request, true).is_ok() {
                    // It is sent five times at most.
                    room[usize::from(peer)] += 5 * 20;
                }
            }
            room[usize::from(peer)] += 3 * bytes.len();
            bench.endpoint.receive(bench.now, peer, false, &bytes);
            for event in bench.told() {
                if let Event::Request(incoming) = event {
                    let response = Message::new(Code::CONTENT).with_payload(vec![0; answer]);
                    // It may be answered already, by nobody but this test.
                    prop_assert!(bench.endpoint.respond(bench.now, incoming.exchange, response).is_ok());
                }
            }
            bench.pass(millis(wait));
            while let Some(transmit) = bench.endpoint.poll_transmit() {
                let room = &mut room[usize::from(transmit.peer)];
                // An acknowledged message of ours shows that the peer has received it.
                let left = room.checked_sub(transmit.bytes.len());
                prop_assert!(left.is_some(), "{} bytes too many", transmit.bytes.len() - *room);
                *room = left.unwrap();
                let kind = Datagram::decode(&transmit.bytes).unwrap().kind;
                if kind == Kind::Confirmable {
                    *room += 3 * transmit.bytes.len();
                }
            }
            prop_assert!(bench.endpoint.stats().block_bytes <= 4096);
        }
        bench.told();
        bench.assert_nothing_stays();
    }
}
