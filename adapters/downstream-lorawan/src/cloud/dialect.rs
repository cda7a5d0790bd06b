//! What differs from one network server to the next.

use std::fmt;

use bytes::Bytes;

use super::http::Request;
use super::told::{DecodeError, Route, Told};
use crate::event::Downlink;

/// Is something to be published, or posted to a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) topic: String,
    pub(crate) body: Bytes,
}

/// Knows how a kind of network server speaks.
pub(crate) trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// The topics of what it tells.
    fn filters(&self) -> Vec<String>;

    /// Reads what came on a topic.
    fn read(&self, topic: &str, body: &[u8]) -> Result<Told, DecodeError>;

    /// Reads what was posted.
    fn read_request(&self, request: &Request<'_>) -> Result<Told, DecodeError>;

    /// Asks for a downlink.
    fn send(&self, downlink: &Downlink, route: &Route) -> Publication;

    /// Asks to drop what is still in the device's queue, where that can be asked.
    fn withdraw(&self, route: &Route) -> Option<Publication>;
}
