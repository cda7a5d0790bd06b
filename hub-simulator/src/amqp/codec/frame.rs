//! Frames and protocol headers (AMQP 1.0 sections 2.2 and 2.3).

use bytes::{BufMut, BytesMut};

use super::{DecodeError, write};

/// Bytes of a frame header without extended header.
pub(crate) const HEADER_LEN: usize = 8;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Amqp,
    Sasl,
}

/// One frame as it lies in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: FrameKind,
    pub(crate) channel: u16,
    /// Performative and payload; empty for a heartbeat.
    pub(crate) body: &'a [u8],
    /// Bytes of input that the frame takes.
    pub(crate) len: usize,
}

/// Splits the first frame off `input`; `None` while it is incomplete.
pub(crate) fn split(input: &[u8], max_frame_size: u32) -> Result<Option<Frame<'_>>, DecodeError> {
    let Some(&[s0, s1, s2, s3, offset, kind, c0, c1]) = input.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if size > max_frame_size {
        return Err(DecodeError("the frame is larger than max-frame-size"));
    }
    let (len, offset) = (size as usize, usize::from(offset) * 4);
    if offset < HEADER_LEN || offset > len {
        return Err(DecodeError("the data offset lies outside of the frame"));
    }
    let kind = match kind {
        0 => FrameKind::Amqp,
        1 => FrameKind::Sasl,
        _ => return Err(DecodeError("unknown frame type")),
    };
    let Some(frame) = input.get(..len) else {
        return Ok(None);
    };
    Ok(Some(Frame {
        kind,
        channel: u16::from_be_bytes([c0, c1]),
        body: &frame[offset..],
        len,
    }))
}

/// Writes one frame whose body `body` writes.
pub(crate) fn put(
    out: &mut BytesMut,
    kind: FrameKind,
    channel: u16,
    body: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    out.put_u32(0);
    out.put_slice(&[2, matches!(kind, FrameKind::Sasl).into()]);
    out.put_u16(channel);
    body(out);
    write::patch_u32(out, start, out.len() - start);
}

/// Writes a heartbeat: a frame without a body.
pub(crate) fn put_empty(out: &mut BytesMut) {
    put(out, FrameKind::Amqp, 0, |_| {});
}

/// Which layer a protocol header opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProtocolHeader {
    Amqp,
    Sasl,
}

impl ProtocolHeader {
    pub(crate) const LEN: usize = 8;

    pub(crate) fn decode(bytes: [u8; Self::LEN]) -> Option<Self> {
        match &bytes {
            b"AMQP\x00\x01\x00\x00" => Some(Self::Amqp),
            b"AMQP\x03\x01\x00\x00" => Some(Self::Sasl),
            _ => None,
        }
    }

    pub(crate) fn encode(self, out: &mut BytesMut) {
        out.put_slice(match self {
            Self::Amqp => b"AMQP\x00\x01\x00\x00",
            Self::Sasl => b"AMQP\x03\x01\x00\x00",
        });
    }
}
