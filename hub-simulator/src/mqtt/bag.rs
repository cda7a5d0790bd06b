//! Property bags: names and values that a topic ends in.
//!
//! Source: Microsoft, "Communicate with an IoT hub using the MQTT protocol": percent-encoded
//! `name=value` pairs between `&`; a bare name is a null, `name=` an empty text. A plus sign is itself,
//! not a space.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What stays as it is in names and values; the hub encodes even the `$` of system names.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A property; a null has no value.
pub(crate) type Property = (String, Option<String>);

/// The text is no property bag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the property bag is malformed")]
pub(crate) struct NotABag;

/// Reads a bag, with or without the question mark before it.
pub(crate) fn parse(text: &str) -> Result<Vec<Property>, NotABag> {
    let text = text.strip_prefix('?').unwrap_or(text);
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name, Some(decode(value)?)),
                None => (pair, None),
            };
            let name = decode(name)?;
            if name.is_empty() {
                return Err(NotABag);
            }
            Ok((name, value))
        })
        .collect()
}

/// Writes a bag.
pub(crate) fn write<'a>(
    properties: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> String {
    let mut bag = String::new();
    for (name, value) in properties {
        if !bag.is_empty() {
            bag.push('&');
        }
        bag.extend(utf8_percent_encode(name, PLAIN));
        if let Some(value) = value {
            bag.push('=');
            bag.extend(utf8_percent_encode(value, PLAIN));
        }
    }
    bag
}

/// Encodes a topic segment that may hold anything.
pub(crate) fn encode(segment: &str) -> String {
    utf8_percent_encode(segment, PLAIN).to_string()
}

/// Decodes a name or value; half an escape, or bytes that are no UTF-8, are an error.
pub(crate) fn decode(text: &str) -> Result<String, NotABag> {
    let mut escapes = text.split('%').skip(1);
    let is_whole = |escape: &str| {
        let digits = escape.as_bytes().first_chunk::<2>();
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !escapes.all(is_whole) {
        return Err(NotABag);
    }
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| NotABag)?.into_owned())
}

/// The parameters of a request: `$rid` as it is spelt, and the others decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// Goes back as it came.
    pub(crate) id: Option<&'a str>,
    others: Vec<Property>,
}

impl<'a> Request<'a> {
    /// Reads what follows the last slash of a request's topic, which begins with a question mark.
    pub(crate) fn parse(text: &'a str) -> Result<Self, NotABag> {
        let text = text.strip_prefix('?').ok_or(NotABag)?;
        let rid = |pair: &&'a str| {
            let (name, value) = pair.split_once('=')?;
            (matches!(name, "$rid" | "%24rid") && !value.is_empty()).then_some(value)
        };
        let id = text.split('&').find_map(|pair| rid(&pair));
        let others = parse(text)?
            .into_iter()
            .filter(|(name, _)| name != "$rid")
            .collect();
        Ok(Self { id, others })
    }

    /// A parameter other than the request's id.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.others.iter().find(|(own, _)| own == name);
        found.and_then(|(_, value)| value.as_deref())
    }
}

/// The tail of a reply's topic: the id of its request, and more.
pub(crate) fn reply(id: &str, more: &[(&str, u64)]) -> String {
    let mut tail = format!("?$rid={id}");
    for (name, value) in more {
        write!(tail, "&{name}={value}").expect("a string takes any text");
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn borrowed(properties: &[Property]) -> impl Iterator<Item = (&str, Option<&str>)> {
        properties
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    proptest! {
        #[test]
        fn every_bag_is_read_as_it_was_written(
            properties in proptest::collection::vec((".{1,12}", proptest::option::of(".{0,12}")), 0..6),
        ) {
            let bag = write(borrowed(&properties));
            prop_assert!(bag.is_ascii() && !bag.contains(['/', '#', '+', '?', '$', ' ']));
            prop_assert_eq!(parse(&bag).unwrap(), properties);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}") {
            drop(parse(&text));
            drop(Request::parse(&text));
        }

        #[test]
        fn a_bag_that_is_read_means_the_same_when_written_anew(text in "[a-z0-9%&=$.+]{0,40}") {
            if let Ok(properties) = parse(&text) {
                prop_assert_eq!(parse(&write(borrowed(&properties))).unwrap(), properties);
            }
        }
    }

    #[test]
    fn nulls_empty_texts_and_plus_signs_are_kept_apart() {
        let property =
            |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        let bag = "?prop1&prop2=&prop3=a%20string&$.ct=application%2Fjson&%24.mid=1+1=2";
        let expected = [
            property("prop1", None),
            property("prop2", Some("")),
            property("prop3", Some("a string")),
            property("$.ct", Some("application/json")),
            property("$.mid", Some("1+1=2")),
        ];
        assert_eq!(parse(bag).unwrap(), expected);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn the_hub_encodes_even_the_dollar_of_a_system_name() {
        let bag = write([
            ("$.mid", Some("m 1")),
            ("iothub-ack", Some("full")),
            ("n", None),
        ]);
        assert_eq!(bag, "%24.mid=m%201&iothub-ack=full&n");
    }

    #[test]
    fn half_an_escape_is_no_bag() {
        for bad in ["a=%", "a=%2", "a=%zz", "%=1", "a=%ff", "=1"] {
            assert_eq!(parse(bad), Err(NotABag), "{bad}");
        }
    }

    #[test]
    fn a_request_has_its_id_wherever_it_stands() {
        let request = Request::parse("?$version=4&$rid=a%20b").unwrap();
        assert_eq!(
            (request.id, request.get("$version")),
            (Some("a%20b"), Some("4"))
        );
        assert_eq!(Request::parse("?x").unwrap().id, None);
        assert_eq!(Request::parse("$rid=1"), Err(NotABag));
        assert_eq!(reply("7", &[("$version", 3)]), "?$rid=7&$version=3");
    }
}
