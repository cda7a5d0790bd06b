//! The conformance suite of upstreams, against the hub simulator over TLS.

mod common;

use common::HubFixture;

async fn fixture() -> HubFixture {
    let hub = common::hub().await;
    let upstream = common::upstream(common::config(&hub));
    HubFixture::new(hub, upstream)
}

gateway_core::upstream_conformance!(fixture);
