//! What stands around an upstream, each with one job.
//!
//! The gateway has observe over retry over timeout, so that a retry is a new try with a new time,
//! and what is observed is what devices see. However many layers there are, a request is boxed for
//! them once.

mod layered;
mod limit;
mod observe;
mod retry;
mod timeout;

pub use layered::{Layer, Layered, Request};
pub use limit::Limit;
pub use observe::{Observe, UpstreamCounters};
pub use retry::Retry;
pub use timeout::Timeout;
