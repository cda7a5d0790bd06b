//! Tokens: renewed in place, ended with their time, and signed with whichever key the hub takes.

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use common::{
    attach, config, device_id, hub, key, limited, pair, send_until_ok, token, uplink, upstream,
    wire, with_key, with_policy, with_token,
};
use futures_util::future::join_all;
use gateway_core::credential::{CredentialSource, SharedAccessPolicy};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{
    Credential, CredentialError, CredentialProvider, DeviceId, DeviceIdentity, ErrorKind, Interest,
    Upstream,
};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use hub_simulator::{HubSimulator, HubStats, WhichKey};
use tokio::sync::watch;

const HOUR: Duration = Duration::from_secs(3600);

/// Tokens of a few seconds, renewed early, so that a slow machine renews them in time.
fn brief(hub: &HubSimulator) -> AmqpConfig {
    let mut config = config(hub);
    config.tokens.ttl = Duration::from_secs(10);
    config.tokens.renew_at = 0.2;
    config.tokens.jitter = 0.1;
    config.tokens.per_second = 1000.0;
    config
}

/// Waits until the hub has taken so many more tokens of a device.
async fn renewed(hub: &HubSimulator, device: &str, times: u64) {
    let before = hub.tokens_put(device);
    hub.wait_until(|_| hub.tokens_put(device) >= before + times)
        .await;
}

/// Waits until the hub has taken so many more tokens over its one connection.
async fn renewed_policy(hub: &HubSimulator, times: u64) {
    let put = |stats: &HubStats| stats.connections[0].tokens_put;
    let before = put(&hub.stats());
    hub.wait_until(|stats| put(stats) >= before + times).await;
}

async fn send(upstream: &AmqpUpstream, device: &DeviceId, id: &str) {
    upstream.send(&uplink(device, id)).await.expect("accepted");
}

/// Gives what it was given last, and counts who asks.
#[derive(Debug)]
struct Vault {
    credential: watch::Sender<Result<Credential, ErrorKind>>,
    asked: watch::Sender<usize>,
}

impl Vault {
    fn new(credential: Credential) -> Arc<Self> {
        Arc::new(Self {
            credential: watch::Sender::new(Ok(credential)),
            asked: watch::Sender::new(0),
        })
    }

    fn set(&self, credential: Result<Credential, ErrorKind>) {
        drop(self.credential.send_replace(credential));
    }

    async fn asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        let asked = asked.wait_for(|asked| *asked >= times);
        asked.await.expect("the vault is there");
    }

    /// The identity of a device whose provider this is.
    fn identity(self: &Arc<Self>, device: &str) -> DeviceIdentity {
        let credential = self.credential.borrow().clone();
        let credential = credential.expect("there is a credential");
        DeviceIdentity::new(device_id(device), credential)
            .with_source(CredentialSource::new(self.clone()))
    }
}

#[async_trait]
impl CredentialProvider for Vault {
    async fn credential(&self, _: &DeviceId) -> Result<Credential, CredentialError> {
        self.asked.send_modify(|asked| *asked += 1);
        let credential = self.credential.borrow().clone();
        credential.map_err(|kind| CredentialError::new(kind, "look-up"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_tokens_are_renewed_in_place_over_more_than_one_life() {
    let hub = hub().await;
    let mut config = brief(&hub);
    config.tokens.ttl = Duration::from_secs(5);
    config.tokens.renew_at = 0.5;
    let upstream = upstream(config);
    let identity = with_key(&hub, "device").with_interest(Interest::COMMANDS);
    let device = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    let expires = SystemTime::now() + Duration::from_secs(5);
    while SystemTime::now() < expires {
        renewed(&hub, "device", 1).await;
        send(&upstream, &device, "renewed").await;
    }
    assert_eq!(hub.attaches("device"), 1, "no link was touched");
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_signs_when_its_device_has_the_turn_however_long_it_waited_for_it() {
    let hub = hub().await;
    let mut config = brief(&hub);
    config.tokens.ttl = Duration::from_secs(3);
    // The second waits longer than a token lives.
    config.budget.tokens = limited(0.2, 1.0);
    let upstream = upstream(config);
    attach(&upstream, &with_token(&hub, "first", HOUR)).await;
    attach(&upstream, &with_key(&hub, "second")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_known_by_an_id_that_addresses_and_tokens_have_to_encode() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    for identity in [
        with_key(&hub, "a+b#c%41$"),
        with_token(&hub, "d+e#f%41$", HOUR),
        with_policy(&hub, "g+h#i%41$"),
    ] {
        let device = identity.device.clone();
        attach(&upstream, &identity.with_interest(Interest::COMMANDS)).await;
        send(&upstream, &device, "m").await;
        assert_eq!(common::accepted_ids(&hub, &device), ["m"]);
        hub.wait_messages(device.as_str()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policys_token_is_renewed_once_for_all_its_devices() {
    let hub = hub().await;
    let upstream = upstream(brief(&hub));
    let names = ["a", "b", "c"];
    let mut callbacks = Vec::new();
    for name in names {
        callbacks.push(attach(&upstream, &with_policy(&hub, name)).await);
    }
    assert_eq!(hub.connections()[0].tokens_put, 1);
    renewed_policy(&hub, 3).await;
    assert_eq!(hub.connections()[0].tokens, 1);
    for name in names {
        send(&upstream, &device_id(name), "m").await;
        assert_eq!(hub.attaches(name), 1);
    }
    assert!(callbacks.iter().all(|c| c.record().ends.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_a_device_presented_ends_its_session_with_its_time_and_says_so() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_token(&hub, "brief", Duration::from_secs(3));
    let other = with_token(&hub, "other", HOUR);
    let (device, neighbour) = (identity.device.clone(), other.device.clone());
    let callback = attach(&upstream, &identity).await;
    let neighbours = attach(&upstream, &other).await;
    let record = callback.wait_for(|record| !record.ends.is_empty()).await;
    let end = &record.ends[0];
    assert_eq!(end.reason, ErrorKind::Unauthorized);
    let detail = end.detail.expect("it says why");
    assert!(
        detail.contains("expired") && detail.contains("new one"),
        "{detail}"
    );
    let late = upstream.send(&uplink(&device, "late")).await;
    assert_eq!(late.expect_err("ended").kind(), ErrorKind::UnknownDevice);
    send(&upstream, &neighbour, "m").await;
    assert!(neighbours.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_of_the_device_is_put_without_a_detach_and_moves_the_end() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let first =
        with_token(&hub, "device", Duration::from_secs(4)).with_interest(Interest::COMMANDS);
    let Credential::SasToken(token) = &first.credential else {
        unreachable!("it has a token");
    };
    let (device, expires) = (first.device.clone(), token.expires());
    let before = attach(&upstream, &first).await;
    hub.wait_methods("device").await;
    let second = with_token(&hub, "device", HOUR).with_interest(Interest::COMMANDS);
    let after = attach(&upstream, &second).await;
    while SystemTime::now() < expires + Duration::from_secs(1) {
        send(&upstream, &device, "m").await;
    }
    assert_eq!(hub.attaches("device"), 1, "no link was touched");
    assert_eq!(hub.tokens_put("device"), 2);
    assert!(before.record().ends.is_empty() && after.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_expired_token_leaves_the_one_before() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let good = with_token(&hub, "device", HOUR);
    let device = good.device.clone();
    let callback = attach(&upstream, &good).await;
    let wrong = token(&device, &key("d3Jvbmc="), HOUR);
    let wrong = DeviceIdentity::new(device.clone(), Credential::SasToken(wrong));
    for bad in [wrong, with_token(&hub, "device", Duration::ZERO)] {
        let refused = upstream.attach(bad, callback.shared()).await;
        assert_eq!(
            refused.expect_err("refused").kind(),
            ErrorKind::Unauthorized
        );
    }
    send(&upstream, &device, "m").await;
    assert_eq!(hub.attaches("device"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_after_the_other_is_made_anew_at_the_hub_and_no_link_is_touched() {
    let hub = hub().await;
    let upstream = upstream(brief(&hub));
    let keys = hub.add_device("device");
    let device = device_id("device");
    let identity = |keys| {
        let credential = Credential::DeviceKey(pair(keys));
        DeviceIdentity::new(device.clone(), credential).with_interest(Interest::COMMANDS)
    };
    let callback = attach(&upstream, &identity(&keys)).await;
    // The primary is the hub's alone until the gateway is told; the secondary signs.
    let keys = hub.regenerate_key("device", WhichKey::Primary);
    let keys = keys.expect("it has keys");
    renewed(&hub, "device", 2).await;
    let told = upstream.attach(identity(&keys), callback.shared()).await;
    told.expect("put in place");
    // The other way round: the key that signed so far is gone.
    hub.regenerate_key("device", WhichKey::Secondary);
    renewed(&hub, "device", 2).await;
    send(&upstream, &device, "m").await;
    assert_eq!(hub.attaches("device"), 1, "no link was touched");
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_let_in_with_its_secondary_key_alone() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let keys = hub.add_device("device");
    hub.regenerate_key("device", WhichKey::Primary);
    let identity = DeviceIdentity::new(device_id("device"), Credential::DeviceKey(pair(&keys)));
    attach(&upstream, &identity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_all_new_are_asked_of_the_provider_while_the_old_token_lives() {
    let hub = hub().await;
    let upstream = upstream(brief(&hub));
    let vault = Vault::new(Credential::DeviceKey(pair(&hub.add_device("device"))));
    let callback = attach(&upstream, &vault.identity("device")).await;
    let keys = hub.rotate_keys("device").expect("it is registered");
    // First it has the old ones, then it cannot be asked, then it knows.
    vault.asked(1).await;
    vault.set(Err(ErrorKind::TimedOut));
    vault.asked(2).await;
    vault.set(Ok(Credential::DeviceKey(pair(&keys))));
    renewed(&hub, "device", 2).await;
    send(&upstream, &device_id("device"), "m").await;
    assert_eq!(hub.attaches("device"), 1, "no link was touched");
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_keys_are_new_comes_back_after_a_cut_with_those_of_the_provider() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let vault = Vault::new(Credential::DeviceKey(pair(&hub.add_device("device"))));
    let callback = attach(&upstream, &vault.identity("device")).await;
    let keys = hub.rotate_keys("device").expect("it is registered");
    vault.set(Ok(Credential::DeviceKey(pair(&keys))));
    hub.faults().cut_all();
    hub.wait_until(|_| hub.attaches("device") == 2).await;
    send(&upstream, &device_id("device"), "m").await;
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_a_provider_signs_are_renewed_from_it() {
    let hub = hub().await;
    let upstream = upstream(brief(&hub));
    let (device, keys) = (device_id("device"), hub.add_device("device"));
    let life = Duration::from_secs(10);
    let sign = |life| Credential::SasToken(token(&device, &key(&keys.primary), life));
    let vault = Vault::new(sign(life));
    let callback = attach(&upstream, &vault.identity("device")).await;
    vault.asked(1).await;
    vault.set(Ok(sign(2 * life)));
    renewed(&hub, "device", 1).await;
    vault.set(Ok(sign(3 * life)));
    renewed(&hub, "device", 1).await;
    assert_eq!(hub.attaches("device"), 1, "no link was touched");
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policys_keys_are_rolled_and_no_link_is_touched() {
    let hub = hub().await;
    let upstream = upstream(brief(&hub));
    let policy = || {
        let keys = hub.policy_keys("device").expect("it is built in");
        Credential::Policy(SharedAccessPolicy::new("device", pair(&keys)))
    };
    let vault = Vault::new(policy());
    let names = ["a", "b"];
    let mut callbacks = Vec::new();
    for name in names {
        hub.add_device(name);
        callbacks.push(attach(&upstream, &vault.identity(name)).await);
    }
    hub.regenerate_policy_key("device", WhichKey::Primary);
    renewed_policy(&hub, 2).await;
    // Now there is none left that the gateway knows.
    hub.regenerate_policy_key("device", WhichKey::Secondary);
    vault.asked(1).await;
    vault.set(Ok(policy()));
    renewed_policy(&hub, 2).await;
    // A device brings others before the hub refuses these.
    hub.regenerate_policy_key("device", WhichKey::Secondary);
    let put = hub.connections()[0].tokens_put;
    vault.set(Ok(policy()));
    let told = upstream.attach(vault.identity("b"), callbacks[1].shared());
    told.await.expect("put in place");
    assert!(hub.connections()[0].tokens_put > put);
    for name in names {
        send(&upstream, &device_id(name), "m").await;
        assert_eq!(hub.attaches(name), 1, "no link was touched");
    }
    assert_eq!(hub.connections_opened_total(), 1);
    assert!(callbacks.iter().all(|c| c.record().ends.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_refused_costs_only_that_device_and_not_before_its_token_lapses() {
    let hub = hub().await;
    let upstream = upstream(brief(&hub));
    let [bad, good] = ["bad", "good"].map(|n| with_key(&hub, n).with_interest(Interest::COMMANDS));
    let (device, neighbour) = (bad.device.clone(), good.device.clone());
    let callback = attach(&upstream, &bad).await;
    let neighbours = attach(&upstream, &good).await;
    hub.wait_methods("bad").await;
    hub.faults().refuse_token("bad", 401, "no");
    renewed(&hub, "good", 2).await;
    assert!(callback.record().ends.is_empty(), "its token is still good");
    send(&upstream, &device, "still good").await;
    let record = callback.wait_for(|record| !record.ends.is_empty()).await;
    assert_eq!(record.ends[0].reason, ErrorKind::Unauthorized);
    send(&upstream, &neighbour, "m").await;
    assert_eq!(hub.attaches("good"), 1);
    assert!(neighbours.record().ends.is_empty());
    assert_eq!(hub.connections_opened_total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_hub_does_not_answer_is_tried_again_within_the_life_of_the_last() {
    let hub = hub().await;
    let upstream = upstream(brief(&hub));
    for name in ["mute", "neighbour"] {
        attach(&upstream, &with_key(&hub, name)).await;
    }
    hub.faults().withhold_token("mute");
    // By the second time the first try of the other has been due as well.
    renewed(&hub, "neighbour", 2).await;
    assert_eq!(hub.tokens_put("mute"), 1);
    hub.faults().allow_token("mute");
    renewed(&hub, "mute", 1).await;
    send(&upstream, &device_id("mute"), "m").await;
    assert_eq!(hub.attaches("mute"), 1, "no link was touched");
    assert_eq!(hub.connections_opened_total(), 1);
}

/// As when the hub's clock is far ahead of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lapses_too_early_costs_a_device_with_a_key_its_links_and_not_its_session() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device").with_interest(Interest::COMMANDS);
    let callback = attach(&upstream, &identity).await;
    for round in 2..5 {
        hub.wait_methods("device").await;
        hub.faults().expire_tokens(Some("device"));
        hub.wait_until(|_| hub.attaches("device") == round).await;
    }
    send(&upstream, &device_id("device"), "m").await;
    assert!(callback.record().ends.is_empty());
    assert_eq!(hub.connections_opened_total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policys_token_that_lapses_too_early_is_put_again_and_its_devices_come_back() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let names = ["a", "b", "c"];
    let mut callbacks = Vec::new();
    for name in names {
        let identity = with_policy(&hub, name).with_interest(Interest::COMMANDS);
        callbacks.push(attach(&upstream, &identity).await);
        hub.wait_methods(name).await;
    }
    let put = hub.connections()[0].tokens_put;
    hub.faults().expire_tokens(None);
    for name in names {
        hub.wait_until(|_| hub.attaches(name) >= 2).await;
        send(&upstream, &device_id(name), "m").await;
    }
    assert_eq!(hub.connections()[0].tokens_put, put + 1, "once for all");
    assert_eq!(hub.connections_opened_total(), 1);
    assert!(callbacks.iter().all(|c| c.record().ends.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_device_ends_and_is_not_tried_for_ever() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let vault = Vault::new(Credential::DeviceKey(pair(&hub.add_device("device"))));
    let identity = vault.identity("device").with_interest(Interest::COMMANDS);
    let callback = attach(&upstream, &identity).await;
    hub.wait_methods("device").await;
    hub.set_enabled("device", false);
    callback.wait_for(|record| !record.ends.is_empty()).await;
    assert_eq!(upstream.stats().devices, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_word_is_no_proof_to_a_hub() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    hub.add_device("device");
    let identity = DeviceIdentity::new(device_id("device"), Credential::Vouched);
    let attached = upstream.attach(identity, RecordingCallback::new().shared());
    let refused = attached.await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_node_that_answers_nobody_costs_its_connection() {
    let hub = hub().await;
    let wire = wire(|wire| wire.answer_timeout = Duration::from_secs(2));
    let upstream = upstream(config(&hub).with_wire(wire));
    attach(&upstream, &with_key(&hub, "first")).await;
    let second = with_key(&hub, "second");
    for device in ["first", "second"] {
        hub.faults().withhold_token(device);
    }
    let attached = upstream.attach(second, RecordingCallback::new().shared());
    assert!(attached.await.expect_err("no answer").is_retryable());
    hub.wait_until(|_| hub.connections_opened_total() >= 2)
        .await;
    hub.faults().allow_token("first");
    send_until_ok(&upstream, &uplink(&device_id("first"), "m")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_whose_tokens_alone_stay_unanswered_cost_nobody_the_connection() {
    let hub = hub().await;
    let wire = wire(|wire| wire.answer_timeout = Duration::from_secs(1));
    let upstream = upstream(config(&hub).with_wire(wire));
    attach(&upstream, &with_key(&hub, "first")).await;
    let strange = (0..6).map(|number| with_key(&hub, &format!("unanswered-{number}")));
    let strange: Vec<_> = strange.collect();
    for identity in &strange {
        hub.faults().withhold_token(identity.device.as_str());
    }
    for _ in 0..6 {
        let callback = || RecordingCallback::new().shared();
        let attached = strange
            .iter()
            .map(|id| upstream.attach(id.clone(), callback()));
        for attached in join_all(attached).await {
            assert!(attached.expect_err("no answer").is_retryable());
        }
    }
    assert_eq!(hub.connections_opened_total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_whose_token_was_the_last_to_be_answered() {
    let hub = hub().await;
    let wire = wire(|wire| wire.answer_timeout = Duration::from_secs(1));
    let upstream = upstream(config(&hub).with_wire(wire));
    for name in ["first", "strange"] {
        attach(&upstream, &with_key(&hub, name)).await;
    }
    hub.faults().withhold_token("strange");
    for _ in 0..5 {
        let identity = with_token(&hub, "strange", HOUR);
        let callback = RecordingCallback::new().shared();
        let attached = upstream.attach(identity, callback).await;
        assert!(attached.expect_err("no answer").is_retryable());
    }
    assert_eq!(hub.connections_opened_total(), 1);
}
