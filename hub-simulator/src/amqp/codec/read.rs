//! Reads AMQP values from untrusted bytes: borrowed, bounds-checked and without recursion.
//!
//! Compound values are split off whole and read item by item by whoever wants their contents, so no
//! nesting a peer can send makes the reader go deeper.

use super::DecodeError;

/// One decoded value. Integer widths are merged: an id that must be echoed with its type is kept as
/// its encoded bytes instead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Char(char),
    Timestamp(i64),
    Uuid([u8; 16]),
    Binary(&'a [u8]),
    Str(&'a str),
    Symbol(&'a str),
    List(Fields<'a>),
    Map(Fields<'a>),
    Array,
    Described(Described<'a>),
    /// A type that nothing here looks into (decimals).
    Other,
}

/// A described value: its descriptor, and the encoded value behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Described<'a> {
    pub(crate) code: u64,
    pub(crate) value: &'a [u8],
}

impl<'a> Value<'a> {
    /// The text of a string or symbol.
    pub(crate) fn text(self) -> Option<&'a str> {
        match self {
            Value::Str(text) | Value::Symbol(text) => Some(text),
            _ => None,
        }
    }
}

/// Splits the first value off `input`: the value, its encoded bytes, and what follows.
pub(crate) fn split(input: &[u8]) -> Result<(Value<'_>, &[u8], &[u8]), DecodeError> {
    let mut cursor = Cursor(input);
    let value = cursor.value(true)?;
    let used = input.len() - cursor.0.len();
    Ok((value, &input[..used], cursor.0))
}

/// Reads exactly one value.
pub(crate) fn value(input: &[u8]) -> Result<Value<'_>, DecodeError> {
    Ok(split(input)?.0)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .0
            .split_at_checked(len)
            .ok_or(DecodeError("a value is cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self
            .0
            .split_first_chunk()
            .ok_or(DecodeError("a value is cut short"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn len8(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u8()?.into();
        self.take(len)
    }

    fn len32(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    fn fields8(&mut self) -> Result<Fields<'a>, DecodeError> {
        let mut body = Cursor(self.len8()?);
        let left = body.u8()?.into();
        Fields::new(left, body.0)
    }

    fn fields32(&mut self) -> Result<Fields<'a>, DecodeError> {
        let mut body = Cursor(self.len32()?);
        let left = body.u32()?;
        Fields::new(left, body.0)
    }

    fn value(&mut self, may_be_described: bool) -> Result<Value<'a>, DecodeError> {
        Ok(match self.u8()? {
            0x00 if may_be_described => Value::Described(self.described()?),
            0x40 => Value::Null,
            0x41 => Value::Bool(true),
            0x42 => Value::Bool(false),
            0x56 => Value::Bool(self.u8()? != 0),
            0x43 | 0x44 => Value::Unsigned(0),
            0x50 | 0x52 | 0x53 => Value::Unsigned(self.u8()?.into()),
            0x60 => Value::Unsigned(u16::from_be_bytes(self.array()?).into()),
            0x70 => Value::Unsigned(self.u32()?.into()),
            0x80 => Value::Unsigned(u64::from_be_bytes(self.array()?)),
            0x51 | 0x54 | 0x55 => Value::Signed(i8::from_be_bytes(self.array()?).into()),
            0x61 => Value::Signed(i16::from_be_bytes(self.array()?).into()),
            0x71 => Value::Signed(i32::from_be_bytes(self.array()?).into()),
            0x81 => Value::Signed(i64::from_be_bytes(self.array()?)),
            0x72 => Value::Float(f32::from_be_bytes(self.array()?).into()),
            0x82 => Value::Float(f64::from_be_bytes(self.array()?)),
            0x73 => {
                let scalar = self.u32()?;
                Value::Char(char::from_u32(scalar).ok_or(DecodeError("not a character"))?)
            }
            0x83 => Value::Timestamp(i64::from_be_bytes(self.array()?)),
            0x98 => Value::Uuid(self.array()?),
            0x74 => self.take(4).map(|_| Value::Other)?,
            0x84 => self.take(8).map(|_| Value::Other)?,
            0x94 => self.take(16).map(|_| Value::Other)?,
            0xa0 => Value::Binary(self.len8()?),
            0xb0 => Value::Binary(self.len32()?),
            0xa1 => Value::Str(utf8(self.len8()?)?),
            0xb1 => Value::Str(utf8(self.len32()?)?),
            0xa3 => Value::Symbol(utf8(self.len8()?)?),
            0xb3 => Value::Symbol(utf8(self.len32()?)?),
            0x45 => Value::List(Fields { left: 0, rest: &[] }),
            0xc0 => Value::List(self.fields8()?),
            0xd0 => Value::List(self.fields32()?),
            0xc1 => Value::Map(self.fields8()?),
            0xd1 => Value::Map(self.fields32()?),
            0xe0 => self.len8().map(|_| Value::Array)?,
            0xf0 => self.len32().map(|_| Value::Array)?,
            _ => return Err(DecodeError("unknown type constructor")),
        })
    }

    /// Descriptors are numbers or symbols and never described themselves, nor are described values
    /// nested directly: nothing in the protocol does that.
    fn described(&mut self) -> Result<Described<'a>, DecodeError> {
        let code = match self.value(false)? {
            Value::Unsigned(code) => code,
            Value::Symbol(name) => symbolic_descriptor(name),
            _ => return Err(DecodeError("a descriptor must be a ulong or a symbol")),
        };
        let before = self.0;
        self.value(false)?;
        Ok(Described {
            code,
            value: &before[..before.len() - self.0.len()],
        })
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError("text is not UTF-8"))
}

/// Descriptors may be written as symbols (AMQP 1.0 section 1.2.1); unknown ones read as 0.
fn symbolic_descriptor(name: &str) -> u64 {
    use super::code;
    match name {
        "amqp:open:list" => code::OPEN,
        "amqp:begin:list" => code::BEGIN,
        "amqp:attach:list" => code::ATTACH,
        "amqp:flow:list" => code::FLOW,
        "amqp:transfer:list" => code::TRANSFER,
        "amqp:disposition:list" => code::DISPOSITION,
        "amqp:detach:list" => code::DETACH,
        "amqp:end:list" => code::END,
        "amqp:close:list" => code::CLOSE,
        "amqp:error:list" => code::ERROR,
        "amqp:source:list" => code::SOURCE,
        "amqp:target:list" => code::TARGET,
        "amqp:accepted:list" => code::ACCEPTED,
        "amqp:rejected:list" => code::REJECTED,
        "amqp:released:list" => code::RELEASED,
        "amqp:modified:list" => code::MODIFIED,
        "amqp:sasl-init:list" => code::SASL_INIT,
        "amqp:header:list" => code::HEADER,
        "amqp:delivery-annotations:map" => code::DELIVERY_ANNOTATIONS,
        "amqp:message-annotations:map" => code::MESSAGE_ANNOTATIONS,
        "amqp:properties:list" => code::PROPERTIES,
        "amqp:application-properties:map" => code::APPLICATION_PROPERTIES,
        "amqp:data:binary" => code::DATA,
        "amqp:amqp-sequence:list" => code::AMQP_SEQUENCE,
        "amqp:amqp-value:*" => code::AMQP_VALUE,
        "amqp:footer:map" => code::FOOTER,
        "apache.org:selector-filter:string" => code::SELECTOR_FILTER,
        _ => 0,
    }
}

/// The items of a list, or the keys and values of a map in turn.
///
/// A list may end early: fields beyond its end read as null (AMQP 1.0 section 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Fields<'a> {
    left: u32,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(left: u32, rest: &'a [u8]) -> Result<Self, DecodeError> {
        // Every item takes at least its constructor.
        if left as usize > rest.len() {
            return Err(DecodeError(
                "a compound value counts more items than it has bytes",
            ));
        }
        Ok(Self { left, rest })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The next item and its encoded bytes.
    pub(crate) fn next_raw(&mut self) -> Result<(Value<'a>, &'a [u8]), DecodeError> {
        if self.left == 0 {
            return Ok((Value::Null, &[0x40]));
        }
        let (value, raw, rest) = split(self.rest)?;
        self.left -= 1;
        self.rest = rest;
        Ok((value, raw))
    }

    pub(crate) fn next(&mut self) -> Result<Value<'a>, DecodeError> {
        Ok(self.next_raw()?.0)
    }

    /// The encoded bytes of the next item, `None` for null.
    pub(crate) fn raw(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let (value, raw) = self.next_raw()?;
        Ok((value != Value::Null).then_some(raw))
    }

    pub(crate) fn skip(&mut self, count: usize) -> Result<(), DecodeError> {
        for _ in 0..count {
            self.next()?;
        }
        Ok(())
    }

    pub(crate) fn uint(&mut self) -> Result<Option<u32>, DecodeError> {
        match self.next()? {
            Value::Null => Ok(None),
            Value::Unsigned(number) => u32::try_from(number)
                .map(Some)
                .map_err(|_| DecodeError("a number is out of range")),
            _ => Err(DecodeError("a field must be an unsigned number")),
        }
    }

    pub(crate) fn ushort(&mut self) -> Result<Option<u16>, DecodeError> {
        self.uint()?
            .map(|number| {
                u16::try_from(number).map_err(|_| DecodeError("a number is out of range"))
            })
            .transpose()
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, DecodeError> {
        match self.next()? {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(flag),
            _ => Err(DecodeError("a field must be a boolean")),
        }
    }

    pub(crate) fn text(&mut self) -> Result<Option<&'a str>, DecodeError> {
        match self.next()? {
            Value::Null => Ok(None),
            Value::Str(text) | Value::Symbol(text) => Ok(Some(text)),
            _ => Err(DecodeError("a field must be a text")),
        }
    }

    pub(crate) fn binary(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.next()? {
            Value::Null => Ok(None),
            Value::Binary(bytes) => Ok(Some(bytes)),
            _ => Err(DecodeError("a field must be binary")),
        }
    }

    pub(crate) fn described(&mut self) -> Result<Option<Described<'a>>, DecodeError> {
        match self.next()? {
            Value::Null => Ok(None),
            Value::Described(described) => Ok(Some(described)),
            _ => Err(DecodeError("a field must be a described type")),
        }
    }
}

impl<'a> Described<'a> {
    /// The fields of a described list.
    pub(crate) fn fields(self) -> Result<Fields<'a>, DecodeError> {
        match value(self.value)? {
            Value::List(fields) => Ok(fields),
            _ => Err(DecodeError("a described value must be a list")),
        }
    }
}
