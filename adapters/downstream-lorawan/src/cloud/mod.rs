//! What the connections to network servers elsewhere have in common.
//!
//! Each kind of server has a module of its own: [`chirpstack`](crate::chirpstack) and
//! [`tts`](crate::tts). A message is acknowledged to the broker, or its request answered with
//! success, only when the hub has taken what came of it; one that comes again is dropped.

#[cfg(feature = "cloud")]
mod config;
#[cfg(feature = "cloud")]
mod dialect;
#[cfg(feature = "cloud")]
mod downstream;
#[cfg(feature = "cloud")]
mod http;
#[cfg(feature = "cloud")]
mod intake;
#[cfg(feature = "cloud")]
mod mqtt;
#[cfg(feature = "cloud")]
mod post;
pub(crate) mod read;
mod told;
#[cfg(feature = "cloud")]
mod turns;

#[cfg(feature = "cloud")]
pub(crate) use config::check_name;
#[cfg(feature = "cloud")]
pub use config::{HttpConfig, MqttConfig, PostConfig};
#[cfg(feature = "cloud")]
pub(crate) use dialect::{Dialect, Publication};
#[cfg(feature = "cloud")]
pub use downstream::CloudDownstream;
#[cfg(feature = "cloud")]
pub use gateway_net::BindError;
#[cfg(feature = "cloud")]
pub(crate) use http::Request;
pub use told::{DecodeError, Route, Told};
