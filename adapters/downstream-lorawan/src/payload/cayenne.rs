//! Cayenne Low Power Payload.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Number, Value};

use super::{CodecError, DecodeInput, Decoded, Encoded, PayloadCodec};

/// Reads Cayenne LPP: values one after the other, each with a channel and a type.
///
/// A value becomes the member `{type}_{channel}`, such as `temperature_3`; one with several parts
/// is an object. Later values of the same channel and type win. It writes nothing.
///
/// Source: myDevices, "Cayenne Low Power Payload" 2.0, and the types that The Things Network and
/// ChirpStack added to it.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct CayenneLpp;

impl CayenneLpp {
    /// Makes the codec.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// Reads a payload as a JSON object.
    ///
    /// # Errors
    /// A type is not known, or the payload ends within a value.
    pub fn read(payload: &[u8]) -> Result<Value, CodecError> {
        let mut members = Map::new();
        let mut rest = payload;
        while let [channel, kind, after @ ..] = rest {
            let refuse = |problem| CodecError::Refused(vec![format!("type {kind} {problem}")]);
            let layout = TYPES.iter().find(|layout| layout.kind == *kind);
            let layout = layout.ok_or_else(|| refuse("is not known"))?;
            let (value, after) = layout.read(after).ok_or_else(|| refuse("is cut off"))?;
            members.insert(format!("{}_{channel}", layout.name), value);
            rest = after;
        }
        match rest {
            [] => Ok(Value::Object(members)),
            _ => {
                let problem = "a channel without a value is at the end";
                Err(CodecError::Refused(vec![problem.to_owned()]))
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl PayloadCodec for CayenneLpp {
    async fn decode(&self, input: DecodeInput) -> Result<Decoded, CodecError> {
        Self::read(&input.bytes).map(|value| Decoded::new(value.to_string()))
    }

    async fn encode(&self, _: Bytes, _: Option<u8>) -> Result<Encoded, CodecError> {
        Err(CodecError::Unsupported("encoder"))
    }
}

/// How a type is laid out.
struct Layout {
    kind: u8,
    name: &'static str,
    /// One without a name is the value itself.
    parts: &'static [Part],
}

/// A big-endian number.
struct Part {
    name: &'static str,
    bytes: usize,
    is_signed: bool,
    divisor: f64,
}

const fn unsigned(name: &'static str, bytes: usize, divisor: f64) -> Part {
    Part {
        name,
        bytes,
        is_signed: false,
        divisor,
    }
}

const fn signed(name: &'static str, bytes: usize, divisor: f64) -> Part {
    Part {
        name,
        bytes,
        is_signed: true,
        divisor,
    }
}

const fn layout(kind: u8, name: &'static str, parts: &'static [Part]) -> Layout {
    Layout { kind, name, parts }
}

const TYPES: [Layout; 26] = [
    layout(0, "digital_in", &[unsigned("", 1, 1.0)]),
    layout(1, "digital_out", &[unsigned("", 1, 1.0)]),
    layout(2, "analog_in", &[signed("", 2, 100.0)]),
    layout(3, "analog_out", &[signed("", 2, 100.0)]),
    layout(100, "generic", &[unsigned("", 4, 1.0)]),
    layout(101, "luminosity", &[unsigned("", 2, 1.0)]),
    layout(102, "presence", &[unsigned("", 1, 1.0)]),
    layout(103, "temperature", &[signed("", 2, 10.0)]),
    layout(104, "relative_humidity", &[unsigned("", 1, 2.0)]),
    layout(
        113,
        "accelerometer",
        &[
            signed("x", 2, 1000.0),
            signed("y", 2, 1000.0),
            signed("z", 2, 1000.0),
        ],
    ),
    layout(115, "barometric_pressure", &[unsigned("", 2, 10.0)]),
    layout(116, "voltage", &[unsigned("", 2, 100.0)]),
    layout(117, "current", &[unsigned("", 2, 1000.0)]),
    layout(118, "frequency", &[unsigned("", 4, 1.0)]),
    layout(120, "percentage", &[unsigned("", 1, 1.0)]),
    layout(121, "altitude", &[signed("", 2, 1.0)]),
    layout(125, "concentration", &[unsigned("", 2, 1.0)]),
    layout(128, "power", &[unsigned("", 2, 1.0)]),
    layout(130, "distance", &[unsigned("", 4, 1000.0)]),
    layout(131, "energy", &[unsigned("", 4, 1000.0)]),
    layout(132, "direction", &[unsigned("", 2, 1.0)]),
    layout(133, "unix_time", &[unsigned("", 4, 1.0)]),
    layout(
        134,
        "gyrometer",
        &[
            signed("x", 2, 100.0),
            signed("y", 2, 100.0),
            signed("z", 2, 100.0),
        ],
    ),
    layout(
        135,
        "colour",
        &[
            unsigned("r", 1, 1.0),
            unsigned("g", 1, 1.0),
            unsigned("b", 1, 1.0),
        ],
    ),
    layout(
        136,
        "gps",
        &[
            signed("latitude", 3, 10_000.0),
            signed("longitude", 3, 10_000.0),
            signed("altitude", 3, 100.0),
        ],
    ),
    layout(142, "switch", &[unsigned("", 1, 1.0)]),
];

impl Layout {
    /// Reads a value off the front; none if it is cut off.
    fn read<'a>(&self, mut bytes: &'a [u8]) -> Option<(Value, &'a [u8])> {
        let mut members = Map::new();
        for part in self.parts {
            let (number, rest) = bytes.split_at_checked(part.bytes)?;
            bytes = rest;
            let value = Value::Number(part.read(number));
            if part.name.is_empty() {
                return Some((value, bytes));
            }
            members.insert(part.name.to_owned(), value);
        }
        Some((Value::Object(members), bytes))
    }
}

impl Part {
    fn read(&self, bytes: &[u8]) -> Number {
        let whole = bytes
            .iter()
            .fold(0_i64, |sum, byte| sum << 8 | i64::from(*byte));
        let bits = 8 * self.bytes;
        let is_negative = self.is_signed && whole >> (bits - 1) == 1;
        let whole = if is_negative {
            whole - (1 << bits)
        } else {
            whole
        };
        match self.divisor {
            1.0 => whole.into(),
            // At most 32 bits: nothing is lost, and the result is finite.
            divisor => Number::from_f64(whole as f64 / divisor).unwrap_or_else(|| whole.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The examples of the specification, and one of each odd layout.
    #[test]
    fn the_examples_are_read() {
        for (payload, value) in [
            (
                &[3, 103, 0x01, 0x10, 5, 103, 0x00, 0xff][..],
                json!({"temperature_3": 27.2, "temperature_5": 25.5}),
            ),
            (
                &[6, 113, 0x04, 0xd2, 0xfb, 0x2e, 0x00, 0x00],
                json!({"accelerometer_6": {"x": 1.234, "y": -1.234, "z": 0.0}}),
            ),
            (
                &[1, 136, 0x06, 0x76, 0x5f, 0xf2, 0x96, 0x0a, 0x00, 0x03, 0xe8],
                json!({"gps_1": {"latitude": 42.3519, "longitude": -87.9094, "altitude": 10.0}}),
            ),
            (&[1, 103, 0xff, 0xd7], json!({"temperature_1": -4.1})),
            (&[2, 104, 99], json!({"relative_humidity_2": 49.5})),
            (
                &[4, 133, 0xff, 0xff, 0xff, 0xff],
                json!({"unix_time_4": 4_294_967_295_u32}),
            ),
            (&[], json!({})),
        ] {
            assert_eq!(CayenneLpp::read(payload), Ok(value));
        }
    }

    #[test]
    fn an_unknown_type_or_a_value_cut_off_is_named() {
        for (payload, problem) in [
            (&[1, 99, 0][..], "type 99 is not known"),
            (&[1, 103, 0], "type 103 is cut off"),
            (&[1], "a channel without a value is at the end"),
        ] {
            let refused = CodecError::Refused(vec![problem.to_owned()]);
            assert_eq!(CayenneLpp::read(payload), Err(refused));
        }
    }

    proptest! {
        /// Whatever is read, each of its values took at least three bytes.
        #[test]
        fn any_bytes_are_read_or_refused(payload in prop::collection::vec(any::<u8>(), 0..242)) {
            if let Ok(value) = CayenneLpp::read(&payload) {
                let members = value.as_object().unwrap().len();
                prop_assert!(members * 3 <= payload.len());
            }
        }
    }
}
