//! Between the gateway's messages and the hub's topics.

use gateway_core::{CloudMessage, DeviceId, Uplink, rfc3339};
use humantime_serde::re::humantime;
use tokio::time::Instant;

use super::error::HubError;
use super::{bag, topic};
use crate::client::{Incoming, Publish};

/// The largest message the hub takes, properties included, in bytes (Microsoft, "IoT Hub quotas
/// and throttling").
pub(super) const MAX_UPLINK: usize = 256 * 1024;
/// The longest topic that MQTT has room for, in bytes (MQTT 3.1.1, section 1.5.3).
pub(super) const MAX_TOPIC: usize = 65_535;
/// Begins the names that the hub keeps for itself.
const SYSTEM: &str = "$.";

/// Makes a publication of an uplink.
pub(super) fn publish(uplink: &Uplink) -> Result<Publish, HubError> {
    let size = uplink.size();
    if size > MAX_UPLINK {
        return Err(HubError::TooLarge(size));
    }
    let topic = event_topic(uplink)?;
    if topic.len() > MAX_TOPIC {
        return Err(HubError::LongTopic(topic.len()));
    }
    Ok(Publish {
        topic,
        payload: uplink.body.clone(),
        retain: false,
        properties: None,
    })
}

/// The topic of an uplink, with its properties.
fn event_topic(uplink: &Uplink) -> Result<String, HubError> {
    let mut topic = topic::events(&uplink.device);
    bag::push(&mut topic, "$.mid", uplink.id.as_str(), true);
    let system = &uplink.system;
    let created = system.created_at.map(rfc3339);
    let names = [
        ("$.cid", &system.correlation_id),
        ("$.ct", &system.content_type),
        ("$.ce", &system.content_encoding),
        ("$.uid", &system.user_id),
        ("$.ctime", &created),
        ("$.schema", &system.schema),
        ("$.sub", &system.component),
    ];
    for (name, value) in names {
        if let Some(value) = value {
            bag::push(&mut topic, name, value, false);
        }
    }
    for (name, value) in uplink.properties.iter() {
        // The hub would take it for its own, or find no name and close the connection.
        if name.is_empty() || name.starts_with(SYSTEM) {
            return Err(HubError::Reserved(name.to_owned()));
        }
        bag::push(&mut topic, name, value, false);
    }
    Ok(topic)
}

/// Makes a cloud-to-device message of what came from the hub.
pub(super) fn cloud_message(
    device: DeviceId,
    properties: &str,
    incoming: &Incoming,
    deadline: Instant,
) -> CloudMessage {
    let mut message = CloudMessage::new(device, incoming.payload.clone(), deadline);
    // The hub does not count over MQTT; it only says that it is not the first time.
    message.delivery_count = u32::from(incoming.duplicate);
    for (name, value) in bag::parse(properties) {
        let system = &mut message.system;
        match name.as_str() {
            "$.mid" => message.id = Some(value),
            "$.cid" => system.correlation_id = Some(value),
            "$.ct" => system.content_type = Some(value),
            "$.ce" => system.content_encoding = Some(value),
            "$.uid" => system.user_id = Some(value),
            "$.ctime" => system.created_at = humantime::parse_rfc3339(&value).ok(),
            "$.schema" => system.schema = Some(value),
            "$.sub" => system.component = Some(value),
            // Such as `$.to` and `$.exp`: the hub's own affairs.
            name if name.starts_with(SYSTEM) => {}
            _ => message.properties.insert(name, value),
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_core::{MessageId, Properties, SystemProperties};
    use std::time::{Duration, SystemTime};

    fn uplink() -> Uplink {
        let device = DeviceId::new("dev+1").unwrap();
        Uplink::new(device, MessageId::new("m 1").unwrap(), "body")
    }

    #[test]
    fn an_uplink_is_spelt_as_microsofts_sdks_spell_it() {
        let mut system = SystemProperties::default();
        system.content_type = Some("application/json".to_owned());
        system.created_at = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500));
        let properties: Properties = [("größe", "23 °C"), ("empty", "")].into_iter().collect();
        let uplink = uplink().with_system(system).with_properties(properties);
        assert_eq!(
            publish(&uplink).unwrap().topic,
            "devices/dev%2B1/messages/events/%24.mid=m%201&%24.ct=application%2Fjson\
             &%24.ctime=1970-01-01T00%3A00%3A01.500Z&gr%C3%B6%C3%9Fe=23%20%C2%B0C&empty="
        );
    }

    #[test]
    fn a_property_that_the_hub_would_take_for_its_own_is_refused() {
        for name in ["", "$.mid", "$.cdid"] {
            let properties: Properties = [(name, "x")].into_iter().collect();
            let refused = publish(&uplink().with_properties(properties)).unwrap_err();
            assert!(
                matches!(refused, HubError::Reserved(_)),
                "{name:?}: {refused}"
            );
        }
        let properties: Properties = [("$own", "x")].into_iter().collect();
        assert!(publish(&uplink().with_properties(properties)).is_ok());
    }

    #[test]
    fn what_the_hub_or_mqtt_has_no_room_for_is_told_before_it_is_sent() {
        let mut large = uplink();
        large.body = vec![0; MAX_UPLINK].into();
        assert!(matches!(publish(&large), Err(HubError::TooLarge(_))));
        let properties: Properties = [("p", "°".repeat(20_000))].into_iter().collect();
        let long = publish(&uplink().with_properties(properties));
        assert!(matches!(long, Err(HubError::LongTopic(_))));
    }
}
