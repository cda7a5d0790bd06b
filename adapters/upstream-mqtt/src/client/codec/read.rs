//! What brokers send, taken apart: nothing is believed, nothing panics, nothing is allocated beyond
//! what has come.

use bytes::{Buf, Bytes, BytesMut};

use super::{ConnAck, Fault, Packet, Received};
use crate::client::options::{Properties5, Version};

type Read<T> = Result<T, Fault>;

/// A packet's first byte, and how many bytes come before and after the end of its length.
///
/// # Errors
/// It cannot be a packet.
fn head(input: &[u8]) -> Read<Option<(u8, usize, usize)>> {
    let Some((&first, rest)) = input.split_first() else {
        return Ok(None);
    };
    // Only PUBLISH has flags: what is no MQTT shows at once.
    if first >> 4 != 3 && first & 0x0f != 0 {
        return Err(Fault::malformed("a packet's first byte is reserved"));
    }
    let Some((len, len_size)) = variable(rest)? else {
        return Ok(None);
    };
    Ok(Some((first, 1 + len_size, len)))
}

fn too_large(size: usize, max: usize) -> Fault {
    let what = format!("a packet has {size} bytes; {max} are taken");
    Fault::with_code(0x95, what)
}

/// A message without its payload, which is too large and goes as it comes, and how much of that is
/// still to come.
#[derive(Debug)]
pub(in crate::client) struct Cut(Received, usize);

impl Cut {
    /// Takes what comes before the payload off the front of a message of version 3.1.1, and tells how
    /// many bytes that is.
    ///
    /// # Errors
    /// Even that is larger than `max` bytes, or cannot be read.
    fn begin(
        input: &[u8],
        (first, start, len): (u8, usize, usize),
        max: usize,
    ) -> Read<Option<(Self, usize)>> {
        let Some(topic) = input.get(start..start + 2) else {
            return Ok(None);
        };
        let id = if first & 0b0110 == 0 { 0 } else { 2 };
        let before = 2 + usize::from(u16::from_be_bytes([topic[0], topic[1]])) + id;
        if start + before > max {
            return Err(too_large(start + len, max));
        }
        let Some(body) = input.get(start..start + before) else {
            return Ok(None);
        };
        let mut message = Body(body).publish(Version::V4, first & 0x0f)?;
        message.is_cut = true;
        Ok(Some((Self(message, len - before), start + before)))
    }
}

/// A number in one to four bytes, and how many they are (section 2.2.3; 1.5.5 in version 5).
fn variable(input: &[u8]) -> Read<Option<(usize, usize)>> {
    let mut number = 0;
    for at in 0..4 {
        let Some(&byte) = input.get(at) else {
            return Ok(None);
        };
        number |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((number, at + 1)));
        }
    }
    Err(Fault::malformed("a length has no end"))
}

/// Takes whole packets off what was read, one after the other; when it is dropped, the buffer is
/// without them.
#[derive(Debug)]
pub(in crate::client) struct ReadPackets<'a> {
    buffer: &'a mut BytesMut,
    taken: usize,
    version: Version,
    max: usize,
    cut: Option<&'a mut Option<Cut>>,
}

impl<'a> ReadPackets<'a> {
    pub(in crate::client) fn new(buffer: &'a mut BytesMut, version: Version, max: usize) -> Self {
        Self {
            buffer,
            taken: 0,
            version,
            max,
            cut: None,
        }
    }

    /// Goes past messages that are too large, with room for one that has not come whole: a broker of
    /// version 3.1.1 cannot be told what is too large, and would send it anew on each connection.
    pub(in crate::client) fn cutting(mut self, cut: &'a mut Option<Cut>) -> Self {
        if self.version == Version::V4 {
            self.cut = Some(cut);
        }
        self
    }

    /// The next packet; none while it is not complete.
    ///
    /// # Errors
    /// It is too large, which shows before it has come, or is none.
    pub(in crate::client) fn next(&mut self) -> Read<Option<Packet>> {
        if self.cut.as_ref().is_some_and(|cut| cut.is_some()) {
            return Ok(self.skip());
        }
        let input = &self.buffer[self.taken..];
        let Some((first, start, len)) = head(input)? else {
            return Ok(None);
        };
        let size = start + len;
        if size > self.max {
            return match &mut self.cut {
                Some(cut) if first >> 4 == 3 => {
                    let Some((begun, before)) = Cut::begin(input, (first, start, len), self.max)?
                    else {
                        return Ok(None);
                    };
                    **cut = Some(begun);
                    self.taken += before;
                    Ok(self.skip())
                }
                _ => Err(too_large(size, self.max)),
            };
        }
        let Some(body) = input.get(start..size) else {
            return Ok(None);
        };
        let packet = read(self.version, first, body)?;
        self.taken += size;
        Ok(Some(packet))
    }

    /// Goes past what has come of a payload that is too large; the message, at its end.
    fn skip(&mut self) -> Option<Packet> {
        let cut = self.cut.as_deref_mut()?;
        let Cut(_, left) = cut.as_mut()?;
        let here = (*left).min(self.buffer.len() - self.taken);
        self.taken += here;
        *left -= here;
        let Cut(message, _) = cut.take_if(|cut| cut.1 == 0)?;
        Some(Packet::Publish(message))
    }
}

impl Drop for ReadPackets<'_> {
    fn drop(&mut self) {
        self.buffer.advance(self.taken);
    }
}

fn read(version: Version, first: u8, body: &[u8]) -> Read<Packet> {
    let (kind, flags) = (first >> 4, first & 0x0f);
    let mut body = Body(body);
    let packet = match (kind, version) {
        (2, _) => Packet::ConnAck(Box::new(body.connack(version)?)),
        (3, _) => return body.publish(version, flags).map(Packet::Publish),
        (4, _) => {
            let id = body.id()?;
            let code = body.code(version)?;
            Packet::PubAck { id, code }
        }
        (9, _) => {
            let (id, codes) = body.codes(version)?;
            Packet::SubAck { id, codes }
        }
        (11, Version::V5) => {
            let (id, codes) = body.codes(version)?;
            Packet::UnsubAck { id, codes }
        }
        (11, Version::V4) => Packet::UnsubAck {
            id: body.id()?,
            codes: Vec::new(),
        },
        (13, _) => Packet::PingResp,
        (14, Version::V5) => {
            let mut text = String::new();
            let code = body.u8_or(0)?;
            body.properties_if_any(|id, value| keep_reason(id, value, &mut text))?;
            Packet::Disconnect { code, text }
        }
        (5 | 7, _) => return Err(quality()),
        _ => return Err(Fault::protocol("a packet that brokers do not send")),
    };
    match body.0.is_empty() {
        true => Ok(packet),
        false => Err(Fault::malformed("a packet is longer than it should be")),
    }
}

fn quality() -> Fault {
    Fault::with_code(0x9b, "a message comes exactly once, which nobody asked for")
}

/// A broker's words, kept short.
fn keep_reason(id: u8, value: Value<'_>, text: &mut String) -> Read<()> {
    const LONGEST: usize = 200;
    if let (REASON_STRING, Value::Text(said)) = (id, value) {
        *text = said.chars().take(LONGEST).collect();
    }
    Ok(())
}

const MESSAGE_EXPIRY: u8 = 2;
const CONTENT_TYPE: u8 = 3;
const RESPONSE_TOPIC: u8 = 8;
const CORRELATION_DATA: u8 = 9;
const ASSIGNED_CLIENT_ID: u8 = 18;
const SERVER_KEEP_ALIVE: u8 = 19;
const REASON_STRING: u8 = 31;
const RECEIVE_MAXIMUM: u8 = 33;
const TOPIC_ALIAS: u8 = 35;
const MAXIMUM_QOS: u8 = 36;
const RETAIN_AVAILABLE: u8 = 37;
const USER_PROPERTY: u8 = 38;
const MAXIMUM_PACKET_SIZE: u8 = 39;

/// The value of a property (version 5, section 2.2.2.2).
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable,
    Text(&'a str),
    Bytes(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// What is left of a packet.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, len: usize) -> Read<&'a [u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else {
            return Err(Fault::malformed("a packet ends too early"));
        };
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Read<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u8_or(&mut self, missing: u8) -> Read<u8> {
        match self.0.is_empty() {
            true => Ok(missing),
            false => self.u8(),
        }
    }

    fn u16(&mut self) -> Read<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Read<u32> {
        self.take(4)
            .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn variable(&mut self) -> Read<usize> {
        let Some((number, size)) = variable(self.0)? else {
            return Err(Fault::malformed("a packet ends too early"));
        };
        self.take(size)?;
        Ok(number)
    }

    fn bytes(&mut self) -> Read<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// Section 1.5.4 forbids the null character.
    fn text(&mut self) -> Read<&'a str> {
        match std::str::from_utf8(self.bytes()?) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(Fault::malformed("a text is not UTF-8, or holds U+0000")),
        }
    }

    /// A packet identifier, which is never zero.
    fn id(&mut self) -> Read<u16> {
        match self.u16()? {
            0 => Err(Fault::malformed("a packet identifier is zero")),
            id => Ok(id),
        }
    }

    /// Gives each property to `keep`, and nothing of what follows them.
    fn properties(&mut self, mut keep: impl FnMut(u8, Value<'a>) -> Read<()>) -> Read<()> {
        let len = self.variable()?;
        let mut properties = Body(self.take(len)?);
        while !properties.0.is_empty() {
            let (id, value) = properties.property()?;
            keep(id, value)?;
        }
        Ok(())
    }

    /// As `properties`, of a packet that may end without any.
    fn properties_if_any(&mut self, keep: impl FnMut(u8, Value<'a>) -> Read<()>) -> Read<()> {
        match self.0.is_empty() {
            true => Ok(()),
            false => self.properties(keep),
        }
    }

    fn property(&mut self) -> Read<(u8, Value<'a>)> {
        let id = self.u8()?;
        let value = match id {
            1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => Value::Byte(self.u8()?),
            19 | 33 | 34 | 35 => Value::Two(self.u16()?),
            2 | 17 | 24 | 39 => Value::Four(self.u32()?),
            11 => {
                self.variable()?;
                Value::Variable
            }
            3 | 8 | 18 | 21 | 26 | 28 | 31 => Value::Text(self.text()?),
            9 | 22 => Value::Bytes(self.bytes()?),
            38 => Value::Pair(self.text()?, self.text()?),
            _ => return Err(Fault::malformed("there is no such property")),
        };
        Ok((id, value))
    }

    /// Section 3.2.
    fn connack(&mut self, version: Version) -> Read<ConnAck> {
        let flags = self.u8()?;
        let code = self.u8()?;
        let session_present = flags == 1;
        if flags > 1 || (session_present && code != 0) {
            return Err(Fault::malformed("the flags of CONNACK are reserved"));
        }
        let mut answer = ConnAck::new(session_present, code);
        // A broker that does not know version 5 may refuse in the words of version 3.1.1.
        let is_old = self.0.is_empty() && code != 0;
        if version == Version::V4 || is_old {
            return Ok(answer);
        }
        self.properties(|id, value| {
            match (id, value) {
                (RECEIVE_MAXIMUM, Value::Two(0)) | (MAXIMUM_PACKET_SIZE, Value::Four(0)) => {
                    return Err(Fault::protocol("a limit of CONNACK is zero"));
                }
                (RECEIVE_MAXIMUM, Value::Two(most)) => answer.receive_maximum = most,
                (MAXIMUM_PACKET_SIZE, Value::Four(most)) => answer.max_packet = most,
                (MAXIMUM_QOS, Value::Byte(most)) => answer.max_qos = most,
                (RETAIN_AVAILABLE, Value::Byte(is)) => answer.takes_retained = is != 0,
                (SERVER_KEEP_ALIVE, Value::Two(time)) => answer.server_keep_alive = Some(time),
                (ASSIGNED_CLIENT_ID, Value::Text(id)) => {
                    answer.assigned_client_id = Some(id.to_owned());
                }
                _ => keep_reason(id, value, &mut answer.text)?,
            }
            Ok(())
        })?;
        Ok(answer)
    }

    /// Section 3.3.
    fn publish(&mut self, version: Version, flags: u8) -> Read<Received> {
        let (duplicate, retain) = (flags & 0b1000 != 0, flags & 0b0001 != 0);
        let topic = self.text()?;
        let id = match flags & 0b0110 {
            0b0000 if duplicate => return Err(Fault::malformed("DUP at most once")),
            0b0000 => None,
            0b0010 => Some(self.id()?),
            0b0100 => return Err(quality()),
            _ => return Err(Fault::malformed("there is no such quality of service")),
        };
        let properties = match version {
            Version::V4 => None,
            Version::V5 => self.publish_properties()?,
        };
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err(Fault::malformed("a topic is empty or holds a wildcard"));
        }
        Ok(Received {
            topic: topic.to_owned(),
            // Copied: a few bytes must not hold on to a whole buffer.
            payload: Bytes::copy_from_slice(self.0),
            retain,
            duplicate,
            id,
            properties,
            is_cut: false,
        })
    }

    fn publish_properties(&mut self) -> Read<Option<Properties5>> {
        let mut kept = Properties5::default();
        let mut is_any = false;
        self.properties(|id, value| {
            match (id, value) {
                (TOPIC_ALIAS, _) => {
                    let what = "a topic's alias, though none was allowed";
                    return Err(Fault::with_code(0x94, what));
                }
                (MESSAGE_EXPIRY, Value::Four(seconds)) => kept.message_expiry = Some(seconds),
                (CONTENT_TYPE, Value::Text(text)) => kept.content_type = Some(text.to_owned()),
                (RESPONSE_TOPIC, Value::Text(text)) => kept.response_topic = Some(text.to_owned()),
                (CORRELATION_DATA, Value::Bytes(bytes)) => {
                    kept.correlation_data = Some(Bytes::copy_from_slice(bytes));
                }
                (USER_PROPERTY, Value::Pair(name, value)) => {
                    kept.user.push((name.to_owned(), value.to_owned()));
                }
                _ => return Ok(()),
            }
            is_any = true;
            Ok(())
        })?;
        Ok(is_any.then_some(kept))
    }

    /// The reason code of PUBACK; what says nothing means success (version 5, section 3.4.2.1).
    fn code(&mut self, version: Version) -> Read<u8> {
        if version == Version::V4 {
            return Ok(0);
        }
        let code = self.u8_or(0)?;
        self.properties_if_any(|_, _| Ok(()))?;
        Ok(code)
    }

    /// The reason codes of SUBACK and UNSUBACK.
    fn codes(&mut self, version: Version) -> Read<(u16, Vec<u8>)> {
        let id = self.id()?;
        if version == Version::V5 {
            self.properties(|_, _| Ok(()))?;
        }
        match std::mem::take(&mut self.0) {
            [] => Err(Fault::malformed("an answer to filters says nothing")),
            codes => Ok((id, codes.to_vec())),
        }
    }
}
