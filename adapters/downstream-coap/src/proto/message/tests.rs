use proptest::prelude::*;

use super::*;

fn token() -> impl Strategy<Value = Token> {
    proptest::collection::vec(any::<u8>(), 0..=8).prop_map(|bytes| Token::new(&bytes).unwrap())
}

fn options() -> impl Strategy<Value = Options> {
    let number = prop_oneof![0..40_u16, 240..320_u16, any::<u16>()];
    let value = proptest::collection::vec(any::<u8>(), 0..300);
    proptest::collection::vec((number, value), 0..8).prop_map(|list| {
        let mut options = Options::new();
        list.into_iter()
            .for_each(|(number, value)| options.add(number, value));
        options
    })
}

pub(crate) fn messages() -> impl Strategy<Value = Message> {
    let code = (prop_oneof![Just(0_u8), Just(2), Just(4), Just(5)], 1..32_u8)
        .prop_map(|(class, detail)| Code::new(class, detail));
    let payload = proptest::collection::vec(any::<u8>(), 0..400);
    (code, token(), options(), payload).prop_map(|(code, token, options, payload)| Message {
        code,
        token,
        options,
        payload: payload.into(),
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in messages(), id: u16, confirmable: bool) {
        let kind = if confirmable { Kind::Confirmable } else { Kind::NonConfirmable };
        let payload = message.payload.len() + usize::from(!message.payload.is_empty());
        let head = 4 + message.token.as_bytes().len() + message.options.encoded_len();
        let datagram = Datagram { kind, id, message };
        prop_assert_eq!(datagram.encode().len(), head + payload);
        prop_assert_eq!(Datagram::decode(&datagram.encode()), Ok(datagram));
    }

    /// A message has one form only, so whatever is read is written the same.
    #[test]
    fn what_is_read_is_written_the_same(
        first in 0x40..0x80_u8, rest in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let bytes = [&[first][..], &rest].concat();
        if let Ok(datagram) = Datagram::decode(&bytes) {
            prop_assert_eq!(&datagram.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn a_number_takes_no_more_bytes_than_it_needs(value: u32) {
        let mut options = Options::new();
        options.set_uint(option::SIZE1, value);
        prop_assert_eq!(options.uint(option::SIZE1), Some(value));
        let bytes = options.get(option::SIZE1).unwrap();
        prop_assert_ne!(bytes.first(), Some(&0));
    }
}

#[test]
fn only_a_confirmable_message_that_makes_no_sense_is_reset() {
    let cases: [(&[u8], Fault); 15] = [
        (&[], Fault::Ignore),
        (&[0x40, 1, 0], Fault::Ignore),
        // Another version, whatever else it is.
        (&[0x80, 1, 0, 7], Fault::Ignore),
        (&[0x00, 1, 0, 7], Fault::Ignore),
        // Tokens of 9 bytes and more are reserved, and may not end before they begin.
        (&[0x49, 1, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 9], Fault::Reset(7)),
        (&[0x59, 1, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 9], Fault::Ignore),
        (&[0x44, 1, 0, 7, 1, 2], Fault::Reset(7)),
        // A marker without a payload.
        (&[0x40, 1, 0, 7, 0xff], Fault::Reset(7)),
        // An option of a reserved form, and one that ends before it begins.
        (&[0x40, 1, 0, 7, 0xf0], Fault::Reset(7)),
        (&[0x40, 1, 0, 7, 0xb4, b't'], Fault::Reset(7)),
        // A number above what there is.
        (&[0x40, 1, 0, 7, 0xe0, 0xff, 0xff], Fault::Reset(7)),
        // An empty message that is not empty.
        (&[0x40, 0, 0, 7, 0xff, 1], Fault::Reset(7)),
        (&[0x50, 0, 0, 7], Fault::Ignore),
        // A reserved class, and a signal of streams.
        (&[0x40, 0x20, 0, 7], Fault::Reset(7)),
        (&[0x40, 0xe1, 0, 7], Fault::Reset(7)),
    ];
    for (bytes, fault) in cases {
        assert_eq!(Datagram::decode(bytes), Err(fault), "{bytes:02x?}");
    }
    // An acknowledgement brings no request, a reset nothing.
    assert_eq!(Datagram::decode(&[0x60, 1, 0, 7]), Err(Fault::Ignore));
    assert_eq!(Datagram::decode(&[0x70, 0x45, 0, 7]), Err(Fault::Ignore));
}

#[test]
fn a_message_of_nothing_but_options_is_refused() {
    let many = |count: usize, rest: &[u8]| {
        let mut bytes = vec![0x40, 1, 0, 7];
        bytes.resize(4 + count, 0);
        Datagram::decode(&[&bytes, rest].concat())
    };
    // With a payload behind them as without.
    for rest in [&[][..], &[0xff, 1]] {
        assert!(many(64, rest).is_ok());
        assert_eq!(many(65, rest), Err(Fault::Reset(7)));
    }
}

#[test]
fn an_option_that_must_be_understood_stops_everything_and_others_are_passed_over() {
    let sieve = |options: &[(u16, &[u8])]| {
        let mut message = Message::new(Code::GET);
        for (number, value) in options {
            message.options.add(*number, value.to_vec());
        }
        let sieved = message.options.sieve();
        sieved.map(|()| {
            message
                .options
                .iter()
                .map(|(number, _)| number)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        sieve(&[(11, b"t"), (11, b"u"), (15, b"a=1")]),
        Ok(vec![11, 11, 15])
    );
    // Unknown: conditions are, too.
    assert_eq!(sieve(&[(65_001, b"")]), Err(65_001));
    assert_eq!(sieve(&[(1, b"x")]), Err(1));
    assert_eq!(sieve(&[(65_000, b""), (2, b"")]), Ok(vec![]));
    // Too long, and twice where once is meant.
    assert_eq!(sieve(&[(17, b"abc")]), Err(17));
    assert_eq!(sieve(&[(12, b"abc")]), Ok(vec![]));
    assert_eq!(sieve(&[(17, b"a"), (17, b"a")]), Err(17));
    assert_eq!(sieve(&[(12, b"a"), (12, b"b")]), Ok(vec![12]));
}

#[test]
fn a_path_keeps_its_empty_segments() {
    let message = Message::new(Code::PUT).with_path("/t//dev-1");
    assert_eq!(message.path(), Some(vec!["t", "", "dev-1"]));
    assert_eq!(Message::new(Code::GET).with_path("/").path(), Some(vec![]));
    let no_text = Message::new(Code::GET).with_option(option::URI_PATH, vec![0xff]);
    assert_eq!(no_text.path(), None);
}

#[test]
fn codes_read_as_the_standard_writes_them() {
    assert_eq!(Code::CONTENT.to_string(), "2.05");
    assert_eq!(Code::TOO_MANY_REQUESTS.to_string(), "4.29");
    assert_eq!(Code::UNAVAILABLE.byte(), 0xa3);
}
