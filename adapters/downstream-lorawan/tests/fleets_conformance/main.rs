//! The downstream suite over network servers elsewhere, which the tests play: ChirpStack with a real
//! broker between, and a webhook of The Things Stack.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/book.rs"]
mod book;
#[path = "../../../upstream-mqtt/tests/common/broker.rs"]
mod broker;
mod chirpstack;
#[path = "../support/post.rs"]
mod post;
mod webhook;

use std::sync::Arc;

use gateway_core::testkit::{DownstreamCapabilities, DownstreamSettings};
use gateway_downstream_lorawan::embed::{LorawanBuilder, LorawanConfig, LorawanDownstream};

use book::Book;

/// What applies wherever the network server is elsewhere.
fn capabilities() -> DownstreamCapabilities {
    let mut capabilities = DownstreamCapabilities::default();
    // A frame is too short to fill a transport.
    capabilities.pushes_back = false;
    // The gateway answers for the device.
    capabilities.methods = false;
    capabilities.twins = false;
    capabilities.has_connections = false;
    capabilities
}

fn lorawan(book: &Arc<Book>, settings: DownstreamSettings) -> LorawanBuilder {
    let mut config = LorawanConfig::default();
    config.reports.joins = false;
    if let Some(timeout) = settings.idle_timeout {
        config.idle_timeout = timeout;
    }
    LorawanDownstream::builder(config).with_directory(book.clone())
}
