//! What of the service's state is stored, and how it comes back.

use serde_json::Value;

use super::enrolment::Enrolment;
use super::registration::Registration;
use super::state::State;
use super::table::Rows;

/// What has changed and is to be stored together.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Id scope and policy.
    pub(crate) service: Option<Value>,
    pub(crate) individuals: Rows<Enrolment>,
    pub(crate) groups: Rows<Enrolment>,
    pub(crate) registrations: Rows<Registration>,
}

/// The state as it is stored.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) service: State,
    pub(crate) individuals: Vec<(String, Enrolment)>,
    pub(crate) groups: Vec<(String, Enrolment)>,
    pub(crate) registrations: Vec<(String, Registration)>,
}

impl From<Stored> for State {
    fn from(stored: Stored) -> Self {
        let mut state = stored.service;
        state.individuals.restore(stored.individuals);
        state.groups.restore(stored.groups);
        state.registrations.restore(stored.registrations);
        for (_, registration) in state.registrations.iter() {
            state.loads.add(registration.hub.as_deref());
        }
        state
    }
}

impl State {
    /// Starts to remember what changes.
    pub(crate) fn track_changes(&mut self) {
        self.service_changed = true;
        self.individuals.track_changes();
        self.groups.track_changes();
        self.registrations.track_changes();
    }

    /// What has changed since this was last asked.
    pub(crate) fn take_changes(&mut self) -> Changes {
        let service = std::mem::take(&mut self.service_changed);
        Changes {
            service: service.then(|| serde_json::json!(self)),
            individuals: self.individuals.take_changed(),
            groups: self.groups.take_changed(),
            registrations: self.registrations.take_changed(),
        }
    }

    /// Remembers it as changed again.
    pub(crate) fn put_back(&mut self, changes: &Changes) {
        self.service_changed |= changes.service.is_some();
        self.individuals.put_back(&changes.individuals);
        self.groups.put_back(&changes.groups);
        self.registrations.put_back(&changes.registrations);
    }
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.service.is_none()
            && self.individuals.is_empty()
            && self.groups.is_empty()
            && self.registrations.is_empty()
    }
}
