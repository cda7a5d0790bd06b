//! The devices and what they do.

use std::time::Duration;

use anyhow::Result;
use benches::fleet::Fleet;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::client::Client;
use crate::server::Server;

/// Devices that connect side by side.
const AT_THE_DOOR: usize = 32;

/// Brings up the devices, each of which sends one message. An order is how many messages each
/// sends, its outcome how long that took.
pub(crate) fn fleet(
    server: &Server,
    connector: Option<TlsConnector>,
    devices: usize,
    in_flight: u64,
) -> Result<Fleet<u64, Duration>> {
    let address = server.address;
    let bring_up = async move || {
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
        Ok(clients)
    };
    Fleet::start(bring_up, async move |clients, messages| {
        let started = Instant::now();
        let clients = drive(clients, messages, in_flight).await?;
        Ok((clients, started.elapsed()))
    })
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
