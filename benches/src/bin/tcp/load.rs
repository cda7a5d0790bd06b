//! The devices, in a thread of their own.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use benches::process::{join, named};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::client::Client;
use crate::server::Server;

/// Devices that connect side by side.
const AT_THE_DOOR: usize = 32;

/// Messages of each device, and where to tell how long they took.
type Order = (u64, oneshot::Sender<Duration>);

#[derive(Debug)]
pub(crate) struct Fleet {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<Result<()>>,
}

impl Fleet {
    /// Brings up the devices, each of which sends one message.
    pub(crate) fn start(
        server: &Server,
        connector: Option<TlsConnector>,
        devices: usize,
        in_flight: u64,
    ) -> Result<Self> {
        let address = server.address;
        let (orders, mut ordered) = mpsc::channel::<Order>(1);
        let (ready, is_ready) = oneshot::channel();
        let thread = named("devices", move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut arriving = JoinSet::new();
                let mut clients = Vec::with_capacity(devices);
                for number in 0..devices {
                    if arriving.len() >= AT_THE_DOOR {
                        clients.extend(one(&mut arriving).await?);
                    }
                    arriving.spawn(Client::start(address, connector.clone(), number));
                }
                while let Some(client) = one(&mut arriving).await? {
                    clients.push(client);
                }
                ready.send(()).ok().context("nobody waits")?;
                while let Some((messages, result)) = ordered.recv().await {
                    let started = Instant::now();
                    clients = drive(clients, messages, in_flight).await?;
                    let wall = started.elapsed();
                    result.send(wall).ok().context("nobody waits")?;
                }
                Ok(())
            })
        })?;
        match is_ready.blocking_recv() {
            Ok(()) => Ok(Self { orders, thread }),
            Err(_) => Err(join(thread).err().context("it ended without a word")?),
        }
    }

    /// Has each device send so many messages.
    pub(crate) fn drive(&mut self, messages: u64) -> Result<Duration> {
        let (result, wall) = oneshot::channel();
        let ordered = self.orders.blocking_send((messages, result));
        ordered.ok().context("the devices are gone")?;
        wall.blocking_recv().context("the devices gave up")
    }

    pub(crate) fn stop(self) -> Result<()> {
        drop(self.orders);
        join(self.thread)
    }
}

async fn drive(clients: Vec<Client>, messages: u64, in_flight: u64) -> Result<Vec<Client>> {
    let mut sending = JoinSet::new();
    let mut done = Vec::with_capacity(clients.len());
    for mut client in clients {
        sending.spawn(async move {
            client.send(messages, in_flight).await?;
            anyhow::Ok(client)
        });
    }
    while let Some(client) = one(&mut sending).await? {
        done.push(client);
    }
    Ok(done)
}

async fn one<T: 'static>(tasks: &mut JoinSet<Result<T>>) -> Result<Option<T>> {
    Ok(match tasks.join_next().await {
        Some(ended) => Some(ended??),
        None => None,
    })
}
