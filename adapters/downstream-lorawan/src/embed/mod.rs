//! For makers of LoRaWAN network servers, who embed the gateway.
//!
//! A network server hands in what happens through [`NetworkEvents`], and gets downlinks by
//! implementing [`NetworkServer`] or from an [`OrderStream`]. Whether the hub has taken an uplink is
//! told by the call that handed it in.
//!
//! ```no_run
//! use gateway_core::{Gateway, Settlement, Upstream, credential::StaticCredentials};
//! use gateway_downstream_lorawan::embed::{LorawanConfig, LorawanDownstream, Order};
//! use gateway_downstream_lorawan::event::{TransmitAck, Uplink};
//!
//! # async fn example(upstream: impl Upstream, credentials: StaticCredentials)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let (lorawan, mut orders) = LorawanDownstream::builder(LorawanConfig::default()).stream()?;
//! let events = lorawan.events();
//! let gateway = Gateway::builder(upstream)
//!     .with_credentials(credentials)
//!     .with_downstream("lorawan", lorawan)
//!     .build()?;
//! // Run the gateway on a task of its own, then, for each frame:
//! let uplink = Uplink::new("70b3d57ed0000001".parse()?, 4, 1, &[0xaa, 0][..]);
//! if events.uplink(uplink).await == Settlement::Accepted {
//!     println!("The hub has it");
//! }
//! // And on another task:
//! while let Some(order) = orders.next().await {
//!     if let Order::Send(downlink) = order {
//!         // Send it in a receive window, then say so.
//!         let ack = TransmitAck::new(downlink.dev_eui, downlink.id, Ok(()));
//!         events.transmit_ack(ack).await;
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod commands;
mod config;
mod directory;
mod downstream;
mod error;
mod events;
mod listening;
mod network;
mod serve;
mod shared;

pub use config::{ListenPolicy, LorawanConfig, MethodPolicy, ProfileConfig, ReportConfig};
pub use directory::{Device, DeviceIdCase, Directory, EuiDirectory, Profile};
pub use downstream::{LorawanBuilder, LorawanDownstream};
pub use events::NetworkEvents;
pub use network::{NetworkServer, Order, OrderStream};
