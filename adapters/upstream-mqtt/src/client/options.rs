//! How a connection is to be, and what goes over it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_rustls::rustls::ClientConfig;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// What it is spoken over.
#[derive(Clone)]
pub(crate) enum Transport {
    /// Bare TCP.
    Tcp,
    /// TLS, for the name in [`Options::host`].
    Tls(Arc<ClientConfig>),
    /// Binary messages of a WebSocket with sub-protocol `mqtt` (MQTT 3.1.1, section 6).
    WebSocket {
        tls: Option<Arc<ClientConfig>>,
        /// With its leading slash.
        path: String,
    },
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("Tcp"),
            Self::Tls(_) => f.write_str("Tls"),
            Self::WebSocket { tls, path } => f
                .debug_struct("WebSocket")
                .field("tls", &tls.is_some())
                .field("path", path)
                .finish(),
        }
    }
}

/// How a connection is to be.
#[derive(Clone)]
pub(crate) struct Options {
    /// The broker's name: what its certificate must hold, and what a WebSocket asks for.
    pub(crate) host: String,
    /// Where the broker is, if its name does not lead there.
    pub(crate) address: Option<String>,
    pub(crate) port: u16,
    pub(crate) transport: Transport,
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) user_name: Option<String>,
    /// Needs a user name in version 3.1.1.
    pub(crate) password: Option<String>,
    /// The broker is to forget what it kept of an earlier session (3.1.1: clean session).
    pub(crate) clean_start: bool,
    /// How long the broker keeps the session after the connection. Version 5 only; without it the
    /// session ends with the connection.
    pub(crate) session_expiry: Option<Duration>,
    /// Silence after which the broker is asked for a sign of life. Whole seconds on the wire; zero
    /// means never. A broker of version 5 may decide otherwise.
    pub(crate) keep_alive: Duration,
    pub(crate) will: Option<Will>,
    /// Whether acknowledgements leave in the order of arrival, as MQTT asks (section 4.6); default
    /// true. Else each leaves with its verdict, so that none waits for another's: brokers find it by
    /// its identifier.
    pub(crate) ordered_acks: bool,
    pub(crate) limits: Limits,
}

impl Options {
    /// A connection over TCP with a session that ends with it.
    pub(crate) fn new(host: impl Into<String>, port: u16, client_id: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            address: None,
            port,
            transport: Transport::Tcp,
            version: Version::V4,
            client_id: client_id.into(),
            user_name: None,
            password: None,
            clean_start: true,
            session_expiry: None,
            keep_alive: Duration::from_secs(60),
            will: None,
            ordered_acks: true,
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("host", &self.host)
            .field("address", &self.address)
            .field("port", &self.port)
            .field("transport", &self.transport)
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("has_password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}

/// What a connection may take up.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Until TCP, TLS and the broker's answer to CONNECT are there; default 20 s.
    pub(crate) connect_timeout: Duration,
    /// Until the broker acknowledges a packet, answers a ping, or reads what is written to it;
    /// default 30 s. The connection ends with that: the packet's identifier cannot be used again.
    pub(crate) answer_timeout: Duration,
    /// Messages on their way without acknowledgement; default 1,024. A broker of version 5 may ask
    /// for fewer.
    pub(crate) in_flight: u16,
    /// Messages from the broker that wait for our acknowledgement; default 1,024. A broker of version
    /// 5 is told, and left if it sends more; from one of version 3.1.1 nothing more is read until
    /// there is room. While packets of ours wait for their answer, which may come behind, it is twice as
    /// many.
    pub(crate) receive: u16,
    /// Bytes of a packet in either direction; default 1 MiB. A broker of version 5 may take less, and is
    /// told and left if it sends more; one of version 3.1.1 is left for more only if that is no message:
    /// a message comes without its payload.
    pub(crate) max_packet: usize,
    /// Bytes that gather for one write before messages wait; default 64 KiB.
    pub(crate) buffer: usize,
    /// Messages that wait for their turn; default 10,000. More are refused.
    pub(crate) queued: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(20),
            answer_timeout: Duration::from_secs(30),
            in_flight: 1024,
            receive: 1024,
            max_packet: 1 << 20,
            buffer: 64 * 1024,
            queued: 10_000,
        }
    }
}

/// What the broker publishes for us when the connection ends without a word. At least once.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: String,
    /// At most 65,535 bytes.
    pub(crate) payload: Bytes,
    pub(crate) retain: bool,
}

/// A message to the broker, at least once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retain: bool,
    /// Version 5 only; left out in version 3.1.1.
    pub(crate) properties: Option<Properties5>,
}

/// What version 5 carries beside a payload (section 3.3.2.3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties5 {
    pub(crate) user: Vec<(String, String)>,
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_data: Option<Bytes>,
    pub(crate) content_type: Option<String>,
    /// In seconds; what comes from a broker is what is left of it.
    pub(crate) message_expiry: Option<u32>,
}
