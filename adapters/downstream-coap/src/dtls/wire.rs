//! The few bytes of DTLS 1.2 (RFC 6347) that are read and written before and beside the engine.

/// Bytes of a HelloVerifyRequest; no source gets one that has not sent as many.
pub(super) const VERIFY_REQUEST_LENGTH: usize = 60;
/// Bytes of a cookie, as the engine wants them.
pub(super) const COOKIE_LENGTH: usize = 32;
/// Records of the flight that ends a handshake: the key exchange, the change of ciphers, the proof.
const MAX_RECORDS: usize = 3;
/// Bytes of an identity that every side must be able to send (RFC 4279, section 5.3).
pub(super) const MAX_IDENTITY: usize = 128;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
const CLIENT_KEY_EXCHANGE: u8 = 16;
const DTLS_1_0: [u8; 2] = [0xfe, 0xff];
const DTLS_1_2: [u8; 2] = [0xfe, 0xfd];
const PSK_WITH_AES_128_CCM_8: [u8; 2] = [0xc0, 0xa8];

/// Alerts that end a handshake (RFC 5246, section 7.2).
#[derive(Debug, Clone, Copy)]
pub(super) enum Alert {
    HandshakeFailure = 40,
    /// For a wrong key and an unknown identity alike, so that nobody can ask which there are.
    DecryptError = 51,
}

/// Says by its first record where a datagram belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It may begin a handshake.
    Hello(Hello),
    /// It goes on with a handshake.
    Handshake,
    /// It is protected, and no part of a handshake.
    Protected,
}

/// Is what a ClientHello has up to its cookie.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) message_seq: u16,
    pub(super) random: [u8; 32],
    pub(super) cookie: Option<[u8; COOKIE_LENGTH]>,
}

struct Record<'a> {
    kind: u8,
    epoch: u16,
    sequence: u64,
    body: &'a [u8],
}

struct Fragment<'a> {
    kind: u8,
    /// Bytes of the whole message.
    length: usize,
    message_seq: u16,
    offset: usize,
    body: &'a [u8],
}

/// Splits a number of so many bytes off.
fn number<const N: usize>(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(head.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(head)
}

fn record<'a>(bytes: &mut &'a [u8]) -> Option<Record<'a>> {
    let kind = number::<1>(bytes)? as u8;
    let version = take(bytes, 2)?;
    if version != DTLS_1_0 && version != DTLS_1_2 {
        return None;
    }
    let epoch = number::<2>(bytes)? as u16;
    let sequence = number::<6>(bytes)?;
    let length = number::<2>(bytes)? as usize;
    Some(Record {
        kind,
        epoch,
        sequence,
        body: take(bytes, length)?,
    })
}

fn fragment<'a>(bytes: &mut &'a [u8]) -> Option<Fragment<'a>> {
    let kind = number::<1>(bytes)? as u8;
    let length = number::<3>(bytes)? as usize;
    let message_seq = number::<2>(bytes)? as u16;
    let offset = number::<3>(bytes)? as usize;
    let part = number::<3>(bytes)? as usize;
    Some(Fragment {
        kind,
        length,
        message_seq,
        offset,
        body: take(bytes, part)?,
    })
}

/// Says where a datagram belongs; `None` if it is no DTLS.
pub(super) fn classify(mut datagram: &[u8]) -> Option<Arrival> {
    let first = record(&mut datagram)?;
    match (first.kind, first.epoch) {
        (HANDSHAKE, 0) => {
            let mut body = first.body;
            let fragment = fragment(&mut body)?;
            if fragment.kind != CLIENT_HELLO {
                return Some(Arrival::Handshake);
            }
            // Whole and alone: with parts of it, or with what it brings along, the engine would have
            // to wait for the rest before anybody has proved anything.
            let is_whole = fragment.offset == 0 && fragment.body.len() == fragment.length;
            let is_alone = body.is_empty() && datagram.is_empty();
            (is_whole && is_alone)
                .then(|| hello(fragment.message_seq, fragment.body))?
                .map(Arrival::Hello)
        }
        (ALERT | APPLICATION_DATA, 1..) => Some(Arrival::Protected),
        (20..=HANDSHAKE, _) => Some(Arrival::Handshake),
        _ => None,
    }
}

fn hello(message_seq: u16, mut body: &[u8]) -> Option<Hello> {
    take(&mut body, 2)?;
    let random = take(&mut body, 32)?.try_into().ok()?;
    let session_id = number::<1>(&mut body)? as usize;
    take(&mut body, session_id)?;
    let cookie = number::<1>(&mut body)? as usize;
    Some(Hello {
        message_seq,
        random,
        cookie: take(&mut body, cookie)?.try_into().ok(),
    })
}

/// Tells whether a datagram can be of the flight that ends a handshake: a few records, and nothing
/// in plaintext but the message of this number. The engine keeps whatever else may have its turn
/// later, each record in 5 KiB.
pub(super) fn ends_handshake(mut datagram: &[u8], message_seq: u16) -> bool {
    let mut records = 0;
    while let Some(record) = record(&mut datagram) {
        records += 1;
        let mut body = match (record.kind, record.epoch) {
            (HANDSHAKE, 0) => record.body,
            _ => &[],
        };
        while !body.is_empty() {
            if fragment(&mut body).is_none_or(|part| part.message_seq != message_seq) {
                return false;
            }
        }
    }
    datagram.is_empty() && records <= MAX_RECORDS
}

/// Where a datagram stands in its sender's order.
pub(super) fn order(mut datagram: &[u8]) -> (u16, u64) {
    record(&mut datagram).map_or((u16::MAX, 0), |first| (first.epoch, first.sequence))
}

/// Puts the identity together that a client names in its ClientKeyExchange.
///
/// The engine asks for a key when it is to have it at once; who looks first has the time to ask a
/// registry.
#[derive(Debug, Default)]
pub(super) struct IdentityReader {
    bytes: Vec<u8>,
}

/// Says that a client names an identity that is too long or no UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadIdentity;

impl IdentityReader {
    /// Takes a datagram; `Some` if the identity is whole then. Fragments have to come in order: else
    /// the client's retransmission brings what is missing.
    pub(super) fn read(&mut self, mut datagram: &[u8]) -> Option<Result<String, BadIdentity>> {
        while let Some(record) = record(&mut datagram) {
            if record.kind != HANDSHAKE || record.epoch != 0 {
                continue;
            }
            let mut body = record.body;
            while let Some(fragment) = fragment(&mut body) {
                if fragment.kind != CLIENT_KEY_EXCHANGE {
                    continue;
                }
                if fragment.length > 2 + MAX_IDENTITY {
                    return Some(Err(BadIdentity));
                }
                let missing = self.bytes.len().checked_sub(fragment.offset);
                let missing = missing.and_then(|known| fragment.body.get(known..));
                self.bytes.extend_from_slice(missing.unwrap_or_default());
                if self.bytes.len() >= fragment.length {
                    return Some(self.identity());
                }
            }
        }
        None
    }

    fn identity(&self) -> Result<String, BadIdentity> {
        let mut bytes = &self.bytes[..];
        let length = number::<2>(&mut bytes).ok_or(BadIdentity)? as usize;
        match str::from_utf8(bytes) {
            Ok(identity) if bytes.len() == length => Ok(identity.to_owned()),
            _ => Err(BadIdentity),
        }
    }
}

/// Writes one plaintext record.
fn plaintext(kind: u8, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(DTLS_1_2);
    // The epoch is the two bytes above the sequence number.
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Writes one handshake message, whole in one record.
fn handshake(kind: u8, sequence: u64, message_seq: u16, body: &[u8]) -> Vec<u8> {
    let length = &(body.len() as u32).to_be_bytes()[1..];
    let seq = &message_seq.to_be_bytes()[..];
    let message = [&[kind], length, seq, &[0; 3], length, body].concat();
    plaintext(HANDSHAKE, sequence, &message)
}

/// Asks a client to show, with the cookie, that it receives at its address.
///
/// The record has the number of the hello's message, not of its record as RFC 6347, section 4.2.1
/// has it: so the server's records go on from there without a number used twice, and nothing is
/// remembered for it.
pub(super) fn verify_request(message_seq: u16, cookie: &[u8; COOKIE_LENGTH]) -> Vec<u8> {
    let body = [&DTLS_1_0[..], &[COOKIE_LENGTH as u8], cookie].concat();
    handshake(HELLO_VERIFY_REQUEST, message_seq.into(), message_seq, &body)
}

/// The least hello without a cookie that the engine answers with a request for one.
pub(super) fn bare_hello(message_seq: u16) -> Vec<u8> {
    let [no_session, no_cookie] = [&[0][..], &[0]];
    let suites = [&[0, 2][..], &PSK_WITH_AES_128_CCM_8].concat();
    let body = [
        &DTLS_1_2[..],
        &[0; 32],
        no_session,
        no_cookie,
        &suites,
        &[1, 0],
    ]
    .concat();
    handshake(CLIENT_HELLO, message_seq.into(), message_seq, &body)
}

/// Tells a client that its handshake has failed. The number is beyond all that the engine uses.
pub(super) fn alert(alert: Alert) -> Vec<u8> {
    plaintext(ALERT, u64::from(u16::MAX), &[2, alert as u8])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientKeyExchange with this identity, cut into fragments.
    fn key_exchange(identity: &[u8], part: usize) -> Vec<Vec<u8>> {
        let body = [&(identity.len() as u16).to_be_bytes()[..], identity].concat();
        let cut = |(number, part_body): (usize, &[u8])| {
            let three = |value: usize| (value as u32).to_be_bytes()[1..].to_vec();
            let message = [
                vec![CLIENT_KEY_EXCHANGE],
                three(body.len()),
                vec![0, 2],
                three(number * part),
                three(part_body.len()),
                part_body.to_vec(),
            ];
            plaintext(HANDSHAKE, 2 + number as u64, &message.concat())
        };
        body.chunks(part).enumerate().map(cut).collect()
    }

    #[test]
    fn a_request_for_the_cookie_is_no_longer_than_said_and_than_any_hello() {
        let request = verify_request(0, &[7; COOKIE_LENGTH]);
        assert_eq!(request.len(), VERIFY_REQUEST_LENGTH);
        assert!(bare_hello(0).len() >= VERIFY_REQUEST_LENGTH);
    }

    #[test]
    fn a_hello_is_told_from_the_rest() {
        let hello = |message_seq| Hello {
            message_seq,
            random: [0; 32],
            cookie: None,
        };
        assert_eq!(classify(&bare_hello(1)), Some(Arrival::Hello(hello(1))));
        let protected = |kind| [&[kind][..], &DTLS_1_2, &[0, 1], &[0; 6], &[0, 1, 9]].concat();
        assert_eq!(classify(&protected(23)), Some(Arrival::Protected));
        assert_eq!(classify(&protected(22)), Some(Arrival::Handshake));
        assert_eq!(classify(&protected(25)), None);
        assert_eq!(classify(b"GET / HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn a_hello_in_parts_or_with_something_behind_it_is_dropped() {
        let whole = bare_hello(1);
        let behind = [&whole[..], &bare_hello(2)].concat();
        assert_eq!(classify(&behind), None);
        let mut part = whole.clone();
        // The message is said to be longer than what is here of it.
        part[13 + 3] += 1;
        assert_eq!(classify(&part), None);
        let mut rest = whole;
        // It begins behind the first byte.
        rest[13 + 8] = 1;
        assert_eq!(classify(&rest), None);
    }

    #[test]
    fn only_the_message_whose_turn_it_is_ends_a_handshake_and_not_in_many_records() {
        let exchange = key_exchange(b"device", 999).remove(0);
        assert!(ends_handshake(&exchange, 2));
        assert!(!ends_handshake(&exchange, 1));
        assert!(ends_handshake(&exchange.repeat(MAX_RECORDS), 2));
        assert!(!ends_handshake(&exchange.repeat(MAX_RECORDS + 1), 2));
        let later = [&exchange[..], &bare_hello(3)].concat();
        assert!(!ends_handshake(&later, 2));
        let protected = [&[22][..], &DTLS_1_2, &[0, 1], &[0; 6], &[0, 1, 9]].concat();
        assert!(ends_handshake(&[exchange, protected].concat(), 2));
    }

    #[test]
    fn an_identity_that_is_too_long_or_no_text_is_bad() {
        let read =
            |identity: &[u8]| IdentityReader::default().read(&key_exchange(identity, 999)[0]);
        assert_eq!(read(&[b'a'; MAX_IDENTITY + 1]), Some(Err(BadIdentity)));
        assert_eq!(read(b"\xff"), Some(Err(BadIdentity)));
        assert_eq!(
            read(&[b'a'; MAX_IDENTITY]),
            Some(Ok("a".repeat(MAX_IDENTITY)))
        );
    }

    proptest! {
        #[test]
        fn an_identity_is_read_from_fragments_of_any_size_some_of_them_twice(
            identity in "[a-z]{0,128}", part in 1..140_usize, twice: bool,
        ) {
            let fragments = key_exchange(identity.as_bytes(), part);
            let mut reader = IdentityReader::default();
            let mut found = None;
            for fragment in &fragments {
                prop_assert_eq!(&found, &None);
                found = reader.read(fragment);
                if twice && found.is_none() {
                    prop_assert_eq!(reader.read(fragment), None);
                }
            }
            prop_assert_eq!(found, Some(Ok(identity)));
        }

        #[test]
        fn any_bytes_are_classified_and_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = classify(&bytes);
            let mut reader = IdentityReader::default();
            let _ = reader.read(&[&plaintext(HANDSHAKE, 0, &bytes)[..], &bytes].concat());
            prop_assert!(reader.bytes.len() <= 2 + MAX_IDENTITY + bytes.len());
        }
    }
}
