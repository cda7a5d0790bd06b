//! Topics of a hub, for fuzz targets.

use super::bag;
use super::topic::{self, Heard};

/// Reads a topic of a hub's.
///
/// # Panics
/// Panics if its properties mean something else when they are written anew.
pub fn read_hub_topic(topic: &str) {
    let bag = match topic::read(topic) {
        Some(Heard::Message { bag }) => bag,
        Some(Heard::Method { request, .. }) => return assert!(topic.contains(request)),
        _ => return,
    };
    let properties: Vec<_> = bag::parse(bag).collect();
    let mut written = String::new();
    for (at, (name, value)) in properties.iter().enumerate() {
        bag::push(&mut written, name, value, at == 0);
    }
    assert!(!written.contains(['/', '#', '+', '\0']), "{written}");
    assert!(bag::parse(&written).eq(properties), "{bag} and {written}");
}
