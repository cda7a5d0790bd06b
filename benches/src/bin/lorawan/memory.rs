//! What a device costs while it says nothing.

use anyhow::Result;
use benches::embedded::{Embedded, Keys, OnlySpeaking, send};
use benches::hub::HubProcess;
use benches::process::rest;
use gateway_downstream_lorawan::embed::ListenPolicy;
use gateway_downstream_lorawan::server::LorawanServer;

use crate::air::Round;
use crate::embedded::{self, Form};
use crate::{ALLOCATOR, server};

/// Uplinks a second of devices that are to be known.
const PER_SECOND: u32 = 5000;

type Figures = Vec<(&'static str, f64)>;

/// Measures with so many devices: bytes allocated a device, once everything is at rest.
pub(crate) async fn measure(hub: &HubProcess, devices: usize) -> Result<Figures> {
    let each = |bytes: usize| bytes as f64 / devices as f64;
    let core = core(hub, devices).await?;
    let embedding = embedding(hub, devices).await?;
    let Server {
        configured,
        heard,
        stored,
    } = Server::measure(hub, devices).await?;
    let a_gib = |bytes: usize| f64::from(1 << 30) / each(bytes);
    Ok(vec![
        ("bytes_a_device_core_and_amqp", each(core)),
        ("bytes_a_device_embedding", each(embedding)),
        ("bytes_a_device_server_silent", each(configured)),
        ("bytes_a_device_server_heard", each(heard)),
        ("bytes_a_device_on_disk", each(stored)),
        ("devices_a_gib_embedding", a_gib(embedding)),
        ("devices_a_gib_server_silent", a_gib(configured)),
        ("devices_a_gib_server_heard", a_gib(heard)),
    ])
}

async fn at_rest() -> usize {
    rest().await;
    ALLOCATOR.allocated()
}

/// Attached devices that have nothing of LoRaWAN.
async fn core(hub: &HubProcess, devices: usize) -> Result<usize> {
    let before = at_rest().await;
    let credentials = Keys::Policy.credentials(&hub.access)?;
    let gateway = Embedded::start(hub.access.amqp(), credentials, devices, OnlySpeaking)?;
    send(&gateway.ingress, 0..devices, 32, 2, "known").await?;
    let kept = at_rest().await.saturating_sub(before);
    gateway.stop().await?;
    Ok(kept)
}

/// Devices that have spoken by the embedding API, their windows over.
async fn embedding(hub: &HubProcess, devices: usize) -> Result<usize> {
    let before = at_rest().await;
    let listen = ListenPolicy::Window;
    let mut site = embedded::Site::start(&hub.access, devices, Form::Json, listen).await?;
    site.hand_in_slowly(PER_SECOND, listen).await?;
    let kept = at_rest().await.saturating_sub(before);
    site.stop().await?;
    Ok(kept)
}

/// The network server's devices.
struct Server {
    /// Known by configuration, with a session.
    configured: usize,
    /// Heard, attached to the hub, their windows over.
    heard: usize,
    /// Bytes in the store's file.
    stored: usize,
}

impl Server {
    async fn measure(hub: &HubProcess, devices: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = folder.path().join("lorawan.redb");
        let before = at_rest().await;
        let silent = LorawanServer::builder(server::config(devices, &store));
        let silent = silent.bind().await?;
        let configured = at_rest().await.saturating_sub(before);
        drop(silent);

        let before = at_rest().await;
        let config = server::config(devices, &store);
        let site = server::Site::start(&hub.access, config, devices).await?;
        let once = Round {
            uplinks: 1,
            per_second: Some(PER_SECOND),
        };
        site.hear(once).await?;
        site.deaf().await?;
        let heard = at_rest().await.saturating_sub(before);
        site.stop().await?;
        Ok(Self {
            configured,
            heard,
            stored: server::size(&store)? as usize,
        })
    }
}
