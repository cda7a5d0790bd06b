//! What a FETCH asks of a twin (RFC 8132, section 2): some of its properties, by their names.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::proto::message::{Code, Message, option};

const JSON: u32 = 50;
/// Comes with every selection: whoever acknowledges a property says of which version it is.
const VERSION: &str = "$version";

/// The properties that a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    All,
    Named(Vec<String>),
}

impl Selection {
    /// Reads the names, a JSON array, from a FETCH. Any other request is for all properties.
    pub(crate) fn read(message: &Message) -> Result<Self, Code> {
        if message.code != Code::FETCH {
            return match message.payload.is_empty() {
                true => Ok(Self::All),
                false => Err(Code::UNSUPPORTED_FORMAT),
            };
        }
        let format = message.options.uint(option::CONTENT_FORMAT);
        if format.is_some_and(|format| format != JSON) {
            return Err(Code::UNSUPPORTED_FORMAT);
        }
        let names = serde_json::from_slice(&message.payload);
        names.map(Self::Named).map_err(|_| Code::BAD_REQUEST)
    }

    /// Picks properties out of a JSON object. Names that are not there are left out.
    ///
    /// # Errors
    /// It is no object.
    pub(crate) fn pick(&self, properties: &RawValue) -> serde_json::Result<Box<RawValue>> {
        let Self::Named(names) = self else {
            return Ok(properties.to_owned());
        };
        let all: BTreeMap<String, &RawValue> = serde_json::from_str(properties.get())?;
        let is_wanted = |name: &str| name == VERSION || names.iter().any(|wanted| wanted == name);
        let picked = all.into_iter().filter(|(name, _)| is_wanted(name));
        serde_json::value::to_raw_value(&picked.collect::<BTreeMap<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(body: &str) -> Message {
        Message::new(Code::FETCH).with_payload(body.to_owned())
    }

    #[test]
    fn names_that_are_there_are_picked_with_the_version() {
        let selection = Selection::read(&fetch(r#"["b","none"]"#)).unwrap();
        let all = r#"{"a":1,"b":{"c":[1, 2]},"$version":7,"$metadata":{}}"#;
        let picked = selection.pick(serde_json::from_str(all).unwrap()).unwrap();
        assert_eq!(picked.get(), r#"{"$version":7,"b":{"c":[1, 2]}}"#);
    }

    #[test]
    fn what_is_no_array_of_names_is_refused() {
        for body in ["", "{}", "[1]", "\"a\"", "[\"a\""] {
            assert_eq!(Selection::read(&fetch(body)), Err(Code::BAD_REQUEST));
        }
        let cbor = fetch("[]").with_uint(option::CONTENT_FORMAT, 60);
        assert_eq!(Selection::read(&cbor), Err(Code::UNSUPPORTED_FORMAT));
        let get = Message::new(Code::GET);
        assert_eq!(Selection::read(&get), Ok(Selection::All));
    }
}
