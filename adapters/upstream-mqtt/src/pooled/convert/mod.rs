//! Between the gateway's messages and MQTT's.

mod answers;
mod inward;
mod uplink;

use bytes::Bytes;

use super::envelope::Envelope;
use crate::error::MqttError;
pub(super) use answers::{ReturnAddress, dead_letter, reply, twin_request};
pub(super) use inward::{Inward, inward};
pub(super) use uplink::uplink;

/// Begins the names that are not the application's.
const OURS: char = '$';
const MESSAGE_ID: &str = "message_id";
const CORRELATION_ID: &str = "correlation_id";
const CONTENT_TYPE: &str = "content_type";
const CONTENT_ENCODING: &str = "content_encoding";
const USER_ID: &str = "user_id";
const CREATED_AT: &str = "created_at";
const SCHEMA: &str = "schema";
const COMPONENT: &str = "component";
const METHOD: &str = "method";
const STATUS: &str = "status";
const VERSION: &str = "version";
/// The longest text (MQTT 5 section 1.5.4).
const LONGEST: usize = 65_535;

fn ours(name: &str) -> String {
    format!("{OURS}{name}")
}

fn seal(envelope: &Envelope<'_>) -> Result<Bytes, MqttError> {
    envelope
        .to_bytes()
        .map_err(|error| MqttError::Invalid(format!("the envelope cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Properties5;
    use crate::pooled::config::{MqttEncoding, MqttPoolConfig, MqttVersion};
    use crate::pooled::template::Captures;
    use crate::pooled::topics::{Kind, Topics};
    use gateway_core::{DeviceId, MessageId, MethodReply, Properties, Uplink};
    use humantime_serde::re::humantime::parse_rfc3339;
    use std::collections::BTreeMap;
    use std::time::{Duration, UNIX_EPOCH};

    fn full() -> Uplink {
        let mut uplink = Uplink::new(
            DeviceId::new("dev+1").unwrap(),
            MessageId::new("m 1").unwrap(),
            &b"\x00\xffbody"[..],
        );
        let properties = [
            ("plain", "v"),
            ("$odd", "a=b&c"),
            ("größe", "23 °C, 水"),
            ("", ""),
        ];
        uplink.properties = properties.into_iter().collect();
        uplink.system.correlation_id = Some("answer to 7".to_owned());
        uplink.system.content_type = Some("application/json".to_owned());
        uplink.system.content_encoding = Some("utf-8".to_owned());
        uplink.system.user_id = Some("someone".to_owned());
        uplink.system.created_at = parse_rfc3339("2023-11-14T22:13:20.250Z").ok();
        uplink.system.schema = Some("readings".to_owned());
        uplink.system.component = Some("thermostat".to_owned());
        uplink
    }

    fn topics(encoding: MqttEncoding) -> (Topics, MqttPoolConfig) {
        let mut config = MqttPoolConfig::new("h", "gw").with_encoding(encoding);
        if encoding != MqttEncoding::Properties {
            config.version = MqttVersion::V3_1_1;
        }
        // The same topics both ways, so that what goes out can be read as what comes in.
        let topic = match encoding {
            MqttEncoding::Topic => "d/{device_id}/m/{message_id}/{properties}",
            _ => "d/{device_id}/m/{message_id}",
        };
        config.topics.telemetry = format!("up/{topic}");
        config.topics.messages = topic.to_owned();
        config.topics.methods = "d/{device_id}/call/{method}/{request_id}".to_owned();
        config.topics.responses = "d/{device_id}/res/{request_id}/{status}".to_owned();
        (Topics::new(&config).unwrap(), config)
    }

    const ENCODINGS: [MqttEncoding; 3] = [
        MqttEncoding::Properties,
        MqttEncoding::Envelope,
        MqttEncoding::Topic,
    ];

    /// What is read of an uplink that was sent.
    fn there_and_back(encoding: MqttEncoding, sent: &Uplink) -> Inward {
        let (topics, _) = topics(encoding);
        let publish = uplink(&topics, encoding, 1000, sent).unwrap();
        let topic = publish.topic.strip_prefix("up/").unwrap();
        let (kind, captures) = topics.read(topic).unwrap();
        assert_eq!(kind, Kind::Message);
        assert_eq!(captures.device.as_deref(), Some("dev+1"));
        inward(encoding, captures, &publish.payload, publish.properties).unwrap()
    }

    #[test]
    fn a_time_out_of_range_is_the_nearest_that_can_be_written() {
        for (time, text) in [
            (UNIX_EPOCH - Duration::from_secs(1), "1970-01-01T00:00:00Z"),
            (
                UNIX_EPOCH + Duration::from_secs(1 << 40),
                "9999-12-31T23:59:59Z",
            ),
        ] {
            for encoding in ENCODINGS {
                let mut sent = full();
                sent.system.created_at = Some(time);
                let read = there_and_back(encoding, &sent).system.created_at;
                assert_eq!(read, parse_rfc3339(text).ok(), "{encoding:?}");
            }
        }
    }

    #[test]
    fn an_uplink_is_read_back_whole_in_each_encoding() {
        for encoding in ENCODINGS {
            let sent = full();
            let read = there_and_back(encoding, &sent);
            assert_eq!(read.id.as_deref(), Some("m 1"), "{encoding:?}");
            assert_eq!(read.system, sent.system, "{encoding:?}");
            assert_eq!(read.body, sent.body, "{encoding:?}");
            let sorted = |properties: &Properties| -> BTreeMap<String, String> {
                let properties = properties.iter();
                properties
                    .map(|(n, v)| (n.to_owned(), v.to_owned()))
                    .collect()
            };
            assert_eq!(
                sorted(&read.properties),
                sorted(&sent.properties),
                "{encoding:?}"
            );
        }
    }

    #[test]
    fn what_a_broker_would_close_the_connection_for_is_refused() {
        let (topics, _) = topics(MqttEncoding::Properties);
        for foul in ["a\nb", "\0", "\u{9f}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}"] {
            let mut message = full();
            message.properties.insert("foul", foul);
            let refused = uplink(&topics, MqttEncoding::Properties, 1000, &message);
            assert!(matches!(refused, Err(MqttError::Invalid(_))), "{foul:?}");
        }
        let mut message = full();
        message.properties.insert("x".repeat(70_000), "");
        let refused = uplink(&topics, MqttEncoding::Properties, 100_000, &message);
        assert!(matches!(refused, Err(MqttError::TooLarge { .. })));
        message.body = vec![0; 1001].into();
        let refused = uplink(&topics, MqttEncoding::Envelope, 1000, &message);
        assert!(matches!(
            refused,
            Err(MqttError::TooLarge { limit: 1000, .. })
        ));
    }

    #[test]
    fn a_message_with_more_properties_than_a_device_may_send_is_unreadable_at_once() {
        let pair = |n: usize| (format!("name-{n}"), String::new());
        let read = |encoding, count: usize| {
            let (mut captures, mut given) = (Captures::default(), Properties5::default());
            let (mut payload, mut bag) = (Bytes::new(), String::new());
            match encoding {
                MqttEncoding::Properties => given.user = (0..count).map(pair).collect(),
                MqttEncoding::Envelope => {
                    let properties: BTreeMap<_, _> = (0..count).map(pair).collect();
                    let envelope = serde_json::json!({ "properties": properties });
                    payload = envelope.to_string().into();
                }
                MqttEncoding::Topic => {
                    (0..count).for_each(|n| bag += &format!("name-{n}=&"));
                    captures.bag = Some(&bag);
                }
            }
            inward(encoding, captures, &payload, Some(given))
        };
        for encoding in ENCODINGS {
            let most = read(encoding, 100).unwrap();
            assert_eq!(most.properties.len(), 100, "{encoding:?}");
            assert!(read(encoding, 101).is_err(), "{encoding:?}");
            assert!(read(encoding, 100_000).is_err(), "{encoding:?}");
        }
    }

    #[test]
    fn an_answer_goes_to_the_response_topic_of_its_request_or_the_template() {
        let (topics, _) = topics(MqttEncoding::Properties);
        let mut call = Inward {
            method: Some("reboot".to_owned()),
            request: Some("r/1".to_owned()),
            response_topic: Some("answers/here".to_owned()),
            correlation: Some(Bytes::from_static(b"\xff")),
            ..Inward::default()
        };
        let device = DeviceId::new("d").unwrap();
        let mut to = ReturnAddress::of(device, &mut call);
        let answer = MethodReply::new(207, "{}");
        let responses = topics.responses.as_ref();
        let publish = reply(responses, MqttEncoding::Properties, &to, &answer).unwrap();
        assert_eq!(publish.topic, "answers/here");
        let properties = publish.properties.unwrap();
        assert_eq!(properties.correlation_data.as_deref(), Some(&b"\xff"[..]));
        assert_eq!(properties.user, [("$status".to_owned(), "207".to_owned())]);
        to.topic = None;
        let publish = reply(responses, MqttEncoding::Envelope, &to, &answer).unwrap();
        assert_eq!(publish.topic, "d/d/res/r%2F1/207");
        assert_eq!(
            publish.payload,
            r#"{"request_id":"r/1","status":207,"json":{}}"#
        );
        for foul in ["a/+", "#", "", "$SYS/x", "a\nb"] {
            call.response_topic = Some(foul.to_owned());
            let to = ReturnAddress::of(DeviceId::new("d").unwrap(), &mut call);
            assert_eq!(to.topic, None, "{foul:?}");
        }
    }
}
