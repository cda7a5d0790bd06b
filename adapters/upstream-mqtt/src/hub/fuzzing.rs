//! Topics of a hub, for fuzz targets.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gateway_core::{DeviceId, MessageId, Uplink};
use tokio::time::Instant;

use super::bag;
use super::convert::{cloud_message, publish};
use super::topic::{self, Heard};
use crate::client::fuzzing::incoming;

static DEVICE: LazyLock<DeviceId> = LazyLock::new(|| DeviceId::new("dev+1").expect("a valid id"));

/// Reads a topic of a hub's.
///
/// # Panics
/// Panics if its properties mean something else when they are written anew, or the message that it is
/// read as another one when it is said again.
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
    read_message(topic, bag);
}

fn read_message(topic: &str, bag: &str) {
    let body = Bytes::from_static(b"body");
    let (device, deadline) = (&*DEVICE, Instant::now());
    let read = |topic, bag| {
        let incoming = incoming(topic, body.clone(), true);
        cloud_message(device.clone(), bag, &incoming, deadline)
    };
    let message = read(topic, bag);
    assert_eq!((&message.body, message.delivery_count), (&body, 1));
    let id = message.id.as_ref().and_then(|id| MessageId::new(id).ok());
    let id = id.unwrap_or_else(|| MessageId::new("m").expect("a valid id"));
    let mut again = Uplink::new(device.clone(), id, message.body);
    (again.system, again.properties) = (message.system, message.properties);
    let created = again.system.created_at;
    again.system.created_at = created.map(whole_milliseconds);
    let Ok(published) = publish(&again) else {
        return;
    };
    let bag = published.topic.strip_prefix(&topic::events(device));
    let message = read(&published.topic, bag.expect("its events"));
    assert_eq!(message.id.as_deref(), Some(again.id.as_str()));
    assert_eq!(message.system, again.system);
    assert_eq!(message.properties, again.properties);
}

/// A time, as exactly as it is written.
pub(crate) fn whole_milliseconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.expect("no time before the epoch can be read");
    SystemTime::UNIX_EPOCH + Duration::from_millis(since.as_millis() as u64)
}
