//! Where one message ends and the next begins (RFC 8323, section 3.2).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::proto::message::{Code, Message, decode, encode};

/// Lengths from which on a longer form is used: with 1, 2 and 4 bytes behind the first.
const EXTENDED: [usize; 3] = [13, 269, 65_805];

/// The most of a frame that is neither options nor payload: the first byte, a length, the code, a
/// token and the marker.
pub(super) const MAX_HEADER: usize = 1 + 4 + 1 + 8 + 1;

/// Says why bytes are no frame; the next one cannot be found then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than what is taken.
    #[error("a frame of {0} bytes is too large; cut the body into blocks")]
    TooLarge(usize),
    /// The frame is no message.
    #[error("a frame is no CoAP message")]
    Malformed,
}

/// Cuts a stream into messages.
#[derive(Debug, Clone, Copy)]
pub struct FrameReader {
    max_frame: usize,
}

impl FrameReader {
    /// Makes a reader of frames of at most so many bytes, header and all.
    #[must_use]
    pub const fn new(max_frame: usize) -> Self {
        Self { max_frame }
    }

    /// Takes the next message off the front of the input; `None` if it is not whole yet.
    ///
    /// # Errors
    /// The bytes are no frame.
    pub fn read(&self, input: &mut BytesMut) -> Result<Option<Message>, FrameError> {
        let Some(&first) = input.first() else {
            return Ok(None);
        };
        let token = usize::from(first & 0x0f);
        if token > 8 {
            return Err(FrameError::Malformed);
        }
        let (extra, base) = match first >> 4 {
            13 => (1, EXTENDED[0]),
            14 => (2, EXTENDED[1]),
            15 => (4, EXTENDED[2]),
            length => (0, usize::from(length)),
        };
        let Some(bytes) = input.get(1..1 + extra) else {
            return Ok(None);
        };
        let fold = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
        let length = bytes.iter().fold(0, fold) + base;
        // First byte, length, code, token; then options, marker and payload.
        let size = 1 + extra + 1 + token + length;
        if size > self.max_frame {
            return Err(FrameError::TooLarge(size));
        }
        if input.len() < size {
            return Ok(None);
        }
        let mut frame = input.split_to(size);
        frame.advance(1 + extra);
        // The codec's form is that of datagrams, with type and message id.
        let mut datagram = BytesMut::with_capacity(4 + frame.len());
        datagram.put_u8(0x40 | first & 0x0f);
        datagram.put_u8(frame.get_u8());
        datagram.put_u16(0);
        datagram.extend_from_slice(&frame);
        match decode(&datagram) {
            Ok(message) => Ok(Some(message)),
            // An empty message says nothing here, whatever is in it (section 3.4).
            Err(_) if datagram[1] == 0 => Ok(Some(Message::new(Code::EMPTY))),
            Err(_) => Err(FrameError::Malformed),
        }
    }
}

/// Appends a message as a frame.
pub fn write_frame(message: &Message, output: &mut BytesMut) {
    let datagram = Bytes::from(encode(message, 0, 0));
    let token = message.token.as_bytes().len();
    let length = datagram.len().saturating_sub(4 + token);
    let first = |nibble: u8| nibble << 4 | token as u8;
    match length {
        _ if length < EXTENDED[0] => output.put_u8(first(length as u8)),
        _ if length < EXTENDED[1] => {
            output.put_u8(first(13));
            output.put_u8((length - EXTENDED[0]) as u8);
        }
        _ if length < EXTENDED[2] => {
            output.put_u8(first(14));
            output.put_u16((length - EXTENDED[1]) as u16);
        }
        _ => {
            output.put_u8(first(15));
            output.put_u32((length - EXTENDED[2]) as u32);
        }
    }
    output.put_u8(message.code.byte());
    output.extend_from_slice(datagram.get(4..).unwrap_or_default());
}
