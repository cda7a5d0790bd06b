//! What this client sends: `rumqttc`'s packets, behind checks of what they cannot carry.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{Protocol, QoS, v4, valid_filter};
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

use crate::client::options::{Options, Properties5, Publish, Version};
use crate::error::MqttError;

/// Longest text on the wire: its length has two bytes.
const MAX_TEXT: usize = u16::MAX as usize;
/// Stands for the identifier that a packet gets when it is sent.
const ANY_ID: u16 = 1;

/// A packet that has an identifier, and an entry in the ledger.
#[derive(Debug)]
pub(in crate::client) enum Outgoing {
    Publish4(v4::Publish),
    Publish5(Box<v5::Publish>),
    Subscribe4(v4::Subscribe),
    Subscribe5(v5::Subscribe),
    Unsubscribe4(v4::Unsubscribe),
    Unsubscribe5(v5::Unsubscribe),
}

impl Outgoing {
    /// # Errors
    /// MQTT cannot carry the topic or the properties.
    pub(in crate::client) fn publish(
        version: Version,
        publish: Publish,
    ) -> Result<Self, MqttError> {
        let Publish {
            topic,
            payload,
            retain,
            properties,
        } = publish;
        check_topic(&topic)?;
        Ok(match version {
            Version::V4 => Self::Publish4(v4::Publish {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain,
                topic,
                pkid: ANY_ID,
                payload,
            }),
            Version::V5 => Self::Publish5(Box::new(v5::Publish {
                dup: false,
                qos: QoS5::AtLeastOnce,
                retain,
                topic: topic.into(),
                pkid: ANY_ID,
                payload,
                properties: properties.map(into_properties).transpose()?,
            })),
        })
    }

    /// # Errors
    /// There is no filter, or one that MQTT does not know.
    pub(in crate::client) fn subscribe(
        version: Version,
        filters: &[String],
    ) -> Result<Self, MqttError> {
        check_filters(filters)?;
        let filters = filters.iter().cloned();
        Ok(match version {
            Version::V4 => Self::Subscribe4(v4::Subscribe {
                pkid: ANY_ID,
                filters: filters
                    .map(|path| v4::SubscribeFilter::new(path, QoS::AtLeastOnce))
                    .collect(),
            }),
            Version::V5 => Self::Subscribe5(v5::Subscribe {
                pkid: ANY_ID,
                filters: filters
                    .map(|path| v5::Filter::new(path, QoS5::AtLeastOnce))
                    .collect(),
                properties: None,
            }),
        })
    }

    /// # Errors
    /// There is no filter, or one that MQTT does not know.
    pub(in crate::client) fn unsubscribe(
        version: Version,
        filters: &[String],
    ) -> Result<Self, MqttError> {
        check_filters(filters)?;
        Ok(match version {
            Version::V4 => Self::Unsubscribe4(v4::Unsubscribe {
                pkid: ANY_ID,
                topics: filters.to_vec(),
            }),
            Version::V5 => Self::Unsubscribe5(v5::Unsubscribe {
                pkid: ANY_ID,
                filters: filters.to_vec(),
                properties: None,
            }),
        })
    }

    /// Bytes on the wire.
    pub(in crate::client) fn size(&self) -> usize {
        match self {
            Self::Publish4(packet) => packet.size(),
            Self::Publish5(packet) => packet.size(),
            Self::Subscribe4(packet) => packet.size(),
            Self::Subscribe5(packet) => packet.size(),
            // Its size is not told; none of these is ever near a limit.
            Self::Unsubscribe4(packet) => {
                7 + packet
                    .topics
                    .iter()
                    .map(|topic| 2 + topic.len())
                    .sum::<usize>()
            }
            Self::Unsubscribe5(packet) => packet.size(),
        }
    }

    /// Tells whether it is to stay at the broker.
    pub(in crate::client) fn is_retained(&self) -> bool {
        match self {
            Self::Publish4(packet) => packet.retain,
            Self::Publish5(packet) => packet.retain,
            _ => false,
        }
    }

    /// Appends it under this identifier.
    pub(in crate::client) fn write(self, id: u16, out: &mut BytesMut) {
        let written = match self {
            Self::Publish4(mut packet) => {
                packet.pkid = id;
                packet.write(out).is_ok()
            }
            Self::Publish5(mut packet) => {
                packet.pkid = id;
                packet.write(out).is_ok()
            }
            Self::Subscribe4(mut packet) => {
                packet.pkid = id;
                packet.write(out).is_ok()
            }
            Self::Subscribe5(mut packet) => {
                packet.pkid = id;
                packet.write(out).is_ok()
            }
            Self::Unsubscribe4(mut packet) => {
                packet.pkid = id;
                packet.write(out).is_ok()
            }
            Self::Unsubscribe5(mut packet) => {
                packet.pkid = id;
                packet.write(out).is_ok()
            }
        };
        // It fails for sizes above 256 MiB, which are refused before, and for identifier zero.
        debug_assert!(written);
    }
}

/// The packet that opens a connection.
///
/// # Errors
/// A text is longer than MQTT can carry, or there is a password without a user name in version 3.1.1.
pub(in crate::client) fn connect(options: &Options) -> Result<BytesMut, MqttError> {
    let login = [&options.user_name, &options.password];
    for text in login.into_iter().flatten().chain([&options.client_id]) {
        check_text(text)?;
    }
    if options.version == Version::V4 && options.user_name.is_none() && options.password.is_some() {
        return Err(MqttError::Unspeakable(
            "a password needs a user name in version 3.1.1",
        ));
    }
    if let Some(will) = &options.will {
        check_topic(&will.topic)?;
        if will.payload.len() > MAX_TEXT {
            return Err(MqttError::TooLarge {
                size: will.payload.len(),
                limit: MAX_TEXT,
            });
        }
    }
    // The codec gets the flags right at the front of a buffer only.
    let mut out = BytesMut::new();
    let written = match options.version {
        Version::V4 => connect4(options).write(&mut out).is_ok(),
        Version::V5 => write_connect5(options, &mut out),
    };
    match written {
        true => Ok(out),
        false => Err(MqttError::Unspeakable("CONNECT is too long")),
    }
}

fn connect4(options: &Options) -> v4::Connect {
    let login = v4::Login {
        username: options.user_name.clone().unwrap_or_default(),
        password: options.password.clone().unwrap_or_default(),
    };
    v4::Connect {
        protocol: Protocol::V4,
        keep_alive: seconds(options),
        client_id: options.client_id.clone(),
        clean_session: options.clean_start,
        last_will: options.will.as_ref().map(|will| v4::LastWill {
            topic: will.topic.clone(),
            message: will.payload.clone(),
            qos: QoS::AtLeastOnce,
            retain: will.retain,
        }),
        login: Some(login),
    }
}

fn write_connect5(options: &Options, out: &mut BytesMut) -> bool {
    let mut properties = v5::ConnectProperties::new();
    properties.session_expiry_interval = options
        .session_expiry
        .map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    properties.receive_maximum = Some(options.limits.receive.max(1));
    properties.max_packet_size = Some(u32::try_from(options.limits.max_packet).unwrap_or(u32::MAX));
    let connect = v5::Connect {
        keep_alive: seconds(options),
        client_id: options.client_id.clone(),
        clean_start: options.clean_start,
        properties: Some(properties),
    };
    let will = options.will.as_ref().map(|will| v5::LastWill {
        topic: Bytes::copy_from_slice(will.topic.as_bytes()),
        message: will.payload.clone(),
        qos: QoS5::AtLeastOnce,
        retain: will.retain,
        properties: None,
    });
    let login = v5::Login {
        username: options.user_name.clone().unwrap_or_default(),
        password: options.password.clone().unwrap_or_default(),
    };
    connect.write(&will, &Some(login), out).is_ok()
}

/// The keep-alive in whole seconds, at least one unless there is none.
fn seconds(options: &Options) -> u16 {
    let time = options.keep_alive.as_millis().div_ceil(1000);
    u16::try_from(time).unwrap_or(u16::MAX)
}

/// Acknowledges a message; the same in both versions.
pub(in crate::client) fn puback(id: u16, out: &mut BytesMut) {
    out.extend_from_slice(&[0x40, 2]);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Asks for a sign of life.
pub(in crate::client) fn ping(out: &mut BytesMut) {
    out.extend_from_slice(&[0xc0, 0]);
}

/// Says that the connection ends, in version 5 with the reason; `rumqttc` gets its length wrong.
pub(in crate::client) fn disconnect(version: Version, code: u8, out: &mut BytesMut) {
    match (version, code) {
        (Version::V4, _) | (_, 0) => out.extend_from_slice(&[0xe0, 0]),
        _ => out.extend_from_slice(&[0xe0, 1, code]),
    }
}

fn into_properties(properties: Properties5) -> Result<v5::PublishProperties, MqttError> {
    let Properties5 {
        user,
        response_topic,
        correlation_data,
        content_type,
        message_expiry,
    } = properties;
    if let Some(topic) = &response_topic {
        check_topic(topic)?;
    }
    if let Some(text) = &content_type {
        check_text(text)?;
    }
    for (name, value) in &user {
        check_text(name)?;
        check_text(value)?;
    }
    if correlation_data
        .as_ref()
        .is_some_and(|data| data.len() > MAX_TEXT)
    {
        return Err(MqttError::Unspeakable(
            "correlation data above 65,535 bytes",
        ));
    }
    Ok(v5::PublishProperties {
        message_expiry_interval: message_expiry,
        response_topic,
        correlation_data,
        user_properties: user,
        content_type,
        ..Default::default()
    })
}

fn check_text(text: &str) -> Result<(), MqttError> {
    match text {
        _ if text.len() > MAX_TEXT => Err(MqttError::Unspeakable("a text above 65,535 bytes")),
        _ if text.contains('\0') => Err(MqttError::Unspeakable("a text with U+0000")),
        _ => Ok(()),
    }
}

fn check_topic(topic: &str) -> Result<(), MqttError> {
    check_text(topic)?;
    match topic {
        "" => Err(MqttError::Unspeakable("an empty topic")),
        _ if topic.contains(['+', '#']) => Err(MqttError::Unspeakable("a wildcard in a topic")),
        _ => Ok(()),
    }
}

fn check_filters(filters: &[String]) -> Result<(), MqttError> {
    if filters.is_empty() {
        return Err(MqttError::Unspeakable("no filter"));
    }
    for filter in filters {
        check_text(filter)?;
        if !valid_filter(filter) {
            return Err(MqttError::Unspeakable("a filter with a misplaced wildcard"));
        }
    }
    Ok(())
}
