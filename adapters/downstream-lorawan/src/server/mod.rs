//! A small LoRaWAN network server, for fleets that have none.
//!
//! Concentrators speak to it: Semtech's packet forwarders by UDP, Basics Stations by WebSocket. A
//! frame that several of them heard is one; its device is answered through the one that heard it
//! best. What must outlive a restart is [stored](SessionStore) before it is acted upon. Towards the
//! hub it is a downstream like the [embedding API](crate::embed), by which it is made.
//!
//! A confirmed uplink is acknowledged on air when the hub has it, and not before. A device that
//! gets no acknowledgement says it again; what was lost meanwhile, even by a restart, goes to the
//! hub then, under the same message id: DevEUI, address, counter and MIC of its frame. (A device of
//! LoRaWAN 1.0.4 says it again with another counter, which is another message.) Nobody says an
//! unconfirmed uplink again: it waits in memory for a hub that is away, and is lost if the gateway
//! ends meanwhile, or if as many as [may](LimitConfig::uplinks) wait already.
//!
//! LoRaWAN 1.0.x, classes A and C. A concentrator must be listed, and stays pinned to the address
//! that it was heard from. The packet forwarders' protocol has no authentication: let nobody else
//! send to its port.
//!
//! ```no_run
//! # use gateway_downstream_lorawan::event::DevEui;
//! # use gateway_downstream_lorawan::proto::mac::RegionName;
//! use gateway_downstream_lorawan::server::{
//!     ConcentratorConfig, DeviceConfig, ForwarderConfig, LorawanServer, OtaaConfig, ServerConfig,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = ServerConfig::new(RegionName::Eu868);
//! config.store = Some("/var/lib/gateway/lorawan.redb".into());
//! config.forwarders = Some(ForwarderConfig::default());
//! config.concentrators = vec![ConcentratorConfig::new("b827ebfffe010203".parse()?)];
//! let app_key = std::env::var("APP_KEY")?.parse()?;
//! let meter = DeviceConfig::otaa("70b3d57ed0000001".parse()?, OtaaConfig::new(app_key));
//! config.devices = vec![meter];
//! let server = LorawanServer::builder(config).bind().await?;
//! // Give it to a gateway: `Gateway::builder(hub).with_downstream("lorawan", server)`.
//! # Ok(())
//! # }
//! ```
//!
//! As a document, with stations whose radios are tuned to the eight usual channels of EU868:
//!
//! ```toml
#![doc = include_str!("sample.toml")]
//! ```

mod concentrators;
mod config;
mod devices;
mod downstream;
mod engine;
mod error;
mod forwarder;
mod losses;
mod orders;
mod station;
mod store;
mod teller;

pub use config::{
    AbpConfig, ConcentratorConfig, DeviceConfig, DeviceListError, ForwarderConfig, LimitConfig,
    OtaaConfig, ServerConfig, StationConfig, TimingConfig, parse_devices,
};
pub use downstream::{LorawanServer, LorawanServerBuilder};
pub use error::BindError;
pub use store::{Change, EmbeddedStore, SessionStore, StoreError};
