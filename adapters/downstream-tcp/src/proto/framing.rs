//! Where one frame ends and the next begins.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use memchr::memchr;
use serde::Deserialize;

use gateway_core::ConfigError;

/// Says how a stream of bytes is cut into frames. Default: lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Framing {
    /// A frame ends with a line feed; a carriage return before it belongs to the end.
    #[default]
    #[serde(deserialize_with = "nothing_else")]
    Line,
    /// A frame ends with these bytes.
    Delimiter {
        /// The bytes: a text or a list of numbers, 1 to 16 bytes.
        #[serde(deserialize_with = "text_or_bytes")]
        delimiter: Vec<u8>,
    },
    /// A frame begins with its length.
    LengthPrefixed {
        /// Size of the length in bytes: 1, 2 or 4.
        bytes: u8,
        /// Order of its bytes. Default: big-endian.
        #[serde(default)]
        endian: Endian,
        /// Whether the length counts itself. Default: no.
        #[serde(default)]
        includes_header: bool,
    },
    /// Every frame has the same size.
    Fixed {
        /// The size in bytes, at least 1.
        size: usize,
    },
}

/// Orders the bytes of a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endian {
    /// The most significant byte comes first, as in most protocols.
    #[default]
    Big,
    /// The least significant byte comes first.
    Little,
}

/// Refuses fields: serde lets a variant without any have all.
fn nothing_else<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(deserializer).map(|Nothing {}| ())
}

fn text_or_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of bytes")]
    enum Delimiter {
        Text(String),
        Bytes(Vec<u8>),
    }
    Ok(match Delimiter::deserialize(deserializer)? {
        Delimiter::Text(text) => text.into_bytes(),
        Delimiter::Bytes(bytes) => bytes,
    })
}

const LONGEST_DELIMITER: usize = 16;

impl Framing {
    /// Checks the values that a type cannot, for frames of at most `max_frame` bytes.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self, max_frame: usize) -> Result<(), ConfigError> {
        let error = |key, found: usize, allowed: &str| {
            Err(ConfigError::new(key, format!("is {found}"), allowed))
        };
        match self {
            Self::Delimiter { delimiter }
                if !(1..=LONGEST_DELIMITER).contains(&delimiter.len()) =>
            {
                error("framing.delimiter (bytes)", delimiter.len(), "1 to 16")
            }
            Self::LengthPrefixed { bytes, .. } if ![1, 2, 4].contains(bytes) => {
                error("framing.bytes", usize::from(*bytes), "1, 2, 4")
            }
            Self::Fixed { size } if !(1..=max_frame).contains(size) => {
                error("framing.size", *size, "1 to limits.max_frame")
            }
            _ => Ok(()),
        }
    }
}

/// Tells that bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct FrameError {
    reason: &'static str,
    fatal: bool,
}

impl FrameError {
    /// Makes an error after which the next frame cannot be found: the connection ends.
    #[must_use]
    pub const fn fatal(reason: &'static str) -> Self {
        Self {
            reason,
            fatal: true,
        }
    }

    /// Makes an error about a frame that was skipped: the connection goes on.
    #[must_use]
    pub const fn skipped(reason: &'static str) -> Self {
        Self {
            reason,
            fatal: false,
        }
    }

    /// What was wrong, in lower-case words joined by underscores.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        self.reason
    }

    /// Whether the connection has to end.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        self.fatal
    }
}

/// The reason given for a frame above the limit.
pub(crate) const TOO_LONG: &str = "frame_too_long";

/// Cuts frames off a stream, and makes bytes frames of the same kind.
#[derive(Debug)]
pub struct FrameCodec {
    framing: Framing,
    max_frame: usize,
    /// How far the input was searched for a delimiter, so that a slow sender costs no second look.
    searched: usize,
    /// Whether the frame at the front is above the limit, and its beginning already thrown away.
    skipping: bool,
}

impl FrameCodec {
    /// Makes a codec for frames of at most `max_frame` bytes, length and delimiter not counted.
    ///
    /// # Panics
    /// The framing is not [valid](Framing::validate).
    #[must_use]
    pub fn new(framing: Framing, max_frame: usize) -> Self {
        if let Err(error) = framing.validate(max_frame) {
            panic!("a framing is to be validated first: {error}");
        }
        Self {
            framing,
            max_frame,
            searched: 0,
            skipping: false,
        }
    }

    /// Takes the next frame off the front of the input; none if it is not whole yet.
    ///
    /// # Errors
    /// The frame is above the limit or its length makes no sense. Behind a delimiter or a line
    /// feed the stream goes on; with length prefixes the next frame cannot be found.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        match &self.framing {
            Framing::LengthPrefixed {
                bytes,
                endian,
                includes_header,
            } => {
                let header = usize::from(*bytes);
                let Some(mut prefix) = input.get(..header) else {
                    return Ok(None);
                };
                let length = match endian {
                    Endian::Big => prefix.get_uint(header),
                    Endian::Little => prefix.get_uint_le(header),
                };
                let counted = if *includes_header { header as u64 } else { 0 };
                let content = length
                    .checked_sub(counted)
                    .ok_or(FrameError::fatal("bad_frame_length"))?;
                if content > self.max_frame as u64 {
                    return Err(FrameError::fatal(TOO_LONG));
                }
                let content = content as usize;
                if input.len() < header + content {
                    input.reserve(header + content - input.len());
                    return Ok(None);
                }
                input.advance(header);
                Ok(Some(split_to(input, content).freeze()))
            }
            Framing::Fixed { size } => {
                let size = *size;
                Ok((input.len() >= size).then(|| split_to(input, size).freeze()))
            }
            Framing::Delimiter { delimiter } => {
                let (length, last) = (delimiter.len(), delimiter[delimiter.len() - 1]);
                let ends = |input: &[u8], at: usize| input[..=at].ends_with(delimiter);
                let found = find(input, self.searched.max(length - 1), last, ends);
                self.delimited(input, found, length)
            }
            Framing::Line => {
                let found = find(input, self.searched, b'\n', |_, _| true);
                let frame = self.delimited(input, found, 1)?;
                Ok(frame.map(|mut frame| {
                    if frame.last() == Some(&b'\r') {
                        frame.truncate(frame.len() - 1);
                    }
                    frame
                }))
            }
        }
    }

    /// Takes a frame that ends at the byte found, or notes that there is none yet.
    fn delimited(
        &mut self,
        input: &mut BytesMut,
        found: Option<usize>,
        delimiter: usize,
    ) -> Result<Option<Bytes>, FrameError> {
        let Some(last) = found else {
            // The end of the input may be the beginning of a delimiter.
            let kept = delimiter - 1;
            if input.len() > self.max_frame + kept {
                self.skipping = true;
            }
            if self.skipping {
                input.advance(input.len().saturating_sub(kept));
            }
            self.searched = input.len();
            return Ok(None);
        };
        self.searched = 0;
        let mut frame = split_to(input, last + 1);
        frame.truncate(frame.len() - delimiter);
        if std::mem::take(&mut self.skipping) || frame.len() > self.max_frame {
            return Err(FrameError::skipped(TOO_LONG));
        }
        Ok(Some(frame.freeze()))
    }

    /// Appends a frame whose content `write` appends.
    ///
    /// # Errors
    /// The content is longer than the length prefix can say, or not of the fixed size; nothing
    /// was appended. The limit on frames received does not apply.
    pub fn encode(
        &self,
        output: &mut BytesMut,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<(), FrameError> {
        let start = output.len();
        let header = match self.framing {
            Framing::LengthPrefixed { bytes, .. } => usize::from(bytes),
            _ => 0,
        };
        output.put_bytes(0, header);
        write(output);
        let content = output.len() - start - header;
        let fits = match &self.framing {
            Framing::Line => {
                output.put_u8(b'\n');
                true
            }
            Framing::Delimiter { delimiter } => {
                output.extend_from_slice(delimiter);
                true
            }
            Framing::LengthPrefixed {
                endian,
                includes_header,
                ..
            } => {
                let length = content + if *includes_header { header } else { 0 };
                let place = &mut output[start..start + header];
                match endian {
                    Endian::Big => {
                        place.copy_from_slice(&length.to_be_bytes()[size_of::<usize>() - header..])
                    }
                    Endian::Little => place.copy_from_slice(&length.to_le_bytes()[..header]),
                }
                (length as u64) < 1 << (8 * header)
            }
            Framing::Fixed { size } => content == *size,
        };
        if !fits {
            output.truncate(start);
            return Err(FrameError::skipped(TOO_LONG));
        }
        Ok(())
    }
}

/// Takes the front of the input off, which is most often all of it: then nothing is shared.
fn split_to(input: &mut BytesMut, length: usize) -> BytesMut {
    match length == input.len() {
        true => std::mem::take(input),
        false => input.split_to(length),
    }
}

/// Finds the byte from an offset on, where the condition holds as well.
fn find(
    input: &[u8],
    from: usize,
    byte: u8,
    condition: impl Fn(&[u8], usize) -> bool,
) -> Option<usize> {
    let mut from = from;
    loop {
        let at = from + memchr(byte, input.get(from..)?)?;
        if condition(input, at) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests;
