//! The servers that are measured, each on a runtime whose threads do nothing else.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use benches::embedded::{Embedded, Keys};
use benches::hub::HubAccess;
use benches::process::ThreadClock;
use benches::takes_all::TakesAll;
use gateway_core::credential::VouchedCredentials;
use gateway_downstream_tcp::{TcpConfig, TcpDownstream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::pki::Pki;

/// Every line is answered with this by the bare server: as long as the gateway's answers.
const ACK: &[u8] = b"{\"type\":\"ack\",\"id\":\"device-0000000-000\",\"seq\":000}\n";

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Tasks that read lines and answer each at once.
    Echo,
    /// The downstream and the core, before a hub that takes everything at once.
    TakesAll,
    /// The same before the simulated hub, over AMQP.
    Amqp,
}

/// What may be measured with it.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) pki: Pki,
    pub(crate) hub: HubAccess,
    pub(crate) workers: usize,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    clocks: Arc<Mutex<Vec<ThreadClock>>>,
    running: Running,
    runtime: Runtime,
}

#[derive(Debug)]
enum Running {
    Echo(#[expect(dead_code, reason = "held: it ends when dropped")] JoinSet<Result<()>>),
    Gateway(Embedded),
}

/// The processor time of a server's threads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) all: Duration,
    /// Of that, in the kernel.
    pub(crate) kernel: Duration,
}

impl Server {
    /// Starts one for so many messages on their way.
    pub(crate) fn start(
        kind: Kind,
        around: &Surroundings,
        is_secure: bool,
        devices: usize,
        in_flight: u64,
    ) -> Result<Self> {
        let clocks = Arc::new(Mutex::new(Vec::new()));
        let all = clocks.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(around.workers)
            .thread_name("server")
            .on_thread_start(move || {
                let mut clocks = all.lock().unwrap_or_else(PoisonError::into_inner);
                clocks.push(ThreadClock::of_this_thread());
            })
            .enable_all()
            .build()?;
        let (address, running) = runtime.block_on(async {
            let (Kind::TakesAll | Kind::Amqp) = kind else {
                let acceptor = is_secure.then(|| around.pki.acceptor()).transpose()?;
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                let address = listener.local_addr()?;
                let mut serving = JoinSet::new();
                serving.spawn(listen(listener, acceptor));
                return anyhow::Ok((address, Running::Echo(serving)));
            };
            let mut config = TcpConfig::default();
            config.listen.set_port(0);
            config.identity.trust_any_id = true;
            config.tls = is_secure.then(|| around.pki.files());
            config.limits.max_connections_per_address = devices;
            let tcp = TcpDownstream::bind(config).await?;
            let address = tcp.local_addr();
            let most = devices * in_flight as usize;
            let gateway = match kind {
                Kind::Amqp => {
                    let credentials = Keys::Policy.credentials(&around.hub)?;
                    Embedded::start(around.hub.amqp(), credentials, most, tcp)?
                }
                _ => Embedded::over(TakesAll, VouchedCredentials, most, tcp)?,
            };
            Ok((address, Running::Gateway(gateway)))
        })?;
        Ok(Self {
            address,
            clocks,
            running,
            runtime,
        })
    }

    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.iter().try_fold(Cpu::default(), |cpu, clock| {
            Ok(Cpu {
                all: cpu.all + clock.read()?,
                kernel: cpu.kernel + clock.kernel()?,
            })
        })
    }

    /// Ends, once the devices are gone.
    pub(crate) fn stop(self) -> Result<()> {
        match self.running {
            Running::Echo(_) => Ok(()),
            Running::Gateway(gateway) => self.runtime.block_on(gateway.stop()),
        }
    }
}

async fn listen(listener: TcpListener, acceptor: Option<TlsAcceptor>) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            match acceptor {
                None => echo(stream).await,
                Some(acceptor) => echo(acceptor.accept(stream).await?).await,
            }
        });
    }
}

/// The least that an acknowledgement takes: a read for what is there, a write for the answers.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut input = vec![0; 4096];
    let mut output = Vec::new();
    let mut is_welcome = false;
    loop {
        let read = stream.read(&mut input).await?;
        if read == 0 {
            return Ok(());
        }
        for _ in input[..read].iter().filter(|byte| **byte == b'\n') {
            match is_welcome {
                true => output.extend_from_slice(ACK),
                false => output.extend_from_slice(b"{\"type\":\"welcome\"}\n"),
            }
            is_welcome = true;
        }
        stream.write_all(&output).await?;
        stream.flush().await?;
        output.clear();
    }
}
