//! The AMQP 1.0 client: many sessions and links on one connection, at little cost each.
//!
//! State without IO behind one lock a connection, and a driver that reads and writes for it. Whoever
//! sends encodes the frame into the connection's outbox itself; the driver writes all that has
//! gathered at once, and wakes whoever a batch of frames concerns. A link is a few hundred bytes and
//! an entry in a table: no task, no channel.
//!
//! ```text
//! Sender, Receiver, Session (handle) --> State { Session { Link } } --> Outbox --> Driver --> socket
//!                                          ^---------------- frames ---------------- Driver <--
//! ```
//!
//! Types, codec and SASL frames are those of `fe2o3-amqp`; its own links and sessions are not used,
//! since they cost 13 KiB each, open one by one, and use a link's handle again while messages of the
//! old link may be on their way.

mod driver;
mod error;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod handle;
mod link;
mod numbers;
mod outbox;
mod session;
mod state;
#[cfg(any(test, feature = "fuzzing"))]
#[expect(
    clippy::unwrap_used,
    reason = "a run ends with the first rule that is broken"
)]
mod tests;
mod value;

pub(crate) use driver::{Connection, Options};
pub(crate) use error::{ClientError, OpenError};
pub(crate) use handle::{Receiver, Sender, Session};
pub(crate) use link::{Delivery as Incoming, LinkSpec};
pub(crate) use session::{LinkId, Outcome, SessionEvent, Verdict};
pub(crate) use value::check_sections;
