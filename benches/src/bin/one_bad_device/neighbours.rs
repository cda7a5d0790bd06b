//! The good devices: each sends now and then, and how long it takes is noted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use benches::device_name;
use benches::embedded::{send, send_one};
use benches::paced::{Load, Round};
use benches::process::metered;
use gateway_core::{DeviceId, Ingress};

/// The good devices, and what they do in a round.
#[derive(Debug)]
pub(crate) struct Neighbours {
    ingress: Ingress,
    ids: Arc<[DeviceId]>,
    load: Load,
}

impl Neighbours {
    /// Attaches them.
    pub(crate) async fn attach(ingress: Ingress, load: Load) -> Result<Self> {
        send(&ingress, 0..load.devices, 256, 1, "attach").await?;
        let ids: Result<_, _> = (0..load.devices)
            .map(|n| DeviceId::new(device_name(n)))
            .collect();
        Ok(Self {
            ingress,
            ids: ids?,
            load,
        })
    }

    /// What came of a round, and the CPU of this process, for good and bad devices together.
    pub(crate) async fn round(&self) -> Result<(Round, Duration)> {
        let (ingress, ids) = (self.ingress.clone(), self.ids.clone());
        let send = move |device, number| {
            let (ingress, ids) = (ingress.clone(), ids.clone());
            async move { send_one(&ingress, &ids[device], number).await }
        };
        let (round, usage) = metered(self.load.run(send)).await;
        Ok((round?, usage.cpu))
    }
}
