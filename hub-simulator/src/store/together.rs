//! The stores of a cloud's hubs, which are committed together: devices move from one hub to another,
//! and the provisioning service, stored with the first hub, knows where each one is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::rows::Changes;
use super::{Store, StoreError};
use crate::hub::Hub;
use crate::hub::state::Now;
use crate::provisioning::Dps;

/// The hubs that are stored, the first one first.
#[derive(Debug, Default)]
pub(crate) struct Stores(Mutex<Vec<Stored>>);

#[derive(Debug)]
pub(super) struct Stored {
    hub: Arc<Hub>,
    /// Lives as long as the hub's handle.
    store: Weak<Store>,
    /// Whether the provisioning service is stored with it.
    is_first: bool,
}

impl Stores {
    /// Adds a hub with its store; whatever it holds counts as changed.
    pub(crate) fn add(&self, hub: &Arc<Hub>, store: &Arc<Store>) {
        hub.state().registry.track_changes();
        self.lock().push(Stored {
            hub: Arc::clone(hub),
            store: Arc::downgrade(store),
            is_first: false,
        });
    }

    /// Adds the first hub, with the provisioning service.
    pub(crate) fn add_first(&self, hub: &Arc<Hub>, store: &Arc<Store>, dps: &Dps) {
        dps.state().track_changes();
        self.add(hub, store);
        for stored in &mut *self.lock() {
            stored.is_first = true;
        }
    }

    pub(crate) fn remove(&self, hub: &Arc<Hub>) {
        self.lock().retain(|other| !Arc::ptr_eq(&other.hub, hub));
    }

    /// Whether the first hub is stored.
    pub(crate) fn have_first(&self) -> bool {
        self.lock().first().is_some_and(|stored| stored.is_first)
    }

    /// Commits what has changed since it was last called; what cannot be stored stays changed.
    pub(crate) fn flush(&self, dps: &Dps) -> Result<(), StoreError> {
        // Held to the end: whoever takes changes first also commits them first.
        let stored = self.lock();
        let pass = Pass::take(&stored, dps);
        let committed = pass.steps().try_for_each(|step| step.commit());
        committed.inspect_err(|_error| pass.put_back(dps))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Stored>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has changed in all hubs, as it was at one moment.
pub(super) struct Pass(Vec<(Arc<Store>, Arc<Hub>, Changes)>);

/// One commit.
pub(super) enum Step<'a> {
    Come(&'a Store, &'a Changes),
    Gone(&'a Store, &'a Changes),
}

impl Pass {
    pub(super) fn take(stored: &[Stored], dps: &Dps) -> Self {
        // As long as this is held nobody moves.
        let mut provisioning = dps.state();
        let now = Now::read();
        let taken = stored.iter().filter_map(|stored| {
            let store = stored.store.upgrade()?;
            let mut changes = Changes::take(&mut stored.hub.state(), now);
            changes.provisioning = stored.is_first.then(|| provisioning.take_changes());
            Some((store, Arc::clone(&stored.hub), changes))
        });
        Self(taken.collect())
    }

    /// The commits in their order. Whoever is killed between two of them finds a device once too
    /// often, never nowhere: what has come goes before the service that knows of it, in the first
    /// hub's store, and that before what is gone.
    pub(super) fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let others_first = self.0.iter().rev();
        let come = others_first.filter(|(_, _, changes)| changes.have_come());
        let gone = self.0.iter().filter(|(_, _, changes)| changes.have_gone());
        come.map(|(store, _, changes)| Step::Come(store, changes))
            .chain(gone.map(|(store, _, changes)| Step::Gone(store, changes)))
    }

    /// Remembers everything as changed again.
    fn put_back(&self, dps: &Dps) {
        for (_, hub, changes) in &self.0 {
            changes.put_back(&mut hub.state());
            if let Some(provisioning) = &changes.provisioning {
                dps.state().put_back(provisioning);
            }
        }
    }
}

impl Step<'_> {
    pub(super) fn commit(&self) -> Result<(), StoreError> {
        match self {
            Self::Come(store, changes) => store.commit(changes),
            Self::Gone(store, changes) => store.commit_gone(changes),
        }
    }
}
