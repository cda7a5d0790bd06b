//! A downstream for devices on TCP and TLS.
//!
//! Devices speak [JSON lines](proto::json_lines) out of the box. A device with a protocol of its
//! own gets a [`Protocol`](proto::Protocol): a state machine without IO that says what bytes mean,
//! while the connection around it keeps the delivery contract: nothing is acknowledged before the
//! hub has it, everything is bounded, and no device harms another.
//!
//! ```no_run
//! # use gateway_core::{Gateway, Upstream, credential::StaticCredentials};
//! # async fn example(upstream: impl Upstream, credentials: StaticCredentials)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use gateway_downstream_tcp::{TcpConfig, TcpDownstream};
//!
//! let tcp = TcpDownstream::bind(TcpConfig::default()).await?;
//! println!("Devices may connect to {}", tcp.local_addr());
//! let gateway = Gateway::builder(upstream)
//!     .with_credentials(credentials)
//!     .with_downstream("tcp", tcp)
//!     .build()?;
//! # Ok(())
//! # }
//! ```

mod config;
mod connection;
mod identity;
pub mod proto;
mod registry;
mod serve;
mod tls;

pub use config::{
    IdentityConfig, InterestConfig, JsonLinesConfig, LimitConfig, TcpConfig, TimeoutConfig,
    TlsConfig,
};
pub use gateway_net::BindError;
pub use identity::{Authenticator, SharedSecrets, TrustAnyId};
pub use serve::{TcpDownstream, TcpDownstreamBuilder};
