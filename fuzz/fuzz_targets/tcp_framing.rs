//! Framing: however the bytes are cut, the frames are the same; none is above the limit; and what is
//! written as a frame is read as that frame.
//!
//! The input is a byte of which framing, a byte of how the bytes are cut, and the bytes.
#![no_main]

use bytes::{Bytes, BytesMut};
use gateway_downstream_tcp::proto::{Endian, FrameCodec, Framing};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 64;
/// Has a length count itself.
const INCLUDES_HEADER: u8 = 64;

fn frames(framing: &Framing, bytes: &[u8], piece: usize) -> Vec<Result<Bytes, ()>> {
    let mut codec = FrameCodec::new(framing.clone(), LIMIT);
    let (mut input, mut frames) = (BytesMut::new(), Vec::new());
    for part in bytes.chunks(piece.max(1)) {
        input.extend_from_slice(part);
        loop {
            let before = input.len();
            match codec.decode(&mut input) {
                Ok(Some(frame)) => {
                    assert!(frame.len() <= LIMIT);
                    frames.push(Ok(frame));
                }
                Ok(None) => break,
                Err(error) if error.is_fatal() => {
                    frames.push(Err(()));
                    return frames;
                }
                Err(_) => frames.push(Err(())),
            }
            assert!(input.len() <= before);
        }
    }
    frames
}

fuzz_target!(|input: &[u8]| {
    let [kind, piece, bytes @ ..] = input else {
        return;
    };
    let includes_header = kind & INCLUDES_HEADER != 0;
    let length = |bytes, endian| Framing::LengthPrefixed { bytes, endian, includes_header };
    let framing = match kind % 8 {
        0 => Framing::Line,
        1 => Framing::Delimiter { delimiter: vec![0] },
        2 => Framing::Delimiter { delimiter: b"\r\n\r\n".to_vec() },
        3 => length(1, Endian::Big),
        4 => length(2, Endian::Big),
        5 => length(2, Endian::Little),
        6 => length(4, Endian::Little),
        _ => Framing::Fixed { size: 7 },
    };
    let whole = frames(&framing, bytes, bytes.len());
    assert_eq!(whole, frames(&framing, bytes, (*piece).into()));
    let codec = FrameCodec::new(framing.clone(), LIMIT);
    // A carriage return would belong to the end of its line.
    let is_plain = |frame: &&Bytes| framing != Framing::Line || !frame.ends_with(b"\r");
    for frame in whole.iter().flatten().filter(is_plain) {
        let mut written = BytesMut::new();
        codec.encode(&mut written, |out| out.extend_from_slice(frame)).expect("it was a frame");
        assert_eq!(frames(&framing, &written, written.len()), [Ok(frame.clone())]);
    }
});
