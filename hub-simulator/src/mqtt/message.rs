//! Messages as topics carry them: telemetry in, cloud-to-device messages out.
//!
//! Source: Microsoft, "Communicate with an IoT hub using the MQTT protocol", and the names that
//! edgeHub's `SystemProperties` gives them.

use std::time::SystemTime;

use bytes::Bytes;

use super::bag::{self, Property};
use crate::clock::iso8601;
use crate::hub::identity;
use crate::hub::message::C2d;
use crate::hub::peer::ConnectionId;
use crate::hub::record::Accepted;

/// Makes a telemetry message of a bag and a body.
pub(crate) fn telemetry(
    sender: &str,
    properties: Vec<Property>,
    body: &[u8],
    enqueued: SystemTime,
    connection: ConnectionId,
) -> Accepted {
    let mut message = Accepted::bare(sender, enqueued, connection);
    message.body = Bytes::copy_from_slice(body);
    for (name, value) in properties {
        let value = value.unwrap_or_default();
        match name.as_str() {
            "$.mid" => message.message_id = Some(value),
            "$.cid" => message.correlation_id = Some(value),
            "$.uid" => message.user_id = Some(value),
            "$.ct" => message.content_type = Some(value),
            "$.ce" => message.content_encoding = Some(value),
            // A device cannot say who it is, nor where telemetry goes or when it ends.
            "$.cdid" | "$.cmid" | "$.to" | "$.exp" => {}
            _ => match annotation(&name) {
                Some(annotation) => drop(message.annotations.insert(annotation.to_owned(), value)),
                None => {
                    let name = application_name(&name).map_or(name, str::to_owned);
                    message.properties.insert(name, value);
                }
            },
        }
    }
    message
}

/// System properties that travel as annotations.
fn annotation(name: &str) -> Option<&'static str> {
    Some(match name {
        "$.ifid" => "iothub-interface-id",
        "$.sub" => "dt-subject",
        "$.diagid" => "Diagnostic-Id",
        "$.diagctx" => "Correlation-Context",
        _ => return None,
    })
}

/// System properties that travel as application properties, as AMQP devices send them.
fn application_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "$.on" => "iothub-outputname",
        "$.schema" => "iothub-message-schema",
        "$.ctime" => "iothub-creation-time-utc",
        _ => return None,
    })
}

/// Writes the bag of a cloud-to-device message.
pub(crate) fn c2d_bag(identity: &str, message: &C2d, enqueued: SystemTime) -> String {
    let to = match identity::split(identity) {
        (device, None) => format!("/devices/{}/messages/deviceBound", bag::encode(device)),
        (device, Some(module)) => format!(
            "/devices/{}/modules/{}/messages/deviceBound",
            bag::encode(device),
            bag::encode(module)
        ),
    };
    let expiry = message.expiry(enqueued).map(iso8601);
    let created = message.creation_time.map(iso8601);
    let user = message.user_id.as_deref().map(String::from_utf8_lossy);
    let system = [
        ("$.mid", message.message_id.as_deref()),
        ("$.exp", Some(expiry.as_deref().unwrap_or("0"))),
        ("$.to", Some(&to)),
        ("$.cid", message.correlation_id.as_deref()),
        ("$.uid", user.as_deref()),
        ("$.ctime", created.as_deref()),
        ("$.ct", message.content_type.as_deref()),
        ("$.ce", message.content_encoding.as_deref()),
    ];
    let system = system.into_iter().filter(|(_, value)| value.is_some());
    let own = message.properties.iter();
    bag::write(system.chain(own.map(|(name, value)| (name.as_str(), Some(value.as_str())))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bag: &str) -> Accepted {
        let properties = bag::parse(bag).unwrap();
        telemetry(
            "d",
            properties,
            b"x",
            SystemTime::UNIX_EPOCH,
            ConnectionId(1),
        )
    }

    #[test]
    fn system_properties_find_their_places() {
        let message = read(
            "$.mid=m&%24.cid=c&$.uid=u&$.ct=application%2Fjson&$.ce=utf-8&$.on=out&$.sub=part\
             &$.ctime=now&$.schema=s&$.cdid=forged&$.to=elsewhere&colour=blue&n",
        );
        assert_eq!(message.message_id.as_deref(), Some("m"));
        assert_eq!(message.correlation_id.as_deref(), Some("c"));
        assert_eq!(message.user_id.as_deref(), Some("u"));
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
        assert_eq!(message.content_encoding.as_deref(), Some("utf-8"));
        assert_eq!(message.annotations["dt-subject"], "part");
        let properties: Vec<_> = message
            .properties
            .iter()
            .map(|(n, v)| (&**n, &**v))
            .collect();
        let expected = [
            ("colour", "blue"),
            ("iothub-creation-time-utc", "now"),
            ("iothub-message-schema", "s"),
            ("iothub-outputname", "out"),
            ("n", ""),
        ];
        assert_eq!(properties, expected);
    }

    #[test]
    fn a_message_to_a_device_is_spelt_as_the_hub_spells_it() {
        let message = C2d::new("x")
            .with_message_id("id")
            .with_correlation_id("id")
            .with_property("iothub-ack", "full")
            .with_property("property1", "value1");
        assert_eq!(
            c2d_bag("d", &message, SystemTime::UNIX_EPOCH),
            "%24.mid=id&%24.exp=0&%24.to=%2Fdevices%2Fd%2Fmessages%2FdeviceBound&%24.cid=id\
             &iothub-ack=full&property1=value1"
        );
    }

    #[test]
    fn a_message_that_lives_beyond_all_time_is_one_that_does_not_expire() {
        let message = C2d::new("x").with_ttl(std::time::Duration::MAX);
        let bag = c2d_bag("d", &message, SystemTime::UNIX_EPOCH);
        assert!(bag.contains("%24.exp=0"), "{bag}");
    }
}
