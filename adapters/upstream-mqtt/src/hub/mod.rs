//! Azure IoT Hub's own dialect: one connection for each device, as the hub wants it over MQTT.
//!
//! | module | job |
//! | --- | --- |
//! | `upstream` | the seam: sends, attaches, detaches, closes |
//! | `device`, `line` | a device behind a fair lock; one connection of it, with what the hub sent on it |
//! | `attach`, `login` | how a connection is opened or replaced, in its turn and with which token |
//! | `session`, `commands` | the task of a device: hands on what comes, renews the connection |
//! | `align` | what the hub was told that the device wants to hear |
//! | `recovery` | how a lost device comes back |
//! | `twin` | questions with their answers, and changes of desired properties |
//! | `takeover` | whether another client took the device |
//! | `topic`, `bag`, `convert` | the hub's topics, their properties, and the gateway's messages |

mod align;
mod attach;
mod bag;
mod commands;
mod config;
mod convert;
mod device;
mod env;
mod error;
mod explain;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod line;
mod login;
mod recovery;
mod session;
mod takeover;
mod topic;
mod twin;
mod upstream;

pub use config::{
    MqttCommandConfig, MqttHubBudgetConfig, MqttHubConfig, MqttHubWireConfig, MqttReconnectConfig,
    MqttTransport,
};
pub use login::MqttTokenConfig;
pub use upstream::{MqttHubStats, MqttHubUpstream};
