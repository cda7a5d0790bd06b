//! Frames to and from bytes (AMQP 1.0, sections 2.3 and 2.7).
//!
//! What is rare goes through the types of `fe2o3-amqp-types`; a transfer and the settlement of one,
//! which are all that a busy connection carries, are written by hand.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::messaging::{Accepted, DeliveryState};
use fe2o3_amqp_types::performatives::{Disposition, Performative};
use serde::{Deserialize, Serialize};
use serde_amqp::ser::Serializer;

use super::error::ClientError;
use super::value;

const AMQP: u8 = 0;
const SASL: u8 = 1;
/// Bytes in front of a frame's body.
pub(super) const HEADER: usize = 8;
/// The largest frame we take and send, in bytes: what Azure IoT Hub uses itself.
pub(super) const MAX_FRAME_SIZE: u32 = 65_536;

/// A frame's kind, channel and body.
#[derive(Debug)]
pub(super) struct Frame {
    is_sasl: bool,
    pub(super) channel: u16,
    body: BytesMut,
}

impl Frame {
    /// Takes a whole frame off the buffer, if there is one.
    pub(super) fn split(
        buffer: &mut BytesMut,
        largest: usize,
    ) -> Result<Option<Self>, ClientError> {
        let Some(size) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes(*size) as usize;
        if !(HEADER..=largest).contains(&size) {
            return Err(ClientError::Malformed("a frame of a size not agreed on"));
        }
        if buffer.len() < size {
            buffer.reserve(size - buffer.len());
            return Ok(None);
        }
        let mut body = buffer.split_to(size);
        let (offset, kind) = (usize::from(body[4]) * 4, body[5]);
        let channel = u16::from_be_bytes([body[6], body[7]]);
        if !(HEADER..=size).contains(&offset) || kind > SASL {
            return Err(ClientError::Malformed("a frame with a bad header"));
        }
        body.advance(offset);
        Ok(Some(Self {
            is_sasl: kind == SASL,
            channel,
            body,
        }))
    }

    /// Reads what an AMQP frame says, with the payload that follows; none for a heartbeat.
    pub(super) fn performative(mut self) -> Result<Option<(Performative, Bytes)>, ClientError> {
        if self.is_sasl {
            return Err(ClientError::Malformed("a SASL frame after the greeting"));
        }
        if self.body.is_empty() {
            return Ok(None);
        }
        if let Some(disposition) = plain_disposition(&self.body) {
            return Ok(Some((Performative::Disposition(disposition), Bytes::new())));
        }
        let performative = read(&mut self.body)?;
        Ok(Some((performative, self.body.freeze())))
    }

    /// Reads what a SASL frame says.
    pub(super) fn sasl<T: for<'de> Deserialize<'de>>(mut self) -> Result<T, ClientError> {
        if !self.is_sasl {
            return Err(ClientError::Malformed("an AMQP frame in the SASL exchange"));
        }
        read(&mut self.body)
    }
}

/// Reads one value off the front of the bytes.
fn read<T: for<'de> Deserialize<'de>>(body: &mut BytesMut) -> Result<T, ClientError> {
    let size = value::measure(body)?;
    serde_amqp::from_slice(&body.split_to(size))
        .map_err(|_| ClientError::Malformed("a frame that cannot be decoded"))
}

/// Reads the settlement of what was accepted, in the forms that hubs give it; none for all else,
/// which goes the long way.
fn plain_disposition(body: &[u8]) -> Option<Disposition> {
    let list = body.strip_prefix(&[0x00, 0x53, 0x15, 0xc0])?;
    let (&[size, count], mut rest) = list.split_first_chunk::<2>()?;
    if usize::from(size) != rest.len() + 1 || !(5..=6).contains(&count) {
        return None;
    }
    let role = Role::from(take_flag(&mut rest)??);
    let first = take_uint(&mut rest)??;
    let last = take_uint(&mut rest)?;
    let settled = take_flag(&mut rest)?.unwrap_or(false);
    let rest = rest.strip_prefix(&[0x00, 0x53, 0x24])?;
    let rest = rest
        .strip_prefix(&[0x45])
        .or_else(|| rest.strip_prefix(&[0xc0, 1, 0]))?;
    // Whether it may be batched means nothing to us.
    matches!(rest, [] | [0x40..=0x42]).then(|| Disposition {
        role,
        first,
        last,
        settled,
        state: Some(DeliveryState::Accepted(Accepted {})),
        batchable: false,
    })
}

/// Takes a flag that may be null.
fn take_flag(rest: &mut &[u8]) -> Option<Option<bool>> {
    let (flag, left) = match *rest {
        [0x40, left @ ..] => (None, left),
        [0x41, left @ ..] | [0x56, 1, left @ ..] => (Some(true), left),
        [0x42, left @ ..] | [0x56, 0, left @ ..] => (Some(false), left),
        _ => return None,
    };
    *rest = left;
    Some(flag)
}

/// Takes a number that may be null.
fn take_uint(rest: &mut &[u8]) -> Option<Option<u32>> {
    let (number, left) = match *rest {
        [0x40, left @ ..] => (None, left),
        [0x43, left @ ..] => (Some(0), left),
        [0x52, byte, left @ ..] => (Some(u32::from(*byte)), left),
        [0x70, a, b, c, d, left @ ..] => (Some(u32::from_be_bytes([*a, *b, *c, *d])), left),
        _ => return None,
    };
    *rest = left;
    Some(number)
}

/// Writes an AMQP frame without a payload.
pub(super) fn put(out: &mut BytesMut, channel: u16, performative: &impl Serialize) {
    put_kind(out, AMQP, channel, performative);
}

/// Writes a SASL frame.
pub(super) fn put_sasl(out: &mut BytesMut, frame: &impl Serialize) {
    put_kind(out, SASL, 0, frame);
}

fn put_kind(out: &mut BytesMut, kind: u8, channel: u16, value: &impl Serialize) {
    let start = begin(out, kind, channel);
    let mut serializer = Serializer::from((&mut *out).writer());
    // Into memory, of types made to be written: it does not fail.
    if value.serialize(&mut serializer).is_err() {
        tracing::error!("A frame could not be encoded");
        out.truncate(start);
        return;
    }
    end(out, start);
}

/// Writes a frame without a body, which keeps the connection alive (section 2.4.5).
pub(super) fn put_empty(out: &mut BytesMut) {
    let start = begin(out, AMQP, 0);
    end(out, start);
}

fn begin(out: &mut BytesMut, kind: u8, channel: u16) -> usize {
    let start = out.len();
    out.put_u32(0);
    out.put_slice(&[2, kind]);
    out.put_u16(channel);
    start
}

fn end(out: &mut BytesMut, start: usize) {
    let size = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// The most that a transfer frame takes besides its payload.
pub(super) const TRANSFER_OVERHEAD: usize = 40;
/// Where a transfer's values begin.
const LIST: usize = HEADER + 6;

/// What stands in front of a transfer's payload.
#[derive(Debug, Clone, Copy)]
pub(super) enum Transfer {
    First {
        delivery: u32,
        format: u32,
        settled: bool,
        more: bool,
    },
    Next {
        more: bool,
    },
    /// Takes back what was sent of a delivery.
    Aborted,
}

/// Writes a transfer (section 2.7.5).
pub(super) fn put_transfer(
    out: &mut BytesMut,
    channel: u16,
    handle: u32,
    transfer: Transfer,
    payload: &[u8],
) {
    const NULL: u8 = 0x40;
    const YES: u8 = 0x41;
    const NO: u8 = 0x42;
    let flag = |is: bool| if is { YES } else { NO };
    // Put together here, since many small pieces cost more to add to a buffer that grows.
    let mut head = [0; HEADER + TRANSFER_OVERHEAD];
    let mut rest = &mut head[LIST..];
    put_uint(&mut rest, handle);
    let count = match transfer {
        Transfer::First {
            delivery,
            format,
            settled,
            more,
        } => {
            put_uint(&mut rest, delivery);
            rest.put_slice(&[0xa0, 4]);
            rest.put_u32(delivery);
            put_uint(&mut rest, format);
            rest.put_slice(&[flag(settled), flag(more)]);
            6
        }
        Transfer::Next { more } => {
            rest.put_slice(&[NULL, NULL, NULL, NULL, flag(more)]);
            6
        }
        Transfer::Aborted => {
            rest.put_slice(&[NULL, NULL, NULL, NULL, NO, NULL, NULL, NULL, YES]);
            10
        }
    };
    let left = rest.len();
    let length = head.len() - left;
    head[..4].copy_from_slice(&((length + payload.len()) as u32).to_be_bytes());
    head[4..6].copy_from_slice(&[2, AMQP]);
    head[6..HEADER].copy_from_slice(&channel.to_be_bytes());
    // A described list of one byte's length, which counts the count.
    let size = (length - LIST + 1) as u8;
    head[HEADER..LIST].copy_from_slice(&[0x00, 0x53, 0x14, 0xc0, size, count]);
    out.reserve(length + payload.len());
    out.put_slice(&head[..length]);
    out.put_slice(payload);
}

fn put_uint(out: &mut impl BufMut, value: u32) {
    match value {
        0 => out.put_u8(0x43),
        1..=255 => out.put_slice(&[0x52, value as u8]),
        _ => {
            out.put_u8(0x70);
            out.put_u32(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::definitions::Handle;
    use fe2o3_amqp_types::performatives::Transfer as Typed;
    use proptest::prelude::*;

    use super::*;

    fn decode(mut bytes: BytesMut) -> (Typed, Bytes) {
        let frame = Frame::split(&mut bytes, 1 << 20).unwrap().unwrap();
        assert!(bytes.is_empty());
        match frame.performative().unwrap().unwrap() {
            (Performative::Transfer(transfer), payload) => (transfer, payload),
            (other, _) => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_transfer_reads_back_as_it_was_written(
            handle: u32, delivery: u32, format: u32, settled: bool, more: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut out = BytesMut::new();
            let first = Transfer::First { delivery, format, settled, more };
            put_transfer(&mut out, 7, handle, first, &payload);
            prop_assert!(out.len() <= HEADER + TRANSFER_OVERHEAD + payload.len());
            let (read, rest) = decode(out);
            prop_assert_eq!(read.handle, Handle(handle));
            prop_assert_eq!(read.delivery_id, Some(delivery));
            prop_assert_eq!(read.message_format, Some(format));
            prop_assert_eq!(read.settled, Some(settled));
            prop_assert_eq!(read.more, more);
            prop_assert!(!read.aborted);
            prop_assert_eq!(&rest[..], &payload[..]);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = Frame::split(&mut buffer, 512) {
                drop(frame.performative());
            }
        }
    }

    proptest! {
        #[test]
        fn a_settlement_read_by_hand_is_what_the_codec_reads(
            receiver: bool, first: u32, last: Option<u32>, settled: bool, batchable: bool,
        ) {
            let written = Disposition {
                role: if receiver { Role::Receiver } else { Role::Sender },
                first,
                last,
                settled,
                state: Some(DeliveryState::Accepted(Accepted {})),
                batchable,
            };
            let bytes = serde_amqp::to_vec(&written).unwrap();
            let expected = Disposition { batchable: false, ..written };
            prop_assert_eq!(plain_disposition(&bytes), Some(expected));
        }

        #[test]
        fn no_bytes_are_read_by_hand_as_what_the_codec_does_not_read(
            tail in proptest::collection::vec(
                prop_oneof![Just(0x40_u8), Just(0x41), Just(0x42), Just(0x43), Just(0x45), any::<u8>()],
                0..14,
            ),
        ) {
            let mut bytes = vec![0x00, 0x53, 0x15, 0xc0, tail.len() as u8 + 1, 5];
            bytes.extend(tail);
            if let Some(by_hand) = plain_disposition(&bytes) {
                let read: Disposition = serde_amqp::from_slice(&bytes).unwrap();
                prop_assert_eq!(by_hand, Disposition { batchable: false, ..read });
            }
        }
    }

    #[test]
    fn an_aborted_transfer_says_so() {
        let mut out = BytesMut::new();
        put_transfer(&mut out, 7, 300, Transfer::Aborted, &[]);
        let (read, _) = decode(out);
        assert!(read.aborted && !read.more && read.delivery_id.is_none());
    }
}
