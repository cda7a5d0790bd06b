//! How a device hears of its desired properties.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::MemoryUpstream;
use crate::error::ErrorKind;
use crate::id::DeviceId;
use crate::message::{DesiredPatch, Disposition};
use crate::twin::desired_of;
use crate::upstream::Interest;

const DESIRED: Interest = Interest::NONE.with_desired(true);
/// How long a device that missed a change is left alone.
const PAUSE: Duration = Duration::from_millis(50);

impl MemoryUpstream {
    /// Changes a device's desired properties by a JSON object (RFC 7396) and tells the device, if
    /// it listens. Gives their new version.
    ///
    /// A change that is abandoned, or made while the hub is [down](Self::set_down), is missed: the
    /// device is brought all desired properties instead, a while later.
    ///
    /// # Errors
    /// `Rejected` if the patch is not a JSON object.
    pub async fn patch_desired(&self, device: &DeviceId, patch: &str) -> Result<u64, ErrorKind> {
        let (version, hears) = self.change(|state| {
            let twin = state.twins.entry(device.clone()).or_default();
            let version = twin.patch_desired(patch.as_bytes())?;
            let hears = state.listens(device, DESIRED) && !state.missed.contains(device);
            Ok::<_, ErrorKind>((version, hears))
        })?;
        let patch = DesiredPatch::new(device.clone(), version, patch.to_owned());
        if hears && self.tell(patch).await.is_none_or(is_missed) {
            self.bring_all(device.clone());
        }
        Ok(version)
    }

    /// Tells a device, if it listens, of a change of its desired properties, whatever its version
    /// and without making it: hubs repeat themselves. Whatever becomes of it is the end of it.
    pub async fn send_desired(&self, patch: DesiredPatch) {
        self.tell(patch).await;
    }

    /// Gives the verdict; none if the device does not hear.
    async fn tell(&self, patch: DesiredPatch) -> Option<Disposition> {
        let listener = self.listener(&patch.device, DESIRED)?;
        Some(listener.on_desired(patch).await)
    }

    /// Brings a device all that is desired of it, until it has it or does not listen any more.
    fn bring_all(&self, device: DeviceId) {
        if !self.change(|state| state.missed.insert(device.clone())) {
            return;
        }
        let hub = Arc::downgrade(&self.0);
        self.spawn(async move {
            loop {
                sleep(PAUSE).await;
                let Some(hub) = hub.upgrade().map(MemoryUpstream) else {
                    return;
                };
                let (version, body) = hub.desired(&device);
                let patch = DesiredPatch::new(device.clone(), version, body).whole();
                let told = hub.tell(patch).await;
                let is_done = hub.change(|state| {
                    let is_newest =
                        state.twins.get(&device).map(|twin| twin.version()) == Some(version);
                    let has_it = told.is_some_and(|told| !is_missed(told)) && is_newest;
                    let is_done = has_it || !state.listens(&device, DESIRED);
                    is_done && state.missed.remove(&device)
                });
                if is_done {
                    return;
                }
            }
        });
    }

    fn desired(&self, device: &DeviceId) -> (u64, Bytes) {
        let twin = self.change(|state| state.twins.entry(device.clone()).or_default().read());
        desired_of(&twin.into()).expect("a twin has desired properties with a version")
    }
}

fn is_missed(disposition: Disposition) -> bool {
    disposition == Disposition::Abandon
}
