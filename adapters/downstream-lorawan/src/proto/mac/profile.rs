//! What is known of a device before it is heard.

use super::super::store::SessionRecord;
use super::super::{Eui64, Key};
use crate::event::{DevAddr, DevEui};

/// Is a device that may use the network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceProfile {
    /// Its name.
    pub dev_eui: DevEui,
    /// How it comes by a session.
    pub activation: Activation,
    /// When it listens.
    pub class: Class,
    /// Whether the network chooses its data rate, when the device lets it. On by default.
    pub adr: bool,
}

/// Is how a device comes by a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// It joins (OTAA).
    Otaa {
        /// Its root key.
        app_key: Key,
        /// The JoinEUI that it must name; `None` takes any.
        join_eui: Option<Eui64>,
        /// How its DevNonces must be.
        nonces: NonceRule,
    },
    /// It was made with a session (ABP).
    Abp {
        /// Its address.
        dev_addr: DevAddr,
        /// Signs frames and encrypts MAC commands.
        nwk_s_key: Key,
        /// Encrypts what applications say.
        app_s_key: Key,
        /// Whether its counter may begin at 0 again. That lets whoever recorded its frames replay
        /// them; it is for devices that forget their counters and cannot be mended. A first frame
        /// that is to the byte what the device said last is taken for a repetition.
        reset_allowed: bool,
    },
}

/// Is when a device listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Class {
    /// After each uplink, twice.
    #[default]
    A,
    /// Always, except when it sends.
    C,
}

/// Is how a device's DevNonces must be; none is ever taken twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NonceRule {
    /// New ones, in any order (LoRaWAN 1.0.3 and older).
    #[default]
    New,
    /// Higher than any before (LoRaWAN 1.0.4).
    Higher,
}

impl DeviceProfile {
    /// Makes a device of class A that joins, with any JoinEUI.
    #[must_use]
    pub fn otaa(dev_eui: DevEui, app_key: Key) -> Self {
        let activation = Activation::Otaa {
            app_key,
            join_eui: None,
            nonces: NonceRule::default(),
        };
        Self::new(dev_eui, activation)
    }

    /// Makes a device of class A.
    #[must_use]
    pub fn new(dev_eui: DevEui, activation: Activation) -> Self {
        Self {
            dev_eui,
            activation,
            class: Class::default(),
            adr: true,
        }
    }

    /// Sets when it listens.
    #[must_use]
    pub fn with_class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// Sets whether the network chooses its data rate.
    #[must_use]
    pub fn with_adr(mut self, adr: bool) -> Self {
        self.adr = adr;
        self
    }

    pub(super) fn reset_allowed(&self) -> bool {
        let Activation::Abp { reset_allowed, .. } = self.activation else {
            return false;
        };
        reset_allowed
    }

    /// Returns the session that the device was made with.
    pub(super) fn abp_session(&self, windows: &super::WindowConfig) -> Option<SessionRecord> {
        let Activation::Abp {
            dev_addr,
            nwk_s_key,
            app_s_key,
            ..
        } = self.activation
        else {
            return None;
        };
        Some(windows.session(dev_addr, nwk_s_key, app_s_key))
    }
}
