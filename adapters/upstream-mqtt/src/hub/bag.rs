//! Property bags: the names and values that a topic ends in.
//!
//! Source: Microsoft, "Communicate with an IoT hub using the MQTT protocol": percent-encoded
//! `name=value` pairs between `&`; a bare name is a null, `name=` an empty text.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What stays as it is: RFC 3986's unreserved characters. Like Microsoft's SDKs for Python and Node,
/// this encodes even the `$` of a system name.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Appends a property to what there is of a topic or bag; `is_first` if no other comes before it.
pub(super) fn push(bag: &mut String, name: &str, value: &str, is_first: bool) {
    if !is_first {
        bag.push('&');
    }
    bag.extend(utf8_percent_encode(name, PLAIN));
    bag.push('=');
    bag.extend(utf8_percent_encode(value, PLAIN));
}

/// Encodes a segment of a topic that may hold anything.
pub(super) fn encode(segment: &str) -> String {
    utf8_percent_encode(segment, PLAIN).to_string()
}

/// Decodes a name or value as far as it can be: half an escape stays as it is.
pub(super) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Reads a bag, with or without the question mark before it. A null counts as empty, and a pair
/// without a name as none.
pub(super) fn parse(bag: &str) -> impl Iterator<Item = (String, String)> {
    let bag = bag.strip_prefix('?').unwrap_or(bag);
    bag.split('&').filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (!name.is_empty()).then(|| (decode(name), decode(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(properties: &[(String, String)]) -> String {
        let mut bag = String::new();
        for (at, (name, value)) in properties.iter().enumerate() {
            push(&mut bag, name, value, at == 0);
        }
        bag
    }

    proptest! {
        #[test]
        fn every_bag_is_read_as_it_was_written(
            properties in proptest::collection::vec(("(?s).{1,12}", "(?s).{0,12}"), 0..6),
        ) {
            let bag = write(&properties);
            let is_free_of_topics_own = !bag.contains(['/', '#', '+', '?', '$', ' ', '\0']);
            prop_assert!(bag.is_ascii() && is_free_of_topics_own, "{}", bag);
            prop_assert_eq!(parse(&bag).collect::<Vec<_>>(), properties);
        }

        #[test]
        fn any_text_is_read_without_a_panic_and_means_the_same_when_written_anew(
            text in "[a-z%&=$.+?é]{0,60}",
        ) {
            let properties: Vec<_> = parse(&text).filter(|(name, _)| !name.is_empty()).collect();
            prop_assert_eq!(parse(&write(&properties)).collect::<Vec<_>>(), properties);
        }
    }

    #[test]
    fn nulls_empty_texts_and_plus_signs_are_read_as_the_hub_means_them() {
        let bag =
            "?prop1&prop2=&=lost&prop3=a%20string&%24.ct=application%2Fjson&$.mid=1+1=2&x=%zz";
        let expected = [
            ("prop1", ""),
            ("prop2", ""),
            ("prop3", "a string"),
            ("$.ct", "application/json"),
            ("$.mid", "1+1=2"),
            ("x", "%zz"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parse(bag).collect::<Vec<_>>(), expected);
        assert_eq!(parse("").count(), 0);
    }
}
