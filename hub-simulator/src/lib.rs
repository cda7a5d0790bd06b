//! Azure IoT Hub on this machine: faithful on the wire, with faults by script.
//!
//! The hub listens for AMQP 1.0 connections as the real one does: SASL or not, tokens on `$cbs`,
//! telemetry, cloud-to-device messages, direct methods and twins, many devices on a connection. It
//! enforces what the real one enforces and tells what it has accepted.
//!
//! ```
//! use hub_simulator::{C2d, HubSimulator};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = HubSimulator::builder().start().await?;
//! hub.add_device("sensor-1");
//! println!("connect to {} with {}", hub.addr(), hub.device_connection_string("sensor-1"));
//!
//! let ticket = hub.send_c2d("sensor-1", C2d::new("wake up").with_message_id("m-1"))?;
//! assert_eq!(ticket.outcome_now(), None);
//! assert_eq!(hub.record().count(), 0);
//! # Ok(())
//! # }
//! ```

mod amqp;
mod builder;
mod clock;
mod cloud;
mod connection_string;
mod control;
mod faults;
#[doc(hidden)]
pub mod fuzzing;
mod guid;
mod http;
mod hub;
mod limits;
mod line;
mod mqtt;
mod provisioning;
mod server;
mod shell;
mod simulator;
mod store;
mod tls;

pub use builder::{Builder, StartError};
pub use connection_string::{ConnectionString, ConnectionStringError, KeyOwner};
pub use faults::{Fault, Faults, HeldSettlements, LinkKind, Plan, PlanError, Planned, Step};
pub use hub::events::EventRetention;
pub use hub::feedback::Ack;
pub use hub::message::{C2d, C2dError, C2dTicket, MethodError, MethodResponse};
pub use hub::peer::{ConnectionId, ConnectionStats};
pub use hub::queue::C2dOutcome;
pub use hub::record::{Accepted, Record, RecordMode};
pub use hub::registry::{DeviceKeys, WhichKey};
pub use hub::sas::sign;
pub use hub::stamps::Stamps;
pub use hub::throttle::{Size, Tier};
pub use hub::twin::TwinError;
pub use limits::{Checks, Limits};
pub use provisioning::{Provisioning, ProvisioningError, ProvisioningOptions, Registered};
pub use simulator::{HubSimulator, HubStats};
pub use store::{StoreError, write_atomically};
pub use tls::CertificateError;
