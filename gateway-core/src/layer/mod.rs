//! Wrappers around an upstream, each with one job.
//!
//! The gateway stacks them as observe over retry over timeout, so that a retry is a new try with a
//! new time, and what is observed is what devices see.

mod limit;
mod observe;
mod retry;
mod timeout;

pub use limit::Limit;
pub use observe::{Observe, UpstreamCounters};
pub use retry::Retry;
pub use timeout::Timeout;
