use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use gateway_core::Gateway;
use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{advance, sleep, timeout};
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

/// A gateway with one credit that takes any device's word, and what its connections share.
async fn gateway() -> (Gateway, Arc<Shared>) {
    let mut config = TcpConfig::default();
    config.listen.set_port(0);
    config.identity.trust_any_id = true;
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
    (gateway, shared)
}

fn connection<S>(gateway: &Gateway, shared: &Arc<Shared>, stream: S) -> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ingress = gateway.ingress("tcp").unwrap();
    let peer = Peer::new(([127, 0, 0, 1], 1).into());
    let stop = Stop::new(&CancellationToken::new());
    let deadline = Instant::now() + shared.config.timeouts.hello;
    Connection::new(shared.clone(), ingress, peer, stream, stop, deadline)
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_for_a_credit_sleeps() {
    let (gateway, shared) = gateway().await;
    let patience = shared.config.timeouts.hello;
    let only_credit = gateway.ingress("tcp").unwrap().reserve().await;

    let (mut device, stream) = duplex(4096);
    let connection = connection(&gateway, &shared, stream);
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

/// Takes all that is written and passes nothing on, as a TLS session does whose peer does not read.
struct Withholding(DuplexStream);

impl AsyncRead for Withholding {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Withholding {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_waits_for_no_credit() {
    let (gateway, shared) = gateway().await;
    let only_credit = gateway.ingress("tcp").unwrap().reserve().await;

    let (mut device, stream) = duplex(4096);
    let mut connection = connection(&gateway, &shared, Withholding(stream));
    let shutdown = CancellationToken::new();
    connection.stop = Stop::new(&shutdown);
    let mut tasks = JoinSet::new();
    tasks.spawn(connection.run());
    let said = concat!(
        r#"{"type":"hello","id":"dev1"}"#,
        "\n",
        r#"{"type":"telemetry","id":"m","body":1}"#,
        "\n",
    );
    device.write_all(said.as_bytes()).await.unwrap();
    settle().await;
    // It says goodbye for as long as its device does not read.
    shutdown.cancel();
    settle().await;
    assert_eq!(tasks.len(), 1);

    drop(only_credit);
    let ingress = gateway.ingress("tcp").unwrap();
    let next = timeout(shared.config.timeouts.write / 2, ingress.reserve()).await;
    assert!(next.is_ok(), "the credit is for whoever waits for it");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_the_stream_holds_back_have_a_deadline() {
    let (gateway, shared) = gateway().await;
    let (mut device, stream) = duplex(4096);
    let connection = connection(&gateway, &shared, Withholding(stream));
    let said = b"{\"type\":\"hello\",\"id\":\"dev1\"}\n";
    device.write_all(said).await.unwrap();
    // That it goes on speaking, and is answered, changes nothing.
    let speaking = async {
        while device.write_all(b"{\"type\":\"ping\"}\n").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let begun = Instant::now();
    let (end, ()) = tokio::join!(connection.run(), speaking);
    assert_eq!(end, End::Gone("write_timeout"));
    let patience = shared.config.timeouts.write;
    assert!(begun.elapsed() <= patience + Duration::from_secs(2));
}
