//! The servers that are measured, each in a thread of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use benches::process::ThreadClock;
use coap_lite::{MessageClass, MessageType, Packet, ResponseType};
use gateway_core::credential::VouchedCredentials;
use gateway_core::{
    CloudCallback, DeviceId, DeviceIdentity, ErrorKind, Gateway, TwinReply, TwinRequest, Uplink,
    Upstream, UpstreamError, UpstreamExplanation,
};
use gateway_downstream_coap::dtls::{PskEntry, PskFn, PskKey};
use gateway_downstream_coap::{CoapConfig, CoapDownstream, SecureConfig};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::client::KEY;

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Decodes and encodes by `coap-lite`, remembers nothing, answers 2.04.
    Bare,
    /// The downstream and the core, before a hub that takes everything at once.
    Gateway,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) open: Open,
    stop: CancellationToken,
    thread: JoinHandle<Result<()>>,
}

/// Where a server is, and its thread's time.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) plain: SocketAddr,
    pub(crate) secure: Option<SocketAddr>,
    clock: ThreadClock,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Result<Self> {
        let stop = CancellationToken::new();
        let (opened, open) = oneshot::channel();
        let until = stop.clone();
        let thread = named("server", move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                match kind {
                    Kind::Bare => bare(opened, until).await,
                    Kind::Gateway => gateway(opened, until).await,
                }
            })
        })?;
        match open.blocking_recv() {
            Ok(open) => Ok(Self { open, stop, thread }),
            Err(_) => Err(join(thread).err().context("it ended without a word")?),
        }
    }

    /// The processor time that its thread has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.open.clock.read()
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.stop.cancel();
        join(self.thread)
    }
}

/// Starts a thread that a profiler knows by its name.
pub(crate) fn named(
    name: &str,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(work).context("no thread")
}

pub(crate) fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

async fn bare(opened: oneshot::Sender<Open>, until: CancellationToken) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    tell(opened, socket.local_addr()?, None)?;
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = tokio::select! {
            received = socket.recv_from(&mut buffer) => received?,
            () = until.cancelled() => return Ok(()),
        };
        let request = Packet::from_bytes(&buffer[..length]).map_err(anyhow::Error::msg)?;
        let mut answer = Packet::new();
        answer.header.set_type(MessageType::Acknowledgement);
        answer.header.code = MessageClass::Response(ResponseType::Changed);
        answer.header.message_id = request.header.message_id;
        answer.set_token(request.get_token().to_vec());
        let bytes = answer.to_bytes().map_err(anyhow::Error::msg)?;
        socket.send_to(&bytes, from).await?;
    }
}

async fn gateway(opened: oneshot::Sender<Open>, until: CancellationToken) -> Result<()> {
    let mut config = CoapConfig::default();
    config.udp.get_or_insert_default().listen.set_port(0);
    config.identity.trust_any_id = true;
    let mut secure = SecureConfig::default();
    secure.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.dtls = Some(secure);
    let keys = PskFn::new(|identity: String| async move {
        let known = DeviceId::new(&identity).ok().zip(PskKey::new(KEY).ok());
        Ok(known.map(|(device, key)| PskEntry::new(device, key)))
    });
    let coap = CoapDownstream::builder(config).with_psk_store(keys);
    let coap = coap.bind().await?;
    let plain = coap.udp_addr().context("no address")?;
    let secure = coap.dtls_addr();
    let gateway = Gateway::builder(TakesAll)
        .with_credentials(VouchedCredentials)
        .with_downstream("coap", coap)
        .build()?;
    tell(opened, plain, secure)?;
    gateway.run(until).await?;
    Ok(())
}

fn tell(
    opened: oneshot::Sender<Open>,
    plain: SocketAddr,
    secure: Option<SocketAddr>,
) -> Result<()> {
    let open = Open {
        plain,
        secure,
        clock: ThreadClock::of_this_thread(),
    };
    opened.send(open).ok().context("nobody measures any more")
}

/// A hub that has everything at once and keeps nothing.
#[derive(Debug)]
struct TakesAll;

#[async_trait]
impl Upstream for TakesAll {
    async fn attach(
        &self,
        _: DeviceIdentity,
        _: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        Ok(())
    }

    async fn send(&self, _: &Uplink) -> Result<(), UpstreamError> {
        Ok(())
    }

    async fn send_batch(&self, _: &[Uplink]) -> Result<(), UpstreamError> {
        Ok(())
    }

    async fn twin(&self, _: &DeviceId, _: TwinRequest) -> Result<TwinReply, UpstreamError> {
        Err(UpstreamError::new(ErrorKind::Unsupported, "twin"))
    }

    async fn detach(&self, _: &DeviceId) -> Result<(), UpstreamError> {
        Ok(())
    }

    fn explain(&self, _: &DeviceId) -> Option<UpstreamExplanation> {
        None
    }

    async fn close(&self, _: Duration) -> Result<(), UpstreamError> {
        Ok(())
    }
}
