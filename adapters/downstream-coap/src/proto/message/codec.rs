//! Messages as bytes. `coap-lite` reads and writes them; here is what it lets pass.

use bytes::Bytes;
use coap_lite::{CoapOption, MessageClass, Packet};

use super::{Code, Message, Options, Token};

/// Options of a message: more than any use known needs, and few enough that a datagram of empty
/// options is not worth anybody's while.
const MAX_OPTIONS: usize = 64;
/// What stands between options and payload.
const MARKER: u8 = 0xff;
pub(crate) const HEADER: usize = 4;

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads a message in the form of a datagram. Version and type are the caller's to check.
pub(crate) fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
    let [first, code, _, _, rest @ ..] = bytes else {
        return Err(Malformed);
    };
    let code = Code::from_byte(*code);
    if code == Code::EMPTY && (first & 0x0f != 0 || !rest.is_empty()) {
        return Err(Malformed);
    }
    check(rest.get(usize::from(first & 0x0f)..).ok_or(Malformed)?)?;
    let packet = Packet::from_bytes(bytes).map_err(|_| Malformed)?;
    let mut options = Options::new();
    for (number, values) in packet.options() {
        for value in values {
            options.add(*number, Bytes::copy_from_slice(value));
        }
    }
    Ok(Message {
        code,
        token: Token::new(packet.get_token()).ok_or(Malformed)?,
        options,
        payload: packet.payload.into(),
    })
}

/// Walks over the options: `coap-lite` takes a marker without a payload, and as many options as
/// there are bytes.
fn check(mut rest: &[u8]) -> Result<(), Malformed> {
    let mut count = 0;
    while let [first, tail @ ..] = rest {
        if *first == MARKER {
            return match tail.is_empty() {
                true => Err(Malformed),
                false => Ok(()),
            };
        }
        count += 1;
        if count > MAX_OPTIONS {
            return Err(Malformed);
        }
        let (_, tail) = extended(first >> 4, tail)?;
        let (length, tail) = extended(first & 0x0f, tail)?;
        rest = tail.get(length..).ok_or(Malformed)?;
    }
    Ok(())
}

/// A delta or length (RFC 7252, section 3.1), and what stands behind it.
fn extended(nibble: u8, rest: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    match (nibble, rest) {
        (0..=12, _) => Ok((usize::from(nibble), rest)),
        (13, [byte, rest @ ..]) => Ok((usize::from(*byte) + 13, rest)),
        (14, [high, low, rest @ ..]) => {
            Ok((usize::from(u16::from_be_bytes([*high, *low])) + 269, rest))
        }
        _ => Err(Malformed),
    }
}

/// Writes a message in the form of a datagram, with these two bits for its type and this id.
pub(crate) fn encode(message: &Message, kind: u8, id: u16) -> Vec<u8> {
    let mut packet = Packet::new();
    packet.header.set_version(1);
    packet.header.set_type(match kind {
        0 => coap_lite::MessageType::Confirmable,
        1 => coap_lite::MessageType::NonConfirmable,
        2 => coap_lite::MessageType::Acknowledgement,
        _ => coap_lite::MessageType::Reset,
    });
    packet.header.code = MessageClass::from(message.code.byte());
    packet.header.message_id = id;
    packet.set_token(message.token.as_bytes().to_vec());
    for (number, value) in message.options.iter() {
        packet.add_option(CoapOption::from(number), value.to_vec());
    }
    packet.payload = message.payload.to_vec();
    // It fails only above a limit, and there is none.
    packet.to_bytes_unlimited().unwrap_or_default()
}
