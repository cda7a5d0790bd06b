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

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use gateway_core::testkit::{DownstreamCapabilities, DownstreamSettings};
use gateway_downstream_lorawan::embed::{LorawanBuilder, LorawanConfig, LorawanDownstream};
use gateway_downstream_lorawan::event::DevEui;
use serde_json::Value;
use tokio::sync::mpsc;

use book::Book;

/// Where downlinks go.
#[derive(Debug, Default)]
struct Radio(Mutex<HashMap<String, mpsc::Sender<Value>>>);

impl Radio {
    fn listen(&self, dev_eui: DevEui) -> mpsc::Receiver<Value> {
        let (sender, downlinks) = mpsc::channel(10);
        self.0.lock().unwrap().insert(dev_eui.to_string(), sender);
        downlinks
    }

    /// Gives a downlink to its device; one that is gone hears nothing.
    async fn send(&self, dev_eui: &str, downlink: Value) {
        let device = self.0.lock().unwrap().get(dev_eui).cloned().unwrap();
        drop(device.send(downlink).await);
    }
}

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
