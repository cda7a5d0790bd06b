//! A gateway between a hub in memory and a network server elsewhere.

use std::time::Duration;

use gateway_core::Gateway;
use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_downstream_lorawan::cloud::CloudDownstream;
use gateway_downstream_lorawan::embed::{
    EuiDirectory, ListenPolicy, LorawanBuilder, LorawanConfig, LorawanDownstream, Profile,
    ProfileConfig,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs a gateway; it ends as in a crash when the set is dropped.
pub(crate) fn run(hub: &MemoryUpstream, downstream: CloudDownstream) -> JoinSet<()> {
    let key = SymmetricKey::from_base64("c2VjcmV0").expect("a key");
    let policy = SharedAccessPolicy::new("device", key);
    let gateway = Gateway::builder(hub.clone())
        .with_credentials(HubPolicyCredentials::new(policy))
        .with_downstream("lorawan", downstream)
        .build()
        .expect("a gateway");
    let mut run = JoinSet::new();
    run.spawn(async move {
        drop(gateway.run(CancellationToken::new()).await);
    });
    run
}

/// Everybody under their EUI, listening always, on port 10.
pub(crate) fn everybody() -> LorawanBuilder {
    let mut profile = ProfileConfig::default();
    profile.port = Some(10);
    profile.listen = Some(ListenPolicy::Always);
    let directory = EuiDirectory::new(Profile::new(profile).expect("a profile"));
    let mut config = LorawanConfig::default();
    // So long that none closes on a machine that has much to do.
    config.window = Duration::from_secs(15);
    LorawanDownstream::builder(config).with_directory(directory)
}
