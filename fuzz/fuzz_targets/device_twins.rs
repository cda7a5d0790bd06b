//! A twin's JSON, as the hub tells a device: what is read of it is what it says.
#![no_main]

use bytes::Bytes;
use gateway_core::{Twin, TwinProperties, desired_of, version_of};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn check(read: &TwinProperties, written: Option<&Value>) {
    assert_eq!(read.len(), read.iter().count());
    let Some(written) = written.filter(|written| !written.is_null()) else {
        return assert!(read.is_empty() && read.version() == 0);
    };
    let written = written.as_object().expect("an object");
    assert_eq!(read.version(), written.get("$version").map_or(0, |version| version.as_u64().expect("a version")));
    let names = written.keys().filter(|name| !name.starts_with('$'));
    assert!(names.eq(read.iter().map(|(name, _)| name)));
    for (name, value) in read.iter() {
        assert_eq!(serde_json::from_str::<Value>(value).expect("JSON"), written[name]);
        if let Some(component) = read.component(name) {
            assert_eq!(written[name]["__t"], "c");
            assert_eq!(component.version(), read.version());
            assert!(component.iter().all(|(inner, _)| written[name].get(inner).is_some()));
        }
    }
}

fuzz_target!(|text: &[u8]| {
    let bytes = Bytes::copy_from_slice(text);
    if let Some((version, desired)) = desired_of(&bytes) {
        assert_eq!(version_of(&desired), Some(version));
        assert!(text.windows(desired.len()).any(|part| part == desired));
    }
    // The other reader has limits of its own, as of numbers and of depth.
    if let (Ok(twin), Ok(written)) = (Twin::parse(text), serde_json::from_slice::<Value>(text)) {
        check(&twin.desired, written.get("desired"));
        check(&twin.reported, written.get("reported"));
    }
});
