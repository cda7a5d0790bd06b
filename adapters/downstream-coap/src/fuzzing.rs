//! What fuzz targets feed. Not part of the interface: it changes at will.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::proto::message::{Code, Message};
use crate::selection::Selection;
pub use crate::stream::fuzzing::{Happened, Stream};

/// Reads the names that a FETCH asks for, and picks them out of properties.
///
/// # Panics
/// Panics if not all that is asked for is picked, or anything else, or as it does not stand there.
pub fn pick_properties(names: &str, properties: &str) {
    let fetch = Message::new(Code::FETCH).with_payload(names.to_owned());
    let (Ok(Selection::Named(names)), Ok(properties)) = (
        Selection::read(&fetch),
        serde_json::from_str::<&RawValue>(properties),
    ) else {
        return;
    };
    let read = |text: &RawValue| {
        serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(text.get())
            .map(|properties| properties.into_iter().map(|(n, v)| (n, v.get().to_owned())))
            .map(BTreeMap::from_iter)
    };
    let picked = Selection::Named(names.clone()).pick(properties);
    let (Ok(mut expected), Ok(picked)) = (read(properties), picked) else {
        return assert!(read(properties).is_err());
    };
    expected.retain(|name, _: &mut String| name == "$version" || names.contains(name));
    assert_eq!(read(&picked).expect("an object"), expected);
}
