//! MQTT 3.1.1 packets off and onto the wire: `rumqttc`'s codec behind the checks it leaves out.
//!
//! Source: OASIS, "MQTT Version 3.1.1", sections 2 and 3.

use bytes::BytesMut;
use rumqttc::mqttbytes::{Error, v4};
pub(crate) use rumqttc::mqttbytes::{
    QoS,
    v4::{
        ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish, SubAck, Subscribe,
        SubscribeReasonCode, UnsubAck, Unsubscribe,
    },
};

/// Longest text on the wire: its length has two bytes.
pub(crate) const MAX_TEXT: usize = u16::MAX as usize;
/// The protocol level of MQTT 3.1.1.
const LEVEL: u8 = 4;
const CONNECT: u8 = 1;

/// Why the bytes are no packet that the hub can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the packet is over the size limit")]
    TooLarge,
    #[error("the protocol is not MQTT 3.1.1")]
    Level,
    #[error("{0}")]
    Violation(&'static str),
}

/// Takes one packet off the front of `input`; `None` while it is incomplete.
///
/// `max_size` bounds what follows the fixed header.
///
/// # Errors
/// Fails if the bytes break the protocol; what is left of `input` is then worth nothing.
pub(crate) fn read(input: &mut BytesMut, max_size: usize) -> Result<Option<Packet>, Malformed> {
    let Some(&first) = input.first() else {
        return Ok(None);
    };
    check_flags(first)?;
    let Some((header_len, body_len)) = lengths(input)? else {
        return Ok(None);
    };
    if body_len > max_size {
        return Err(Malformed::TooLarge);
    }
    let len = header_len + body_len;
    let Some(body) = input.get(header_len..len) else {
        return Ok(None);
    };
    if first >> 4 == CONNECT {
        check_connect(body)?;
    }
    let mut packet = input.split_to(len);
    let packet = Packet::read(&mut packet, max_size).map_err(|error| match error {
        Error::TopicNotUtf8 => Malformed::Violation("a text is not UTF-8"),
        Error::InvalidQoS(_) => Malformed::Violation("there is no such quality of service"),
        Error::PacketIdZero => Malformed::Violation("the packet identifier is zero"),
        _ => Malformed::Violation("the packet is malformed"),
    })?;
    check(&packet, body_len)?;
    Ok(Some(packet))
}

/// Appends a packet.
///
/// # Panics
/// Panics if the hub has made a packet that MQTT has no room for; topics are checked before.
pub(crate) fn write(packet: &Packet, output: &mut BytesMut) {
    packet
        .write(output, usize::MAX)
        .expect("the hub writes packets that fit");
}

/// The low half of the first byte is fixed except in PUBLISH (section 2.2.2).
fn check_flags(first: u8) -> Result<(), Malformed> {
    let (kind, flags) = (first >> 4, first & 0x0f);
    let good = match kind {
        // QoS 3 is forbidden, and DUP goes with QoS 1 and 2 only (section 3.3.1).
        3 => flags & 0b0110 != 0b0110 && flags & 0b1110 != 0b1000,
        6 | 8 | 10 => flags == 0b0010,
        1 | 2 | 4 | 5 | 7 | 9 | 11..=14 => flags == 0,
        _ => false,
    };
    good.then_some(())
        .ok_or(Malformed::Violation("the packet's first byte is reserved"))
}

/// The lengths of the fixed header and of what follows (section 2.2.3); `None` while incomplete.
fn lengths(input: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut len = 0;
    for at in 0..4 {
        let Some(&byte) = input.get(1 + at) else {
            return Ok(None);
        };
        len |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + at, len)));
        }
    }
    Err(Malformed::Violation("the packet's length has no end"))
}

/// Tells another version of MQTT from no MQTT at all, and checks the flags (section 3.1.2).
fn check_connect(body: &[u8]) -> Result<(), Malformed> {
    let (level, flags) = match body {
        [0, 4, b'M', b'Q', b'T', b'T', level, flags, ..] => (*level, *flags),
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', ..] => return Err(Malformed::Level),
        _ => return Err(Malformed::Violation("the protocol is not MQTT")),
    };
    if level != LEVEL {
        return Err(Malformed::Level);
    }
    let (user_name, password, will) = (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x04 != 0);
    if flags & 1 != 0 || (password && !user_name) || (!will && flags & 0x38 != 0) {
        return Err(Malformed::Violation("the connect flags are contradictory"));
    }
    Ok(())
}

/// What holds for a packet once it is taken apart.
fn check(packet: &Packet, body_len: usize) -> Result<(), Malformed> {
    let violation = |text| Err(Malformed::Violation(text));
    match packet {
        Packet::Publish(publish)
            if publish.topic.is_empty() || publish.topic.contains(['+', '#', '\0']) =>
        {
            violation("a topic name is empty or holds a wildcard")
        }
        Packet::Subscribe(v4::Subscribe { pkid, filters })
            if *pkid == 0 || filters.iter().any(|filter| !is_filter(&filter.path)) =>
        {
            violation("a subscription has no identifier or no filter")
        }
        Packet::Unsubscribe(v4::Unsubscribe { pkid, topics })
            if *pkid == 0 || topics.is_empty() || topics.iter().any(|topic| !is_filter(topic)) =>
        {
            violation("the end of a subscription has no identifier or no filter")
        }
        Packet::PubAck(_) if body_len != 2 => violation("an acknowledgement is two bytes long"),
        Packet::PingReq | Packet::Disconnect if body_len != 0 => {
            violation("the packet has no content")
        }
        _ => Ok(()),
    }
}

fn is_filter(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use rumqttc::mqttbytes::v4::{LastWill, SubscribeFilter};

    const MAX: usize = 300 * 1024;

    fn read_all(bytes: &[u8]) -> Result<Vec<Packet>, Malformed> {
        let mut input = BytesMut::from(bytes);
        let mut packets = Vec::new();
        while let Some(packet) = read(&mut input, MAX)? {
            packets.push(packet);
        }
        Ok(packets)
    }

    fn qos() -> impl Strategy<Value = QoS> {
        prop_oneof![
            Just(QoS::AtMostOnce),
            Just(QoS::AtLeastOnce),
            Just(QoS::ExactlyOnce)
        ]
    }

    fn publish() -> impl Strategy<Value = Packet> {
        let payload = proptest::collection::vec(any::<u8>(), 0..300);
        (
            "[a-z$/%&=é]{1,40}",
            qos(),
            1..=u16::MAX,
            any::<bool>(),
            payload,
        )
            .prop_map(|(topic, qos, pkid, retain, payload)| {
                let mut publish = Publish::new(topic, qos, payload);
                publish.retain = retain;
                publish.pkid = if qos == QoS::AtMostOnce { 0 } else { pkid };
                Packet::Publish(publish)
            })
    }

    fn connect() -> impl Strategy<Value = Packet> {
        let login = proptest::option::of(("[a-z]{1,9}", "[a-z]{0,9}"));
        let will = proptest::option::of(("[a-z/]{1,9}", qos(), any::<bool>()));
        ("[a-z/]{0,20}", any::<u16>(), any::<bool>(), login, will).prop_map(
            |(id, keep_alive, clean, login, will)| {
                let mut connect = Connect::new(id);
                connect.keep_alive = keep_alive;
                connect.clean_session = clean;
                if let Some((user, password)) = login {
                    connect.set_login(user, password);
                }
                connect.last_will =
                    will.map(|(topic, qos, retain)| LastWill::new(topic, "x", qos, retain));
                Packet::Connect(connect)
            },
        )
    }

    fn packet() -> impl Strategy<Value = Packet> {
        let filters = proptest::collection::vec(("[a-z/#+$]{1,20}", qos()), 1..4);
        let topics = proptest::collection::vec("[a-z/#+$]{1,20}", 1..4);
        prop_oneof![
            publish(),
            connect(),
            (1..=u16::MAX, filters).prop_map(|(pkid, filters)| {
                let filters = filters
                    .into_iter()
                    .map(|(path, qos)| SubscribeFilter::new(path, qos))
                    .collect();
                Packet::Subscribe(Subscribe { pkid, filters })
            }),
            (1..=u16::MAX, topics)
                .prop_map(|(pkid, topics)| Packet::Unsubscribe(Unsubscribe { pkid, topics })),
            any::<u16>().prop_map(|pkid| Packet::PubAck(PubAck { pkid })),
            Just(Packet::PingReq),
            Just(Packet::Disconnect),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_in_pieces_of_any_size(
            packets in proptest::collection::vec(packet(), 0..6),
            piece in 1..40usize,
        ) {
            let mut wire = BytesMut::new();
            for packet in &packets {
                // The codec gets a CONNECT right at the front of a buffer only.
                let mut alone = BytesMut::new();
                write(packet, &mut alone);
                wire.extend_from_slice(&alone);
            }
            let (mut input, mut read_back) = (BytesMut::new(), Vec::new());
            for part in wire.chunks(piece) {
                input.extend_from_slice(part);
                while let Some(packet) = read(&mut input, MAX).unwrap() {
                    read_back.push(packet);
                }
            }
            prop_assert_eq!(read_back, packets);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(read_all(&bytes));
        }

        /// Bytes next to the right ones reach deeper than random ones.
        #[test]
        fn no_damaged_packet_makes_the_reader_panic(
            packet in packet(), at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>(),
        ) {
            let mut wire = BytesMut::new();
            write(&packet, &mut wire);
            let at = at % wire.len();
            wire[at] = byte;
            wire.truncate(cut % (wire.len() + 1));
            drop(read_all(&wire));
        }
    }

    #[test]
    fn another_version_of_mqtt_is_told_from_no_mqtt() {
        let v5 = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03dev";
        assert_eq!(read_all(v5), Err(Malformed::Level));
        let v31 = b"\x10\x11\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x03dev";
        assert_eq!(read_all(v31), Err(Malformed::Level));
        let http = b"\x10\x10\x00\x04HTTP\x04\x02\x00\x3c\x00\x00\x03dev";
        assert!(matches!(read_all(http), Err(Malformed::Violation(_))));
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        for (bytes, what) in [
            (
                &b"\x80\x06\x00\x01\x00\x01a\x00"[..],
                "SUBSCRIBE without its flags",
            ),
            (
                b"\x82\x06\x00\x00\x00\x01a\x00",
                "SUBSCRIBE of identifier zero",
            ),
            (b"\x82\x02\x00\x01", "SUBSCRIBE to nothing"),
            (b"\xa2\x02\x00\x01", "UNSUBSCRIBE from nothing"),
            (b"\x36\x05\x00\x01a\x00\x01", "PUBLISH of QoS 3"),
            (b"\x38\x03\x00\x01a", "PUBLISH of QoS 0 with DUP"),
            (b"\x32\x05\x00\x01a\x00\x00", "PUBLISH of identifier zero"),
            (b"\x30\x03\x00\x01#", "PUBLISH to a wildcard"),
            (b"\x30\x02\x00\x00", "PUBLISH to nothing"),
            (b"\x30\x04\x00\x02\xff\xff", "a topic that is not UTF-8"),
            (b"\x30\x04\x00\x09ab", "a topic longer than the packet"),
            (b"\x40\x03\x00\x01\x00", "PUBACK with more"),
            (b"\xc0\x01\x00", "PINGREQ with content"),
            (b"\x30\xff\xff\xff\xff\x7f", "a length of five bytes"),
            (b"\xf0\x00", "a packet of no type"),
            (b"\x00\x00", "a packet of no type"),
        ] {
            assert!(
                matches!(read_all(bytes), Err(Malformed::Violation(_))),
                "{what}"
            );
        }
    }

    #[test]
    fn a_packet_too_large_is_refused_before_it_has_come() {
        let mut publish = BytesMut::new();
        let payload = Bytes::from(vec![0; MAX]);
        write(
            &Packet::Publish(Publish::from_bytes("topic", QoS::AtMostOnce, payload)),
            &mut publish,
        );
        publish.truncate(10);
        assert_eq!(read(&mut publish, MAX), Err(Malformed::TooLarge));
    }
}
