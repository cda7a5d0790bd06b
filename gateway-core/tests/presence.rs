//! Devices that listen, and devices with tokens of their own.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use gateway_core::credential::{Credential, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{
    Announcement, CloudCallback, CloudMessage, Delivered, DesiredPatch, DeviceId, DeviceIdentity,
    Disposition, Downlink, Downstream, DownstreamError, ErrorKind, Interest, ServeContext,
    Settlement, TwinReply, TwinRequest, Uplink, Upstream, UpstreamError, UpstreamExplanation,
};
use support::{Harness, device, key, soon, token, uplink};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn wrong_key() -> SymmetricKey {
    SymmetricKey::from_base64("d3Jvbmc=").unwrap()
}

fn with_token(name: &DeviceId, key: &SymmetricKey, life: Duration) -> Announcement {
    Announcement::new(name.clone()).with_token(Some(token(name, key, life)))
}

/// A gateway whose hub knows the device `a` by its key.
fn start() -> (Harness, DeviceId) {
    let (run, a) = (Harness::start(|_| {}), device("a"));
    run.hub.register(a.clone(), key());
    (run, a)
}

#[tokio::test(start_paused = true)]
async fn a_device_hears_while_its_presence_lives() {
    let (run, a) = start();
    let presence = run.online(Announcement::new(a.clone())).await.unwrap();
    assert_eq!(presence.device(), &a);
    soon(run.hub.wait_listening(&a, Interest::COMMANDS)).await;
    drop(presence);
    soon(run.hub.wait_deaf(&a)).await;
    assert!(run.hub.is_attached(&a), "it stays attached for its uplinks");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_older_connection_does_not_silence_a_newer_one() {
    let (run, a) = start();
    let older = run.online(Announcement::new(a.clone())).await.unwrap();
    let all = Announcement::new(a.clone()).with_interest(Interest::ALL);
    let newer = run.online(all).await.unwrap();
    drop(older);
    sleep(HOUR * 5).await;
    assert_eq!(run.hub.identity(&a).unwrap().interest, Interest::ALL);
    drop(newer);
    soon(run.hub.wait_deaf(&a)).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_connection_of_an_earlier_session_does_not_silence_a_newer_one() {
    let (run, a) = start();
    let older = run.online(Announcement::new(a.clone())).await.unwrap();
    drop(run.online(Announcement::new(a.clone())).await.unwrap());
    soon(run.hub.wait_attached(&a, false)).await;
    sleep(SECOND).await;
    assert!(run.gateway.explain(&a).is_none());
    let newer = run.online(Announcement::new(a.clone())).await.unwrap();
    drop(older);
    sleep(SECOND).await;
    assert_eq!(run.hub.identity(&a).unwrap().interest, Interest::COMMANDS);
    drop(newer);
    soon(run.hub.wait_deaf(&a)).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_refused_another_interest_hears_nothing_when_it_is_gone() {
    let (run, a) = start();
    let presence = run.online(Announcement::new(a.clone())).await.unwrap();
    run.hub.refuse(&a, ErrorKind::Unauthorized);
    let all = Announcement::new(a.clone()).with_interest(Interest::ALL);
    assert_eq!(run.online(all).await.unwrap_err(), ErrorKind::Unauthorized);
    assert_eq!(run.hub.identity(&a).unwrap().interest, Interest::COMMANDS);
    drop(presence);
    // Long before its idle time is over.
    let deaf = timeout(SECOND * 60, run.hub.wait_deaf(&a)).await;
    deaf.expect("its messages wait in the hub");
}

#[tokio::test(start_paused = true)]
async fn forged_tokens_do_not_starve_the_device_that_they_name() {
    const FORGED: u32 = 100;
    let (run, a) = start();
    let good = with_token(&a, &key(), HOUR);
    let _presence = run.online(good.clone()).await.unwrap();
    run.hub.set_latency(SECOND);
    let mut forgers = JoinSet::new();
    for n in 0..FORGED {
        let forged = with_token(&a, &wrong_key(), HOUR + SECOND * n);
        let ingress = run.devices.ingress().await;
        forgers.spawn(async move { ingress.online(forged).await.map(drop) });
    }
    sleep(SECOND / 2).await;
    let since = Instant::now();
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    assert!(since.elapsed() < 5 * SECOND, "{:?}", since.elapsed());
    let refused = forgers.join_all().await.into_iter();
    let kinds: Vec<_> = refused.map(|result| result.unwrap_err().kind()).collect();
    let judged = |kind: &&ErrorKind| **kind == ErrorKind::Unauthorized;
    assert_eq!(kinds.iter().filter(judged).count(), 2);
    assert!(
        kinds
            .iter()
            .all(|kind| judged(&kind) || *kind == ErrorKind::Throttled)
    );
    // A token that the hub has taken need not be judged again.
    let _presence = run.online(good).await.unwrap();
}

/// As from a device that gives up its hellos and comes again while the hub is out of reach.
#[tokio::test(start_paused = true)]
async fn few_of_a_device_wait_with_the_same_token_while_the_hub_says_nothing() {
    let (run, a) = start();
    let good = with_token(&a, &key(), HOUR);
    drop(run.online(good.clone()).await.unwrap());
    run.hub.end_session(&a, ErrorKind::Disconnected).await;
    run.hub.set_latency(SECOND);
    let mut hellos = JoinSet::new();
    for _ in 0..10 {
        let (ingress, good) = (run.devices.ingress().await, good.clone());
        hellos.spawn(async move { ingress.online(good).await.map(drop) });
    }
    // A stranger's has its place beside them.
    let forged = with_token(&a, &wrong_key(), HOUR);
    assert_eq!(
        run.online(forged).await.unwrap_err(),
        ErrorKind::Unauthorized
    );
    let told = hellos.join_all().await.into_iter();
    let kinds: Vec<_> = told
        .filter_map(|told| told.err())
        .map(|error| error.kind())
        .collect();
    assert_eq!(kinds, [ErrorKind::Throttled; 8]);
}

#[tokio::test(start_paused = true)]
async fn forged_tokens_do_not_lengthen_the_wait_of_the_device_that_they_name() {
    let (run, a) = start();
    let _presence = run.online(with_token(&a, &key(), HOUR)).await.unwrap();
    for n in 1..=10 {
        let forged = with_token(&a, &wrong_key(), HOUR + SECOND * n);
        assert!(run.online(forged).await.is_err());
    }
    run.hub.end_session(&a, ErrorKind::Unauthorized).await;
    let refused = Settlement::Rejected(ErrorKind::Unauthorized);
    assert_eq!(run.send("a", "1").await, refused);
    sleep(SECOND).await;
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_forged_token_does_not_end_the_wait_of_the_device_that_it_names() {
    let (run, a) = start();
    let _presence = run.online(with_token(&a, &key(), HOUR)).await.unwrap();
    run.hub.end_session(&a, ErrorKind::Unauthorized).await;
    let forged = with_token(&a, &wrong_key(), HOUR);
    assert!(run.online(forged).await.is_err());
    let requests = run.hub.attach_requests(&a);
    let refused = Settlement::Rejected(ErrorKind::Unauthorized);
    assert_eq!(run.send("a", "1").await, refused);
    assert_eq!(run.hub.attach_requests(&a), requests);
}

#[tokio::test(start_paused = true)]
async fn a_bad_token_lets_no_change_through_that_the_device_has() {
    let (run, a) = start();
    let all = Announcement::new(a.clone()).with_interest(Interest::ALL);
    let device = run.devices.connect_as(all).await.unwrap();
    let change = || DesiredPatch::new(a.clone(), 7, "{}");
    let take = async { soon(device.next()).await.unwrap().acknowledge() };
    tokio::join!(run.hub.send_desired(change()), take);
    let refused = run.online(with_token(&a, &wrong_key(), HOUR)).await;
    assert_eq!(refused.unwrap_err(), ErrorKind::Unauthorized);
    soon(run.hub.send_desired(change())).await;
    let stats = run.gateway.stats();
    assert_eq!((stats.desired_delivered, stats.desired_stale), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bad_token_does_not_disturb_the_device_that_is_there() {
    let (run, a) = start();
    let good = with_token(&a, &key(), HOUR);
    let _presence = run.online(good.clone()).await.unwrap();
    let all = with_token(&a, &wrong_key(), HOUR).with_interest(Interest::ALL);
    let refused = run.online(all).await;
    assert_eq!(refused.unwrap_err(), ErrorKind::Unauthorized);
    let identity = run.hub.identity(&a).unwrap();
    assert_eq!(
        identity.credential,
        Credential::SasToken(good.token.unwrap())
    );
    assert_eq!(identity.interest, Interest::COMMANDS);
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    assert_eq!(run.hub.attaches(&a), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_token_given_up_on_its_way_does_not_disturb_the_device_that_is_there() {
    let (run, a) = start();
    let _presence = run.online(Announcement::new(a.clone())).await.unwrap();
    run.hub.set_latency(SECOND);
    let bad = with_token(&a, &wrong_key(), HOUR).with_interest(Interest::ALL);
    assert!(timeout(SECOND / 2, run.online(bad)).await.is_err());
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    assert_eq!(run.hub.identity(&a).unwrap().interest, Interest::COMMANDS);
}

#[tokio::test(start_paused = true)]
async fn a_bad_token_does_not_keep_out_the_device_it_names() {
    let (run, a) = start();
    let bad = with_token(&a, &wrong_key(), HOUR);
    for _ in 0..3 {
        let refused = run.online(bad.clone()).await;
        assert_eq!(refused.unwrap_err(), ErrorKind::Unauthorized);
    }
    assert_eq!(
        run.hub.attach_requests(&a),
        1,
        "the same token is judged once"
    );
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    let _presence = run.online(with_token(&a, &key(), HOUR)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_for_another_device_is_refused_without_asking_the_hub() {
    let (run, a) = start();
    let other = token(&device("b"), &key(), HOUR);
    let forged = Announcement::new(a.clone()).with_token(Some(other));
    let refused = run.online(forged).await;
    assert_eq!(refused.unwrap_err(), ErrorKind::Unauthorized);
    assert_eq!(run.hub.attach_requests(&a), 0);
}

#[tokio::test(start_paused = true)]
async fn a_device_without_a_token_gets_the_providers_credential_and_the_hub_a_way_to_ask_again() {
    let (run, a) = start();
    let presence = run.online(with_token(&a, &key(), HOUR)).await.unwrap();
    let source = run.hub.identity(&a).unwrap().source;
    assert_eq!(source, None, "its own token is for nobody to replace");
    drop(presence);
    let _presence = run.online(Announcement::new(a.clone())).await.unwrap();
    let identity = run.hub.identity(&a).unwrap();
    let credential = identity.credential;
    assert!(
        matches!(credential, Credential::Policy(_)),
        "{credential:?}"
    );
    let newer = identity
        .source
        .unwrap()
        .credential(&a, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(newer, credential);
}

#[tokio::test(start_paused = true)]
async fn a_refused_device_is_let_in_at_once_with_a_new_token() {
    let (run, a) = start();
    let refused = run.online(with_token(&a, &wrong_key(), HOUR)).await;
    assert_eq!(refused.unwrap_err(), ErrorKind::Unauthorized);
    let _presence = run.online(with_token(&a, &key(), HOUR)).await.unwrap();
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_an_expired_token_refuses_until_a_new_one_comes() {
    let (run, a) = start();
    // The token's clock is the wall's, which cannot be paused; a slow machine gets a longer token.
    let mut life = 2 * SECOND;
    let (presence, expires) = loop {
        let brief = with_token(&a, &key(), life);
        let expires = brief.token.as_ref().unwrap().expires();
        if let Ok(presence) = run.online(brief).await
            && run.send("a", "in time").await == Settlement::Accepted
        {
            break (presence, expires);
        }
        life *= 2;
    };
    while SystemTime::now() < expires {
        sleep(SECOND).await;
    }
    let refused = Settlement::Rejected(ErrorKind::Unauthorized);
    assert_eq!(run.send("a", "late").await, refused);
    sleep(HOUR).await;
    assert_eq!(run.send("a", "later").await, refused);
    drop(presence);
    let _presence = run.online(with_token(&a, &key(), HOUR)).await.unwrap();
    assert_eq!(run.send("a", "again").await, Settlement::Accepted);
}

/// A hub that had a message waiting, and sends it before it has answered the attach.
#[derive(Debug)]
struct Eager {
    hub: MemoryUpstream,
    settled: Arc<Mutex<Vec<Disposition>>>,
}

#[async_trait]
impl Upstream for Eager {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let message = CloudMessage::new(identity.device.clone(), "1", Instant::now() + HOUR);
        self.hub.attach(identity, callback.clone()).await?;
        let settled = callback.on_message(message).await;
        self.settled.lock().unwrap().push(settled);
        Ok(())
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        self.hub.send(uplink).await
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        self.hub.send_batch(uplinks).await
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        self.hub.twin(device, request).await
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        self.hub.detach(device).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.hub.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.hub.close(grace).await
    }
}

/// Takes whatever comes.
#[derive(Debug)]
struct Taker;

#[async_trait]
impl Downstream for Taker {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        context.shutdown.cancelled().await;
        Ok(())
    }

    async fn send(&self, _: Downlink) -> Result<Delivered, DownstreamError> {
        Ok(Delivered::Acknowledged)
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_hub_sends_with_the_attach_reaches_the_device() {
    let settled = Arc::new(Mutex::new(Vec::new()));
    let hub = |hub| Eager {
        hub,
        settled: settled.clone(),
    };
    let run = Harness::build(|_| {}, hub, |b| b.with_downstream("taker", Taker));
    let ingress = run.gateway.ingress("taker").unwrap();
    let announcement = Announcement::new(device("a"));
    let _presence = ingress.online(announcement).await.unwrap();
    assert_eq!(*settled.lock().unwrap(), [Disposition::Complete]);
}

#[tokio::test(start_paused = true)]
async fn a_device_made_anew_at_the_hub_hears_of_its_first_version() {
    let run = Harness::build(|_| {}, |hub| hub, |b| b.with_downstream("taker", Taker));
    let (ingress, a) = (run.gateway.ingress("taker").unwrap(), device("a"));
    let announcement = Announcement::new(a.clone()).with_interest(Interest::ALL);
    let _presence = ingress.online(announcement).await.unwrap();
    let change = |version| DesiredPatch::new(a.clone(), version, "{}");
    run.hub.send_desired(change(7)).await;
    run.hub.end_session(&a, ErrorKind::UnknownDevice).await;
    // The refusal is forgotten after a while.
    sleep(SECOND * 120).await;
    let sent = ingress.reserve().await.deliver(uplink(&a, "1")).await;
    assert_eq!(sent, Settlement::Accepted);
    run.hub.send_desired(change(1)).await;
    let stats = run.gateway.stats();
    assert_eq!((stats.desired_delivered, stats.desired_stale), (2, 0));
}
