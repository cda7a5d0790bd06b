use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use gateway_core::Gateway;
use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::{JoinSet, yield_now};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{TcpConfig, TcpDownstream};

/// Turns of the runtime in which everything that can happen has happened.
const TURNS: usize = 100;

async fn settle() {
    for _ in 0..TURNS {
        yield_now().await;
    }
}

/// Counts how often a future is polled.
async fn counted<T>(future: impl Future<Output = T>, polls: Arc<AtomicUsize>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        polls.fetch_add(1, Relaxed);
        future.as_mut().poll(context)
    })
    .await
}

async fn hears(device: &mut DuplexStream, text: &str) {
    let mut heard = vec![0; text.len()];
    device.read_exact(&mut heard).await.unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), text);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_for_a_credit_sleeps() {
    let mut config = TcpConfig::default();
    config.listen.set_port(0);
    config.identity.trust_any_id = true;
    let patience = config.timeouts.hello;
    let tcp = TcpDownstream::bind(config).await.unwrap();
    let shared = tcp.shared.clone();
    let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
    let policy = SharedAccessPolicy::new("device", key);
    let mut limits = gateway_core::GatewayConfig::default();
    limits.max_in_flight = 1;
    let gateway = Gateway::builder(MemoryUpstream::new())
        .with_config(limits)
        .with_credentials(HubPolicyCredentials::new(policy))
        .with_downstream("tcp", tcp)
        .build()
        .unwrap();
    let ingress = gateway.ingress("tcp").unwrap();
    let only_credit = ingress.reserve().await;

    let (mut device, stream) = duplex(4096);
    let peer = Peer::new(([127, 0, 0, 1], 1).into());
    let stop = Stop::new(&CancellationToken::new());
    let deadline = Instant::now() + patience;
    let connection = Connection::new(shared, ingress, peer, stream, stop, deadline);
    let (mut tasks, polls) = (JoinSet::new(), Arc::default());
    tasks.spawn(counted(connection.run(), Arc::clone(&polls)));
    let said = concat!(
        r#"{"type":"hello","id":"dev1"}"#,
        "\n",
        r#"{"type":"telemetry","id":"m","body":1}"#,
        "\n",
    );
    device.write_all(said.as_bytes()).await.unwrap();
    hears(&mut device, "{\"type\":\"welcome\",\"id\":\"dev1\"}\n").await;
    settle().await;

    // The alarm of the hello rings, long after the hello.
    advance(patience * 2).await;
    settle().await;
    let before = polls.load(Relaxed);
    settle().await;
    let woken = polls.load(Relaxed) - before;
    assert!(woken < TURNS / 10, "woken {woken} times by nothing");

    drop(only_credit);
    hears(&mut device, "{\"type\":\"ack\",\"id\":\"m\"}\n").await;
}
