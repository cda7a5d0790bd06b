//! Who a device is to the hub: keys, tokens, connection strings, and where they come from.

mod connection_string;
mod key;
mod provider;
mod renewal;
mod sas;
mod secret;

pub use connection_string::{ConnectionString, ParseConnectionStringError};
pub use key::{GroupKey, KeyPair, ParseKeyError, SharedAccessPolicy, SymmetricKey};
pub use provider::{
    CredentialProvider, CredentialSource, GroupKeyCredentials, HubPolicyCredentials,
    StaticCredentials, VouchedCredentials,
};
pub use renewal::Renewals;
pub use sas::{ParseTokenError, SasToken, sas_resource};
pub use secret::Secret;

/// Proves a device's identity to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A policy of the hub that may act for every device: one token serves a whole connection.
    Policy(SharedAccessPolicy),
    /// The device's own key or keys, given or derived from a [`GroupKey`]: a token for each device,
    /// which the adapter signs and renews.
    DeviceKey(KeyPair),
    /// A token that somebody else signed, as a rule the device itself: the hub judges it, and the
    /// session ends when the token does, unless there is a newer one by then.
    SasToken(SasToken),
    /// Nothing of the device's: the gateway vouches for it. For a hub that knows no devices, such as
    /// a broker; one that does refuses it.
    Vouched,
}
