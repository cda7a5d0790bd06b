//! Azure IoT Hub on this machine: faithful on the wire, with faults by script.
//!
//! It speaks AMQP 1.0, MQTT and HTTPS, the first two over WebSockets too, to devices, modules and
//! services, and has the Event Hubs-compatible side and the device provisioning service. It enforces
//! what the real one enforces, sizes, rates and quotas included ([`Limits`], [`Checks`], [`Size`]),
//! and [records](Record) what it has accepted. [`Faults`] come by script or over a control endpoint;
//! what it knows can outlive it, in a directory. The README says what is faithful and what is
//! simplified. The program `hub-simulator` is all this from a command line.
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
