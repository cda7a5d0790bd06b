//! How a device stands, for whoever asks why.

mod upstream;

pub use upstream::{
    BreakerState, BudgetWait, LaneExplanation, LastError, LinkExplanation, LinkPurpose,
    TokenExplanation, UpstreamExplanation,
};
