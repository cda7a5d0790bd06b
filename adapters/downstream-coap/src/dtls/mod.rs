//! DTLS with pre-shared keys: sessions as state without IO, and where their keys come from.
//!
//! ```text
//! datagrams --> DtlsTable --> Identify --> PskStore
//!                 ^    |                       |
//!                 '----|----- identified <-----'
//!                      '--> Ready, Datagram, Ended
//! ```
//!
//! It is DTLS 1.2 (RFC 6347) with TLS_PSK_WITH_AES_128_CCM_8, which RFC 7252, section 9.1.3.1 has
//! every device speak, and the extended master secret (RFC 7627), without which a device is refused.
//! There is no session resumption and no connection id (RFC 9146). A ClientHello has to come whole, in
//! a datagram of its own: one in fragments is dropped, since its parts would have to be kept for a
//! source that has shown nothing yet.

mod config;
mod cookie;
mod engine;
mod event;
mod roster;
mod session;
mod store;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

pub use config::DtlsConfig;
pub use event::{DtlsEvent, DtlsSendError, DtlsTransmit, Refusal, SessionEnd, SessionId};
pub use store::{PskEntry, PskFn, PskKey, PskKeyError, PskStore, PskStoreError, StaticPskStore};
pub use table::{DtlsStats, DtlsTable};
