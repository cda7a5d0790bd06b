use proptest::prelude::*;
use tokio_util::codec::{Decoder as _, LinesCodec};

use super::*;

const MAX: usize = 64;

fn prefixed(bytes: u8, endian: Endian, includes_header: bool) -> Framing {
    Framing::LengthPrefixed {
        bytes,
        endian,
        includes_header,
    }
}

fn any_framing() -> impl Strategy<Value = Framing> {
    let lengths = (
        prop_oneof![Just(1_u8), Just(2), Just(4)],
        any::<bool>(),
        any::<bool>(),
    );
    prop_oneof![
        Just(Framing::Line),
        prop::collection::vec(b'a'..=b'c', 1..=3)
            .prop_map(|delimiter| Framing::Delimiter { delimiter }),
        lengths.prop_map(|(bytes, is_big, includes_header)| {
            prefixed(
                bytes,
                if is_big { Endian::Big } else { Endian::Little },
                includes_header,
            )
        }),
        (1_usize..=MAX).prop_map(|size| Framing::Fixed { size }),
    ]
}

/// Bytes in which lines, delimiters and short lengths are frequent.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        b'a'..=b'c',
        Just(0),
        Just(b'\n'),
        Just(b'\r'),
        0_u8..8,
        any::<u8>()
    ];
    prop::collection::vec(byte, 0..400)
}

/// Feeds pieces of these sizes, and gives every frame and error up to a fatal one.
fn decode_all(framing: &Framing, bytes: &[u8], pieces: &[usize]) -> Vec<Result<Bytes, FrameError>> {
    let mut codec = FrameCodec::new(framing.clone(), MAX);
    let (mut input, mut rest, mut pieces) = (BytesMut::new(), bytes, pieces.iter().cycle());
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
        rest = later;
        input.extend_from_slice(piece);
        loop {
            let before = input.len();
            match codec.decode(&mut input) {
                Ok(Some(frame)) => {
                    assert!(frame.len() <= MAX && input.len() + frame.len() <= before);
                    seen.push(Ok(frame));
                }
                Ok(None) => break,
                Err(error) => {
                    seen.push(Err(error));
                    if error.is_fatal() {
                        return seen;
                    }
                }
            }
        }
        assert!(input.len() <= MAX + 16, "{} bytes are kept", input.len());
    }
    seen
}

proptest! {
    #[test]
    fn frames_are_the_same_however_bytes_arrive(
        framing in any_framing(),
        bytes in any_bytes(),
        pieces in prop::collection::vec(1_usize..50, 1..10),
    ) {
        let whole = decode_all(&framing, &bytes, &[usize::MAX]);
        prop_assert_eq!(&decode_all(&framing, &bytes, &[1]), &whole);
        prop_assert_eq!(&decode_all(&framing, &bytes, &pieces), &whole);
    }

    #[test]
    fn what_was_encoded_is_decoded(
        framing in any_framing(),
        contents in prop::collection::vec(prop::collection::vec(b'd'..=b'z', 0..=MAX), 0..10),
    ) {
        let codec = FrameCodec::new(framing.clone(), MAX);
        let (mut output, mut sent) = (BytesMut::new(), Vec::new());
        for content in contents {
            let before = output.len();
            match codec.encode(&mut output, |output| output.extend_from_slice(&content)) {
                Ok(()) => sent.push(Ok(Bytes::from(content))),
                Err(_) => prop_assert_eq!(output.len(), before),
            }
        }
        prop_assert_eq!(decode_all(&framing, &output, &[7]), sent);
    }

    #[test]
    fn lines_are_what_tokio_takes_for_lines(text in "[a-c\r\n]{0,60}") {
        let (mut codec, mut input) = (LinesCodec::new(), BytesMut::from(text.as_str()));
        let mut lines = Vec::new();
        while let Some(line) = codec.decode(&mut input).unwrap() {
            lines.push(Ok(Bytes::from(line)));
        }
        prop_assert_eq!(decode_all(&Framing::Line, text.as_bytes(), &[3]), lines);
    }
}

fn ok(text: &'static str) -> Result<Bytes, FrameError> {
    Ok(Bytes::from_static(text.as_bytes()))
}

#[test]
fn a_frame_above_the_limit_behind_a_delimiter_is_skipped() {
    let long = "x".repeat(MAX + 1);
    let fits = "y".repeat(MAX);
    let text = format!("a\n{long}\n{fits}\nb\n");
    for piece in [1, 5, 1000] {
        let seen = decode_all(&Framing::Line, text.as_bytes(), &[piece]);
        let fits = Ok(Bytes::from(fits.clone()));
        assert_eq!(
            seen,
            [ok("a"), Err(FrameError::skipped(TOO_LONG)), fits, ok("b")]
        );
    }
}

#[test]
fn a_length_above_the_limit_is_fatal_before_the_frame_came() {
    let seen = decode_all(&prefixed(4, Endian::Big, false), &[0, 0, 0, 65], &[4]);
    assert_eq!(seen, [Err(FrameError::fatal(TOO_LONG))]);
    let seen = decode_all(&prefixed(2, Endian::Little, true), &[1, 0, 0], &[3]);
    assert_eq!(seen, [Err(FrameError::fatal("bad_frame_length"))]);
}

#[test]
fn lengths_are_written_as_configured() {
    let encode = |framing| {
        let mut output = BytesMut::new();
        FrameCodec::new(framing, MAX)
            .encode(&mut output, |output| output.put_slice(b"hi"))
            .unwrap();
        output.to_vec()
    };
    assert_eq!(encode(prefixed(1, Endian::Big, false)), [2, b'h', b'i']);
    assert_eq!(
        encode(prefixed(2, Endian::Little, true)),
        [4, 0, b'h', b'i']
    );
    assert_eq!(
        encode(prefixed(4, Endian::Big, true)),
        [0, 0, 0, 6, b'h', b'i']
    );
    assert_eq!(
        encode(Framing::Delimiter {
            delimiter: b"\r\n".to_vec()
        }),
        b"hi\r\n"
    );
}

#[test]
fn a_length_may_say_all_that_it_can() {
    for (framing, content) in [
        (prefixed(1, Endian::Big, true), 254),
        (prefixed(1, Endian::Little, false), 255),
        (prefixed(2, Endian::Little, true), 65_533),
        (prefixed(2, Endian::Big, false), 65_535),
    ] {
        let mut codec = FrameCodec::new(framing, 65_536);
        let mut output = BytesMut::new();
        let written = codec.encode(&mut output, |output| output.put_bytes(b'x', content));
        written.unwrap();
        let frame = codec.decode(&mut output).unwrap().unwrap();
        assert_eq!((frame.len(), output.len()), (content, 0));
        let more = codec.encode(&mut output, |output| output.put_bytes(b'x', content + 1));
        assert!(more.is_err());
    }
}

#[test]
fn content_longer_than_its_length_can_say_is_refused() {
    let codec = FrameCodec::new(prefixed(1, Endian::Big, true), MAX);
    let mut output = BytesMut::from("before");
    assert!(
        codec
            .encode(&mut output, |output| output.put_bytes(b'x', 255))
            .is_err()
    );
    assert_eq!(output, "before");
    codec
        .encode(&mut output, |output| output.put_bytes(b'x', 254))
        .unwrap();
}
