//! CoAP messages: what is read from a datagram or a stream is written the same, since a message has
//! one form only, and however a stream is cut its messages are the same.
#![no_main]

use bytes::BytesMut;
use gateway_downstream_coap::proto::message::{Datagram, Fault};
use gateway_downstream_coap::proto::tcp::{FrameReader, write_frame};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 2048;

fn frames(bytes: &[u8], piece: usize) -> (BytesMut, bool) {
    let (reader, mut input, mut written) = (FrameReader::new(LIMIT), BytesMut::new(), BytesMut::new());
    for part in bytes.chunks(piece.max(1)) {
        input.extend_from_slice(part);
        loop {
            let before = input.clone();
            match reader.read(&mut input) {
                Ok(Some(message)) => {
                    let consumed = before.len() - input.len();
                    assert!(consumed <= LIMIT);
                    let start = written.len();
                    write_frame(&message, &mut written);
                    // An empty message says nothing, so what is in it is not kept.
                    if message.code.byte() != 0 {
                        assert_eq!(written[start..], before[..consumed]);
                    }
                }
                Ok(None) => break,
                Err(_) => return (written, true),
            }
        }
    }
    (written, false)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    match Datagram::decode(bytes) {
        Ok(mut datagram) => {
            assert_eq!(datagram.encode(), bytes);
            let before = datagram.message.options.iter().len();
            let sieved = datagram.message.options.sieve();
            assert!(datagram.message.options.iter().len() <= before);
            assert!(sieved.is_ok() || datagram.message.options.iter().len() < before);
            std::hint::black_box((datagram.message.path(), datagram.message.query()));
        }
        Err(Fault::Reset(id)) => assert_eq!(bytes[2..4], id.to_be_bytes()),
        Err(Fault::Ignore) => {}
    }
    assert_eq!(frames(bytes, bytes.len()), frames(bytes, piece.into()));
});
