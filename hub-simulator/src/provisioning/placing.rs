//! Makes a registration true in the hubs.

use std::sync::Arc;

use super::enrolment::InitialTwin;
use super::key::Keys;
use super::login::Credentials;
use super::state::{Departure, Placement};
use crate::clock::Ticks;
use crate::hub::Hub;
use crate::hub::device::{Auth, Device, RegisteredThumbprints};
use crate::hub::keys::KeyPair;
use crate::hub::peer::Notice;
use crate::hub::twin::{Change, Mode, Twin};

/// Registers the device in its hub and takes it out of the one that it leaves.
pub(super) fn carry_out(hubs: &[Arc<Hub>], placement: Placement) {
    let at = |host: &str| hubs.iter().find(|hub| hub.host.eq_ignore_ascii_case(host));
    let twin = placement.from.as_ref().and_then(|departure| {
        let twin = depart(at(&departure.hub)?, departure);
        twin.filter(|_| departure.migrate)
    });
    let Some(hub) = at(&placement.hub) else {
        tracing::warn!(
            device.id = placement.device_id,
            hub = placement.hub,
            "The assigned hub is gone"
        );
        return;
    };
    let mut state = hub.state();
    let is_new = state.registry.get(&placement.device_id).is_none();
    if placement.if_missing && !is_new {
        return;
    }
    let device = state.registry.add(&placement.device_id);
    device.auth = auth(placement.credentials);
    device.written();
    if placement.capabilities.is_some_and(|can| can.iot_edge) {
        let scope = format!(
            "ms-azure-iot-edge://{}-{}",
            placement.device_id, device.generation
        );
        let details = device.details.get_or_insert_default();
        (details.iot_edge, details.device_scope) = (true, Some(scope));
    }
    if twin.is_some() {
        device.twin = twin;
    } else if is_new && let Some(initial) = placement.initial_twin {
        start_twin(device, &placement.device_id, &initial);
    }
    state.make_edge_modules(&placement.device_id, Ticks::now());
    drop(state);
    hub.stir();
    tracing::info!(
        device.id = placement.device_id,
        hub = hub.host,
        "Device is provisioned"
    );
}

/// Removes a device with its modules from the hub that it leaves; returns its twin.
fn depart(hub: &Hub, departure: &Departure) -> Option<Box<Twin>> {
    let mut state = hub.state();
    let twin = state.registry.get(&departure.device_id)?.twin.clone();
    let gone = state.remove_with_modules(&departure.device_id);
    drop(state);
    hub.tell(gone, Notice::Removed);
    twin
}

fn auth(credentials: Credentials) -> Auth {
    match credentials {
        Credentials::Keys(Keys {
            primary_key,
            secondary_key,
        }) => Auth::Sas(KeyPair::new(primary_key.bytes(), secondary_key.bytes())),
        Credentials::Thumbprints([primary, secondary]) => {
            Auth::SelfSigned(Box::new(RegisteredThumbprints {
                primary: Some(primary),
                secondary: Some(secondary),
            }))
        }
    }
}

fn start_twin(device: &mut Device, id: &str, initial: &InitialTwin) {
    let properties = initial.properties.as_ref();
    let change = Change {
        tags: initial.tags.as_ref(),
        desired: properties.and_then(|properties| properties.desired.as_ref()),
    };
    let written = device.twin_mut(id).write(change, Mode::Merge, Ticks::now());
    if let Err(error) = written {
        tracing::warn!(device.id = id, %error, "The initial twin is refused");
    }
}
