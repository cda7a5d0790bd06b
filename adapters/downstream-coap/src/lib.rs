//! A downstream for devices that speak CoAP.
//!
//! Devices post telemetry and events, observe commands and desired properties, and report
//! properties, by paths that are configuration. Everything that the protocol has to remember is in
//! [`proto`], without IO and without a clock; around it is one task a socket, and over TCP and TLS
//! one a connection.
//!
//! | path | method | |
//! | --- | --- | --- |
//! | `t`, `e` | POST, PUT | A message or an event: 2.04 once the hub has it. With `$.ttd=<seconds>` in the query the answer waits that long for a command. |
//! | `c` | GET with Observe | Commands, each a notification that the device acknowledges. A method names in Location-Path where its answer goes. |
//! | `r/{request}` | POST, PUT | The answer to a method, `$.status=<number>` in the query. |
//! | `twin` | GET, FETCH | The whole twin; with FETCH the properties that a JSON array names. |
//! | `twin/desired` | GET, with Observe or without; FETCH | Desired properties, their version as ETag. |
//! | `twin/reported` | PATCH, iPATCH, POST | Changes reported properties by a merge patch. |
//!
//! Below `d/{device}` they are those of a gateway's children; [`Profile`](proto::resource::Profile)
//! has Eclipse Hono's paths instead. `$.id=<device>` and `$.token=<token>` in the query say who
//! sends, where there is no session ([`IdentityConfig`]); [`Query`](proto::resource::Query) names
//! all other parameters.
//!
//! Desired properties that take several blocks are fetched whole though they change meanwhile; a change
//! that takes several blocks itself replaces them, as its ETag tells, and the device asks anew.
//!
//! What the hub refuses is 4.xx. What it cannot take now is 5.03 with the time to come back in
//! Max-Age, and a device that asks too much at a time gets 4.29.
//!
//! ```no_run
//! # use gateway_core::{Gateway, Upstream, credential::StaticCredentials};
//! # async fn example(upstream: impl Upstream, credentials: StaticCredentials)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use gateway_downstream_coap::{CoapConfig, CoapDownstream, UdpConfig};
//!
//! let mut config = CoapConfig::default();
//! config.udp = Some(UdpConfig::default());
//! config.identity.trust_any_id = true;
//! let coap = CoapDownstream::bind(config).await?;
//! if let Some(address) = coap.udp_addr() {
//!     println!("Devices may post to coap://{address}/t?$.id=device-1");
//! }
//! let gateway = Gateway::builder(upstream)
//!     .with_credentials(credentials)
//!     .with_downstream("coap", coap)
//!     .build()?;
//! # Ok(())
//! # }
//! ```

mod carrier;
mod commands;
mod config;
mod delivering;
mod devices;
mod downlink;
pub mod dtls;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod layer;
mod listener;
mod listening;
mod orders;
pub mod proto;
mod registry;
mod secure;
mod selection;
mod serve;
mod stream;
mod task;
mod uplink;

pub use config::{
    CoapConfig, CommandConfig, IdentityConfig, SecureConfig, TimeoutConfig, UdpConfig,
};
pub use gateway_net::BindError;
pub use identity::{Authenticator, Claim};
pub use serve::{CoapDownstream, CoapDownstreamBuilder};
pub use stream::{ConnectionConfig, TcpConfig, TlsConfig};
