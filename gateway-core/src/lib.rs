//! The seams of an IoT gateway, and the contract between them.
//!
//! A gateway speaks to a cloud hub for devices that cannot. Three traits are where others plug in:
//! [`Upstream`] carries devices' messages to a hub, [`Downstream`] speaks with devices in their own
//! protocol, [`CloudCallback`] takes what the hub sends. This crate holds everything between them
//! that belongs to no protocol: [`Ingress`] with its credits and settlements, the session table,
//! routing of commands, retries, credentials, and an orderly end.
//!
//! The contract: a device is told "accepted" only after the hub accepted; messages arrive at least
//! once, under a stable id; those of one device arrive in order; everything is bounded; one bad
//! device costs nobody else anything.

mod backoff;
mod callback;
mod config;
pub mod credential;
mod downstream;
mod error;
mod explain;
mod gateway;
pub mod governor;
mod id;
mod ingress;
pub mod layer;
mod lock;
mod message;
mod properties;
mod router;
mod session;
#[cfg(feature = "testkit")]
pub mod testkit;
mod time;
mod twin;
mod upstream;

pub use backoff::Backoff;
pub use callback::CloudCallback;
pub use config::{BatchConfig, GatewayConfig, RetryConfig, SessionConfig, TimeoutConfig};
pub use credential::{Credential, CredentialProvider};
pub use downstream::{Downstream, ServeContext};
pub use error::{
    BuildError, ConfigError, CredentialError, DownstreamError, ErrorKind, UpstreamError,
};
pub use explain::{
    BreakerState, BudgetWait, CredentialKind, Explanation, LaneExplanation, LastError,
    LinkExplanation, LinkPurpose, RefusalExplanation, SessionExplanation, TokenExplanation,
    UpstreamExplanation,
};
pub use gateway::{Gateway, GatewayBuilder, GatewayStats, RunError, ShutdownReport};
pub use id::{CorrelationId, DeviceId, MessageId, MethodName, ParseIdError};
pub use ingress::{Announcement, Ingress, Presence, Slot};
pub use message::{
    CloudMessage, DEFAULT_RETRY_AFTER, Delivered, DesiredPatch, Disposition, Downlink, MethodCall,
    MethodReply, SessionEnd, Settlement, SystemProperties, TwinReply, TwinRequest, Uplink,
};
pub use properties::Properties;
pub use session::SessionStats;
pub use time::rfc3339;
pub use twin::{
    DesiredChange, DesiredChanges, PropertyAck, Twin, TwinError, TwinProperties, desired_of,
    version_of,
};
pub use upstream::{DeviceIdentity, Interest, Upstream};
