//! The sections of a message (AMQP 1.0 section 3.2).

use bytes::{BufMut, BytesMut};

use super::read::{self, Fields, Value};
use super::{DecodeError, code, write};

/// The message format of a batch: each Data section holds one encoded message.
pub(crate) const BATCH_FORMAT: u32 = 0x8001_3700;

/// A message taken apart, nothing copied and nothing deeper than its sections read.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sections<'a> {
    annotations: Option<Fields<'a>>,
    properties: Option<Fields<'a>>,
    application: Option<Fields<'a>>,
    /// What follows the annotated parts: the body sections and the footer.
    body: &'a [u8],
}

impl<'a> Sections<'a> {
    pub(crate) fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut sections = Self::default();
        let mut rest = message;
        while !rest.is_empty() {
            let (described, tail) = section(rest)?;
            let known = match described.code {
                code::HEADER | code::DELIVERY_ANNOTATIONS => None,
                code::MESSAGE_ANNOTATIONS => Some(&mut sections.annotations),
                code::PROPERTIES => Some(&mut sections.properties),
                code::APPLICATION_PROPERTIES => Some(&mut sections.application),
                code::DATA | code::AMQP_VALUE | code::AMQP_SEQUENCE | code::FOOTER => break,
                _ => return Err(DecodeError("not a message section")),
            };
            if let Some(slot) = known {
                match read::value(described.value)? {
                    Value::List(fields) | Value::Map(fields) => *slot = Some(fields),
                    _ => return Err(DecodeError("a message section has the wrong type")),
                }
            }
            rest = tail;
        }
        sections.body = rest;
        Ok(sections)
    }

    /// The fields of the properties section, all null if there is none.
    pub(crate) fn properties(&self) -> Result<MessageProperties<'a>, DecodeError> {
        let Some(mut fields) = self.properties else {
            return Ok(MessageProperties::default());
        };
        let message_id = fields.raw()?;
        let user_id = match fields.next()? {
            Value::Binary(bytes) => Some(bytes),
            _ => None,
        };
        let to = fields.text()?;
        fields.skip(2)?;
        let correlation_id = fields.raw()?;
        let (content_type, content_encoding) = (fields.text()?, fields.text()?);
        let mut timestamp = || {
            Ok(match fields.next()? {
                Value::Timestamp(millis) => Some(millis),
                _ => None,
            })
        };
        let (absolute_expiry_time, creation_time) = (timestamp()?, timestamp()?);
        Ok(MessageProperties {
            message_id,
            user_id,
            to,
            correlation_id,
            content_type,
            content_encoding,
            absolute_expiry_time,
            creation_time,
        })
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<Value<'a>> {
        find(self.annotations?, name)
    }

    pub(crate) fn application_property(&self, name: &str) -> Option<Value<'a>> {
        find(self.application?, name)
    }

    /// Calls `each` with every application property that reads as a text.
    pub(crate) fn each_application_property(
        &self,
        each: impl FnMut(&str, String),
    ) -> Result<(), DecodeError> {
        each_text(self.application, each)
    }

    /// Calls `each` with every application property, and its value as encoded.
    pub(crate) fn each_raw_application_property(
        &self,
        mut each: impl FnMut(&str, Value<'a>, &'a [u8]),
    ) -> Result<(), DecodeError> {
        let mut pairs = self.application.unwrap_or_default();
        while !pairs.is_empty() {
            let (key, (value, raw)) = (pairs.next()?, pairs.next_raw()?);
            if let Some(key) = key.text() {
                each(key, value, raw);
            }
        }
        Ok(())
    }

    /// Calls `each` with every message annotation that reads as a text.
    pub(crate) fn each_annotation(
        &self,
        each: impl FnMut(&str, String),
    ) -> Result<(), DecodeError> {
        each_text(self.annotations, each)
    }

    /// The body's Data sections in turn, or the binary or text of an `amqp-value`.
    pub(crate) fn data(&self) -> Data<'a> {
        Data(self.body)
    }

    /// The body as one piece of bytes.
    pub(crate) fn body(&self) -> Result<bytes::Bytes, DecodeError> {
        let mut whole = BytesMut::new();
        for part in self.data() {
            whole.put_slice(part?);
        }
        Ok(whole.freeze())
    }
}

/// A message for readers: what its sender annotated it with, and the sections that pass unchanged.
#[derive(Debug, Default)]
pub(crate) struct Annotated<'a> {
    pub(crate) annotations: Option<Fields<'a>>,
    /// Properties, application properties, body and footer, each as encoded.
    pub(crate) others: Vec<&'a [u8]>,
}

/// Takes a message apart to give it other annotations; what cannot be read of its end is left out.
pub(crate) fn annotated(message: &[u8]) -> Annotated<'_> {
    let mut parts = Annotated::default();
    let mut rest = message;
    while let Ok((described, tail)) = section(rest) {
        match described.code {
            code::HEADER | code::DELIVERY_ANNOTATIONS => {}
            code::MESSAGE_ANNOTATIONS => {
                if let Ok(Value::Map(annotations)) = read::value(described.value) {
                    parts.annotations = Some(annotations);
                }
            }
            _ => parts.others.push(&rest[..rest.len() - tail.len()]),
        }
        rest = tail;
    }
    parts
}

fn section(bytes: &[u8]) -> Result<(read::Described<'_>, &[u8]), DecodeError> {
    match read::split(bytes)? {
        (Value::Described(described), _, rest) => Ok((described, rest)),
        _ => Err(DecodeError("a message section must be described")),
    }
}

fn each_text(
    pairs: Option<Fields<'_>>,
    mut each: impl FnMut(&str, String),
) -> Result<(), DecodeError> {
    let Some(mut pairs) = pairs else {
        return Ok(());
    };
    while !pairs.is_empty() {
        let (key, value) = (pairs.next()?, pairs.next()?);
        if let (Some(key), Some(value)) = (key.text(), display(value)) {
            each(key, value);
        }
    }
    Ok(())
}

fn find<'a>(mut pairs: Fields<'a>, name: &str) -> Option<Value<'a>> {
    while !pairs.is_empty() {
        let (key, value) = (pairs.next().ok()?, pairs.next().ok()?);
        if key.text() == Some(name) {
            return Some(value);
        }
    }
    None
}

/// Iterates over the body sections of a message.
#[derive(Debug)]
pub(crate) struct Data<'a>(&'a [u8]);

impl<'a> Iterator for Data<'a> {
    type Item = Result<&'a [u8], DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            let (described, rest) = match section(self.0) {
                Ok(found) => found,
                Err(error) => {
                    self.0 = &[];
                    return Some(Err(error));
                }
            };
            self.0 = rest;
            if matches!(described.code, code::DATA | code::AMQP_VALUE) {
                return Some(read::value(described.value).map(|value| match value {
                    Value::Binary(bytes) => bytes,
                    Value::Str(text) | Value::Symbol(text) => text.as_bytes(),
                    _ => &[],
                }));
            }
        }
        None
    }
}

/// The properties section as far as the hub uses it; ids are kept as encoded.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MessageProperties<'a> {
    pub(crate) message_id: Option<&'a [u8]>,
    pub(crate) user_id: Option<&'a [u8]>,
    pub(crate) to: Option<&'a str>,
    pub(crate) correlation_id: Option<&'a [u8]>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) content_encoding: Option<&'a str>,
    /// Milliseconds since the Unix epoch.
    pub(crate) absolute_expiry_time: Option<i64>,
    pub(crate) creation_time: Option<i64>,
}

/// An id or property value as text: uuids hyphenated, numbers in decimal.
pub(crate) fn display(value: Value<'_>) -> Option<String> {
    Some(match value {
        Value::Str(text) | Value::Symbol(text) => text.to_owned(),
        Value::Unsigned(number) => number.to_string(),
        Value::Signed(number) | Value::Timestamp(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Char(character) => character.to_string(),
        Value::Uuid(bytes) => crate::guid::Guid::from_bytes(bytes).to_string(),
        Value::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => return None,
    })
}

/// An encoded id as text.
pub(crate) fn display_id(raw: Option<&[u8]>) -> Option<String> {
    display(read::value(raw?).ok()?)
}

/// A message of the hub, written section by section in the order the protocol asks for.
#[derive(Debug, Default)]
pub(crate) struct MessageWriter {
    out: BytesMut,
}

impl MessageWriter {
    /// Message annotations: `put` writes `pairs` symbols each with its value.
    pub(crate) fn annotations(mut self, pairs: u32, put: impl FnOnce(&mut BytesMut)) -> Self {
        write::descriptor(&mut self.out, code::MESSAGE_ANNOTATIONS);
        write::map(&mut self.out, pairs, put);
        self
    }

    /// All thirteen properties; ids are already encoded.
    pub(crate) fn properties(mut self, properties: &OutProperties<'_>) -> Self {
        let out = &mut self.out;
        let raw = |out: &mut BytesMut, bytes: &[u8]| out.put_slice(bytes);
        write::descriptor(out, code::PROPERTIES);
        write::list(out, 13, |out| {
            write::option(out, properties.message_id, raw);
            write::option(out, properties.user_id, write::binary);
            write::option(out, properties.to, write::string);
            out.put_bytes(0x40, 2);
            write::option(out, properties.correlation_id, raw);
            write::option(out, properties.content_type, write::symbol);
            write::option(out, properties.content_encoding, write::symbol);
            write::option(out, properties.absolute_expiry_time, write::timestamp);
            write::option(out, properties.creation_time, write::timestamp);
            out.put_bytes(0x40, 3);
        });
        self
    }

    /// Application properties: `put` writes `pairs` strings each with its value.
    pub(crate) fn application(mut self, pairs: u32, put: impl FnOnce(&mut BytesMut)) -> Self {
        write::descriptor(&mut self.out, code::APPLICATION_PROPERTIES);
        write::map(&mut self.out, pairs, put);
        self
    }

    pub(crate) fn data(mut self, body: &[u8]) -> Self {
        write::descriptor(&mut self.out, code::DATA);
        write::binary(&mut self.out, body);
        self
    }

    /// An `amqp-value` that is already encoded.
    pub(crate) fn value(mut self, encoded: &[u8]) -> Self {
        write::descriptor(&mut self.out, code::AMQP_VALUE);
        self.out.put_slice(encoded);
        self
    }

    pub(crate) fn finish(self) -> bytes::Bytes {
        self.out.freeze()
    }
}

/// Properties that the hub sets on its messages.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct OutProperties<'a> {
    pub(crate) message_id: Option<&'a [u8]>,
    pub(crate) user_id: Option<&'a [u8]>,
    pub(crate) to: Option<&'a str>,
    pub(crate) correlation_id: Option<&'a [u8]>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) content_encoding: Option<&'a str>,
    pub(crate) absolute_expiry_time: Option<i64>,
    pub(crate) creation_time: Option<i64>,
}
