use std::time::Duration;

use serde::Deserialize;

/// Says what happens on the wire.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttPoolWire {
    /// From the first packet to an open MQTT connection. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the broker may take to acknowledge a message or a subscription, and a twin request
    /// to be answered. Default 30 s; the connection is then given up. As long, an answer to a method, a
    /// dead letter or a command handed over is offered to a broker that is away or takes no more now.
    #[serde(with = "humantime_serde")]
    pub answer_timeout: Duration,
    /// How long we are silent before a ping goes out; the broker gives us up after one and a half
    /// times that. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// How long the broker keeps commands for a connection that is away. Default 1 h; 0 s for not at
    /// all. MQTT 3.1.1 knows only not at all and for ever.
    #[serde(with = "humantime_serde")]
    pub session_expiry: Duration,
    /// Messages of one connection without the broker's acknowledgement. Default 1000; the broker may
    /// allow fewer (MQTT 5).
    pub in_flight: u16,
    /// Commands of one connection without our acknowledgement, as MQTT 5 tells the broker. Default
    /// 1024. A broker that gives more is left, as Mosquitto 2.0.11 does once so many are given: let it be
    /// more than its `max_inflight_messages`.
    ///
    /// A broker of version 3.1.1 is not told, so no more is read of it; nor beyond the connection's share
    /// of half of `commands.pending` (256 with the defaults), for which there is room. While answers of
    /// its are awaited, twice as many are read. If it gives out more at once, a method among them can be
    /// answered only when others are settled or its time is over.
    pub unacknowledged: u16,
    /// The largest message in bytes: body and application properties. Default 256 KiB, as Azure IoT
    /// Hub's.
    pub max_message: usize,
    /// The largest packet in bytes, either way. Default 1 MiB: a message grows by a third in an
    /// envelope, and topic and properties come on top. A broker of version 3.1.1 is not told: a larger
    /// message of its is unreadable. Over a WebSocket that is so up to 1 MiB more; beyond that it costs
    /// the connection.
    pub max_packet: usize,
    /// Bytes that gather for one write. Default 64 KiB, a connection.
    pub buffer: usize,
}

impl Default for MqttPoolWire {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            answer_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            session_expiry: Duration::from_secs(3600),
            in_flight: 1000,
            unacknowledged: 1024,
            max_message: 256 * 1024,
            max_packet: 1024 * 1024,
            buffer: 64 * 1024,
        }
    }
}
