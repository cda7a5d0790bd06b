//! The conformance suite of upstreams, against the hub simulator's MQTT side over TLS.

#[path = "common/hub.rs"]
mod common;

use common::HubFixture;
use gateway_core::testkit::UpstreamCapabilities;
use hub_simulator::{HubSimulator, Limits};

async fn fixture() -> HubFixture {
    // Over MQTT a message comes again only because nobody settled it: here that counts.
    let limits = Limits::default().with_lapsed_lock_counts(true);
    let hub = HubSimulator::builder().with_limits(limits).start().await;
    let hub = hub.expect("the simulator starts");
    let upstream = common::upstream(common::config(&hub));
    let mut capabilities = UpstreamCapabilities::default();
    // MQTT 3.1.1 has one way to refuse anything: the hub closes the connection.
    capabilities.can_reject = false;
    // A batch is as many publications, each settled for itself.
    capabilities.batches = false;
    // A PUBACK is all that the hub hears of a message.
    capabilities.can_reject_messages = false;
    HubFixture::new(hub, upstream).with_capabilities(capabilities)
}

gateway_core::upstream_conformance!(fixture);
