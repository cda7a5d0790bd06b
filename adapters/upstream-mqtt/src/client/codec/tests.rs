use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rumqttc::mqttbytes::{QoS, v4};
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

use super::{ConnAck, Fault, Packet, ReadPackets, Received};
use crate::client::options::{Properties5, Version};

const MAX: usize = 100_000;
const BOTH: [Version; 2] = [Version::V4, Version::V5];

fn read_all(version: Version, bytes: &[u8]) -> Result<Vec<Packet>, Fault> {
    let mut buffer = BytesMut::from(bytes);
    let mut reading = ReadPackets::new(&mut buffer, version, MAX);
    let mut packets = Vec::new();
    while let Some(packet) = reading.next()? {
        packets.push(packet);
    }
    Ok(packets)
}

/// A packet as another codec writes it, and what it is to be read as.
type Written = (Vec<u8>, Packet);

fn write_4(packet: v4::Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    packet.write(&mut out, usize::MAX).unwrap();
    out.to_vec()
}

fn write_5(packet: v5::Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    packet.write(&mut out, None).unwrap();
    out.to_vec()
}

fn received() -> impl Strategy<Value = Received> {
    let payload = proptest::collection::vec(any::<u8>(), 0..300);
    let id = proptest::option::of(1..=u16::MAX);
    (
        "[a-z$/%&=é]{1,40}",
        payload,
        any::<bool>(),
        any::<bool>(),
        id,
    )
        .prop_map(|(topic, payload, retain, duplicate, id)| Received {
            topic,
            payload: payload.into(),
            retain,
            duplicate: duplicate && id.is_some(),
            id,
            properties: None,
            is_cut: false,
        })
}

fn properties() -> impl Strategy<Value = Option<Properties5>> {
    let text = || proptest::option::of("[a-zé]{0,20}");
    let user = proptest::collection::vec(("[a-z]{0,9}", "[a-zé]{0,200}"), 0..3);
    let data = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20));
    let expiry = proptest::option::of(any::<u32>());
    (user, text(), data, text(), expiry).prop_map(|(user, response, data, content, expiry)| {
        let properties = Properties5 {
            user,
            response_topic: response,
            correlation_data: data.map(Bytes::from),
            content_type: content,
            message_expiry: expiry,
        };
        (properties != Properties5::default()).then_some(properties)
    })
}

fn publish_4() -> impl Strategy<Value = Written> {
    received().prop_map(|received| {
        let qos = received.id.map_or(QoS::AtMostOnce, |_| QoS::AtLeastOnce);
        let mut publish = v4::Publish::from_bytes(&received.topic, qos, received.payload.clone());
        (publish.retain, publish.dup) = (received.retain, received.duplicate);
        publish.pkid = received.id.unwrap_or(0);
        let written = write_4(v4::Packet::Publish(publish));
        (written, Packet::Publish(received))
    })
}

fn publish_5() -> impl Strategy<Value = Written> {
    (received(), properties()).prop_map(|(mut received, properties)| {
        let known = properties.clone().map(|known| v5::PublishProperties {
            message_expiry_interval: known.message_expiry,
            response_topic: known.response_topic,
            correlation_data: known.correlation_data,
            user_properties: known.user,
            content_type: known.content_type,
            ..Default::default()
        });
        let qos = received.id.map_or(QoS5::AtMostOnce, |_| QoS5::AtLeastOnce);
        let payload = received.payload.clone();
        let mut publish = v5::Publish::new(received.topic.clone(), qos, payload, known);
        (publish.retain, publish.dup) = (received.retain, received.duplicate);
        publish.pkid = received.id.unwrap_or(0);
        received.properties = properties;
        let written = write_5(v5::Packet::Publish(publish));
        (written, Packet::Publish(received))
    })
}

fn packet_4() -> impl Strategy<Value = Written> {
    prop_oneof![
        4 => publish_4(),
        1 => (1..=u16::MAX).prop_map(|id| {
            let written = write_4(v4::Packet::PubAck(v4::PubAck::new(id)));
            (written, Packet::PubAck { id, code: 0 })
        }),
        1 => (1..=u16::MAX).prop_map(|id| {
            let codes = vec![
                v4::SubscribeReasonCode::Success(QoS::AtLeastOnce),
                v4::SubscribeReasonCode::Failure,
            ];
            let written = write_4(v4::Packet::SubAck(v4::SubAck::new(id, codes)));
            (written, Packet::SubAck { id, codes: vec![1, 0x80] })
        }),
        1 => (1..=u16::MAX).prop_map(|id| {
            let written = write_4(v4::Packet::UnsubAck(v4::UnsubAck::new(id)));
            (written, Packet::UnsubAck { id, codes: Vec::new() })
        }),
        1 => Just((write_4(v4::Packet::PingResp), Packet::PingResp)),
    ]
}

fn packet_5() -> impl Strategy<Value = Written> {
    prop_oneof![
        4 => publish_5(),
        1 => (1..=u16::MAX, any::<bool>(), proptest::option::of("[a-z]{0,9}")).prop_map(
            |(id, is_good, reason)| {
                let properties = reason.map(|reason| v5::PubAckProperties {
                    reason_string: Some(reason),
                    user_properties: vec![("a".to_owned(), "b".to_owned())],
                });
                let mut ack = v5::PubAck::new(id, properties);
                if !is_good {
                    ack.reason = v5::PubAckReason::QuotaExceeded;
                }
                let code = if is_good { 0 } else { 0x97 };
                (write_5(v5::Packet::PubAck(ack)), Packet::PubAck { id, code })
            }
        ),
        1 => (1..=u16::MAX).prop_map(|id| {
            let ack = v5::SubAck {
                pkid: id,
                return_codes: vec![v5::SubscribeReasonCode::NotAuthorized],
                properties: None,
            };
            (write_5(v5::Packet::SubAck(ack)), Packet::SubAck { id, codes: vec![0x87] })
        }),
        1 => (1..=u16::MAX).prop_map(|id| {
            let ack = v5::UnsubAck {
                pkid: id,
                reasons: vec![v5::UnsubAckReason::NoSubscriptionExisted],
                properties: None,
            };
            (write_5(v5::Packet::UnsubAck(ack)), Packet::UnsubAck { id, codes: vec![0x11] })
        }),
    ]
}

fn packets() -> impl Strategy<Value = (Version, Vec<Written>)> {
    prop_oneof![
        proptest::collection::vec(packet_4(), 0..6).prop_map(|packets| (Version::V4, packets)),
        proptest::collection::vec(packet_5(), 0..6).prop_map(|packets| (Version::V5, packets)),
    ]
}

proptest! {
    #[test]
    fn what_another_codec_writes_is_read_in_pieces_of_any_size(
        (version, packets) in packets(),
        piece in 1..40_usize,
    ) {
        let wire: Vec<u8> = packets.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
        for part in wire.chunks(piece) {
            buffer.extend_from_slice(part);
            let mut reading = ReadPackets::new(&mut buffer, version, MAX);
            while let Some(packet) = reading.next().unwrap() {
                read.push(packet);
            }
        }
        let expected: Vec<_> = packets.into_iter().map(|(_, packet)| packet).collect();
        prop_assert_eq!(read, expected);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for version in BOTH {
            drop(read_all(version, &bytes));
        }
    }

    /// Bytes next to the right ones reach deeper than random ones.
    #[test]
    fn no_damaged_packet_makes_the_reader_panic(
        (version, packets) in packets(), at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>(),
    ) {
        let mut wire: Vec<u8> = packets.into_iter().flat_map(|(bytes, _)| bytes).collect();
        if !wire.is_empty() {
            let at = at % wire.len();
            wire[at] = byte;
            wire.truncate(cut % (wire.len() + 1));
        }
        for other in BOTH {
            drop(read_all(other, &wire));
        }
        drop(read_all(version, &wire));
    }
}

#[test]
fn what_breaks_the_protocol_is_refused() {
    for (version, bytes, what) in [
        (
            Version::V4,
            &b"\x36\x05\x00\x01a\x00\x01"[..],
            "PUBLISH of QoS 3",
        ),
        (
            Version::V4,
            b"\x38\x03\x00\x01a",
            "PUBLISH of QoS 0 with DUP",
        ),
        (
            Version::V4,
            b"\x32\x05\x00\x01a\x00\x00",
            "PUBLISH of identifier zero",
        ),
        (Version::V4, b"\x30\x03\x00\x01#", "PUBLISH to a wildcard"),
        (Version::V4, b"\x30\x02\x00\x00", "PUBLISH to nothing"),
        (
            Version::V4,
            b"\x30\x04\x00\x02\xff\xff",
            "a topic that is not UTF-8",
        ),
        (Version::V4, b"\x30\x03\x00\x01\x00", "a topic with U+0000"),
        (
            Version::V4,
            b"\x30\x04\x00\x09ab",
            "a topic longer than the packet",
        ),
        (
            Version::V4,
            b"\x30\xff\xff\xff\xff\x7f",
            "a length of five bytes",
        ),
        (Version::V4, b"\x40\x03\x00\x01\x00", "PUBACK with more"),
        (Version::V4, b"\x40\x01\x00", "PUBACK with less"),
        (Version::V4, b"\x41\x02\x00\x01", "PUBACK with flags"),
        (Version::V4, b"\xd0\x01\x00", "PINGRESP with content"),
        (
            Version::V4,
            b"\xe0\x00",
            "DISCONNECT, which brokers of version 3.1.1 do not send",
        ),
        (
            Version::V4,
            b"\xc0\x00",
            "PINGREQ, which brokers do not send",
        ),
        (Version::V4, b"\x62\x02\x00\x01", "PUBREL"),
        (Version::V4, b"\x90\x02\x00\x01", "SUBACK of nothing"),
        (Version::V4, b"\x00\x00", "a packet of no type"),
        (Version::V5, b"\x30\x00", "PUBLISH of nothing"),
        (
            Version::V5,
            b"\x30\x04\x00\x01a\x05",
            "properties longer than the packet",
        ),
        (
            Version::V5,
            b"\x30\x07\x00\x01a\x03\x23\x00\x01",
            "a topic's alias",
        ),
        (
            Version::V5,
            b"\x30\x06\x00\x01a\x02\x7f\x00",
            "a property that there is not",
        ),
        (
            Version::V5,
            b"\x30\x05\x00\x01a\x01\x01",
            "a property without its value",
        ),
        (
            Version::V5,
            b"\x30\x08\x00\x01a\x04\x0b\xff\xff\xff",
            "a number that has no end",
        ),
        (
            Version::V5,
            b"\x90\x04\x00\x01\x01\x87",
            "SUBACK with half a property",
        ),
        (
            Version::V5,
            b"\xf0\x02\x18\x00",
            "AUTH, which nobody asked for",
        ),
    ] {
        assert!(read_all(version, bytes).is_err(), "{what}");
    }
}

#[test]
fn a_packet_too_large_is_refused_before_it_has_come() {
    let refused = |bytes: &[u8], version| {
        let (mut buffer, mut cut) = (BytesMut::from(bytes), None);
        let mut packets = ReadPackets::new(&mut buffer, version, MAX).cutting(&mut cut);
        assert_eq!(packets.next().unwrap_err().code, 0x95);
    };
    refused(b"\x30\xa0\x8d\x06", Version::V5);
    refused(b"\x90\xa0\x8d\x06", Version::V4);
    let mut buffer = BytesMut::from(&b"\x30\xa0\x8d\x06"[..]);
    let first = ReadPackets::new(&mut buffer, Version::V4, MAX).next();
    assert_eq!(first.unwrap_err().code, 0x95, "where none is to be cut");
}

/// However it comes, nothing of its payload is kept, and only as much of its topic as of any packet.
#[test]
fn a_message_too_large_of_version_3_1_1_is_cut_and_what_follows_is_read() {
    let wire = [&b"\x3b\x2c\0\x02ab\0\x07"[..], &[b'.'; 38], b"\xd0\0"].concat();
    for piece in 1..=wire.len() {
        let (mut buffer, mut cut, mut read) = (BytesMut::new(), None, Vec::new());
        for part in wire.chunks(piece) {
            buffer.extend_from_slice(part);
            let mut packets = ReadPackets::new(&mut buffer, Version::V4, 10).cutting(&mut cut);
            while let Some(packet) = packets.next().unwrap() {
                read.push(packet);
            }
            drop(packets);
            assert!(buffer.len() < 10);
        }
        let message = Received {
            topic: "ab".to_owned(),
            payload: Bytes::new(),
            retain: true,
            duplicate: true,
            id: Some(7),
            properties: None,
            is_cut: true,
        };
        assert_eq!(read, [Packet::Publish(message), Packet::PingResp]);
        assert!(cut.is_none() && buffer.is_empty());
    }
    let (mut buffer, mut cut) = (BytesMut::from(&wire[..]), None);
    let mut packets = ReadPackets::new(&mut buffer, Version::V4, 7).cutting(&mut cut);
    assert_eq!(
        packets.next().unwrap_err().code,
        0x95,
        "its topic is too long"
    );
}

/// `rumqttc`'s reader takes it for incomplete and drops it; this is how Mosquitto says goodbye.
#[test]
fn a_disconnect_without_properties_is_read_with_its_reason() {
    let disconnect = |code| Packet::Disconnect {
        code,
        text: String::new(),
    };
    let bytes = b"\xe0\x01\x8e\xe0\x00\xe0\x02\x8b\x00";
    let read = read_all(Version::V5, bytes).unwrap();
    assert_eq!(read, [disconnect(0x8e), disconnect(0), disconnect(0x8b)]);
}

/// `rumqttc`'s reader stops too early after subscription identifiers, and takes the rest for
/// payload.
#[test]
fn properties_behind_subscription_identifiers_stay_out_of_the_payload() {
    let bytes = b"\x30\x0c\x00\x01a\x06\x0b\x01\x0b\x02\x0b\x03hi";
    let read = read_all(Version::V5, bytes).unwrap();
    assert!(matches!(&read[..], [Packet::Publish(one)] if &one.payload[..] == b"hi"));
}

/// `rumqttc`'s reader goes on into the payload.
#[test]
fn a_property_does_not_reach_beyond_the_length_of_all() {
    // A content type of five bytes within properties of four.
    let bytes = b"\x30\x0e\x00\x01a\x04\x03\x00\x05hello!!";
    assert!(read_all(Version::V5, bytes).is_err());
}

#[test]
fn an_answer_to_connect_says_what_the_broker_asks_for() {
    let properties = v5::ConnAckProperties {
        session_expiry_interval: Some(7),
        receive_max: Some(20),
        max_qos: Some(1),
        retain_available: Some(0),
        max_packet_size: Some(1000),
        assigned_client_identifier: Some("id".to_owned()),
        topic_alias_max: Some(10),
        reason_string: Some("welcome".to_owned()),
        user_properties: vec![("a".to_owned(), "b".to_owned())],
        wildcard_subscription_available: Some(1),
        subscription_identifiers_available: Some(1),
        shared_subscription_available: Some(1),
        server_keep_alive: Some(30),
        response_information: Some("r".to_owned()),
        server_reference: Some("s".to_owned()),
        authentication_method: Some("m".to_owned()),
        authentication_data: Some(Bytes::from_static(b"d")),
    };
    let written = write_5(v5::Packet::ConnAck(v5::ConnAck {
        session_present: true,
        code: v5::ConnectReturnCode::Success,
        properties: Some(properties),
    }));
    let expected = ConnAck {
        session_present: true,
        code: 0,
        text: "welcome".to_owned(),
        receive_maximum: 20,
        max_packet: 1000,
        max_qos: 1,
        takes_retained: false,
        assigned_client_id: Some("id".to_owned()),
        server_keep_alive: Some(30),
    };
    let read = read_all(Version::V5, &written).unwrap();
    assert_eq!(read, [Packet::ConnAck(Box::new(expected))]);
}

#[test]
fn a_brokers_reasons_are_kept_short() {
    let mut bytes = b"\xe0\x00\x87\x00\x1f\x03\xe8".to_vec();
    bytes.extend_from_slice(&[b'x'; 1000]);
    // Properties of 1,003 bytes in a packet of 1,006.
    bytes.splice(3..4, [0xeb, 0x07]);
    bytes.splice(1..2, [0xee, 0x07]);
    let read = read_all(Version::V5, &bytes).unwrap();
    assert!(matches!(&read[..], [Packet::Disconnect { text, .. }] if text.len() == 200));
}
