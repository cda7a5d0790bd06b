//! What must survive a restart.

mod nonces;

use serde::{Deserialize, Serialize};

use super::{Eui64, Key};
use crate::event::{DevAddr, DevEui};

pub use nonces::UsedNonces;

/// Is all that a network must remember of one device.
///
/// It is written before what it allows is done: a counter before its frame is delivered or sent, a
/// DevNonce before its join is answered. It holds session keys, so a store of it is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceRecord {
    /// Whose it is.
    pub dev_eui: DevEui,
    /// DevNonces that have been used; none is taken twice.
    #[serde(default)]
    pub nonces: UsedNonces,
    /// Number (24 bits) of the next join-accept; none is given twice. The first is 1, and 0 counts as
    /// that.
    #[serde(default)]
    pub next_join_nonce: u32,
    /// Tells the AppKey of the last join from another, and no more of it than a session's keys do.
    /// None before the first join, and where it was stored without.
    #[serde(default)]
    pub app_key_mark: Option<[u8; 8]>,
    /// The session that has been heard of.
    #[serde(default)]
    pub session: Option<SessionRecord>,
    /// The session of the last join-accept, until an uplink shows that the device has it.
    #[serde(default)]
    pub joined: Option<SessionRecord>,
}

impl DeviceRecord {
    /// Makes the record of a device that was never heard.
    #[must_use]
    pub fn new(dev_eui: DevEui) -> Self {
        Self {
            dev_eui,
            nonces: UsedNonces::default(),
            next_join_nonce: 0,
            app_key_mark: None,
            session: None,
            joined: None,
        }
    }
}

/// Is one session of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionRecord {
    /// Its short address.
    pub dev_addr: DevAddr,
    /// Signs frames and encrypts MAC commands.
    pub nwk_s_key: Key,
    /// Encrypts what applications say.
    pub app_s_key: Key,
    /// Counter that the next uplink is expected to have.
    pub next_f_cnt_up: u32,
    /// MIC of the last uplink: a device that repeats itself has the same, one that begins its
    /// counters anew another. None before the first, and where it was stored without.
    #[serde(default)]
    pub last_mic: Option<[u8; 4]>,
    /// Counter that the next downlink will have.
    pub next_f_cnt_down: u32,
    /// Seconds until the first window.
    pub rx_delay: u8,
    /// Steps that the first window's data rate is below the uplink's.
    pub rx1_offset: u8,
    /// Data rate of the second window.
    pub rx2_data_rate: u8,
    /// Frequency of the second window, Hertz.
    pub rx2_frequency: u32,
    /// Whether the last uplink wants an acknowledgement that it cannot have yet, since nobody has
    /// said that its message was taken.
    #[serde(default)]
    pub unsettled: bool,
    /// Step of power that the device was told, 0 the most.
    #[serde(default)]
    pub power_step: u8,
    /// Whether the device has been told the network's channels.
    #[serde(default)]
    pub channels_told: bool,
    /// The concentrator that heard it best the last time: class C goes through it.
    #[serde(default)]
    pub gateway: Option<Eui64>,
}
