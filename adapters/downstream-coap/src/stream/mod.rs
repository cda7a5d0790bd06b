//! CoAP over TCP and TLS (RFC 8323): one task for each connection.
//!
//! What devices ask for is handled as over UDP ([`Devices`](crate::devices::Devices)); here is what
//! streams have of their own: connections that begin and end, and confirmation. Nothing on a stream
//! acknowledges a notification. A ping goes behind it instead, whose pong says that the device has
//! taken what came before (section 5.4).

mod clocks;
mod config;
mod connection;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod layer;
mod serve;
mod tls;
mod wire;

pub use config::{ConnectionConfig, TcpConfig, TlsConfig};
pub(crate) use serve::Door;
