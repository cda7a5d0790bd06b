//! The servers that are measured, each in a thread of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use benches::process::{ThreadClock, join, named};
use benches::takes_all::TakesAll;
use coap_lite::{MessageClass, MessageType, Packet, ResponseType};
use gateway_core::credential::VouchedCredentials;
use gateway_core::{DeviceId, Gateway};
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
