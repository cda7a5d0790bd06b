//! The running simulator, as tests and programs use it.

mod calls;
mod doors;
mod identities;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::builder::{Builder, StartError};
use crate::cloud::Cloud;
use crate::faults::{Faults, Order};
use crate::hub::Hub;
use crate::hub::events::{EventLog, EventRetention, MAX_PARTITIONS};
use crate::hub::peer::Notice;
use crate::hub::record::Record;
use crate::hub::registry::Registry;
use crate::hub::state::Now;
use crate::provisioning::{Dps, Provisioning};
use crate::store::{self, Store, StoreError};
use crate::tls::{Authority, Certificates};
use doors::Doors;
pub use watch::HubStats;

/// How long a hub that stops waits for its connections, which have nothing left to wait for.
const PATIENCE: Duration = Duration::from_secs(5);

/// An IoT hub on this machine; dropping it closes every connection and frees the port.
///
/// With a state directory what has changed is stored then; [`stop`](Self::stop) tells whether it could
/// be.
#[derive(Debug)]
pub struct HubSimulator {
    hub: Arc<Hub>,
    faults: Faults,
    cloud: Arc<Cloud>,
    store: Option<Arc<Store>>,
    /// The listeners with their connections, the clock, and the store's.
    tasks: JoinSet<()>,
}

impl Drop for HubSimulator {
    fn drop(&mut self) {
        self.hang_up();
        if let Err(error) = self.save() {
            tracing::error!(%error, "The state cannot be stored");
        }
        self.cloud.stores.remove(&self.hub);
    }
}

impl HubSimulator {
    /// Starts setting up a simulator.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a hub and others beside it; clients are let in when all of them are there.
    pub(crate) async fn start(
        builder: Builder,
        others: Vec<Builder>,
    ) -> Result<(Self, Vec<Self>), StartError> {
        let (mut first, doors) = Self::set_up(builder).await?;
        let mut beside = Vec::with_capacity(others.len());
        for other in others {
            let host = other.host.clone();
            let failed = |source| StartError::Beside {
                host,
                source: Box::new(source),
            };
            beside.push(Self::set_up(other.beside(&first)).await.map_err(failed)?.0);
        }
        if let Some(doors) = doors {
            doors.open(&first.cloud, &mut first.tasks)?;
        }
        Ok((first, beside))
    }

    /// Sets a hub up with what is stored of it; a first one comes with its doors, still closed.
    async fn set_up(builder: Builder) -> Result<(Self, Option<Doors>), StartError> {
        if !(1..=MAX_PARTITIONS).contains(&builder.layout.partitions) {
            return Err(StartError::Partitions);
        }
        let retention = builder
            .retention
            .unwrap_or_else(|| EventRetention::of(builder.record));
        let hub = Hub::new(
            Registry::new(&builder.host, builder.auto_register),
            builder.limits.clone(),
            Record::new(builder.record),
        );
        let hub = Arc::new(hub.with_events(EventLog::new(builder.layout.clone(), retention)));
        let store = match &builder.state {
            Some(directory) => Some(Arc::new(Store::open(directory).await?)),
            None => None,
        };
        if let Some(store) = &store {
            store.load(&mut hub.state(), Now::read())?;
        }
        if let Some(key) = &builder.group_key {
            let key = BASE64.decode(key).ok().filter(|key| key.len() >= 16);
            let key = key.ok_or(StartError::GroupKey)?;
            hub.state().registry.set_group_key(key);
        }
        let (cloud, doors) = match &builder.beside {
            Some(cloud) => (Arc::clone(cloud), None),
            None => {
                let (cloud, doors) = Self::listen(&builder, store.as_deref(), &hub).await?;
                (cloud, Some(doors))
            }
        };
        let mut simulator = Self {
            faults: Faults::new(Arc::clone(&hub)),
            hub,
            cloud,
            store,
            tasks: JoinSet::new(),
        };
        // Nobody finds the hub before its changes are stored.
        simulator.store_changes(doors.is_some())?;
        if doors.is_none() {
            simulator.cloud.add(Arc::clone(&simulator.hub))?;
        }
        let clock = Arc::clone(&simulator.hub).run_clock();
        simulator.tasks.spawn(clock);
        Ok((simulator, doors))
    }

    /// Stores what changes from now on, if the hub is stored.
    fn store_changes(&mut self, is_first: bool) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        store.save_hub(&self.hub)?;
        let stores = &self.cloud.stores;
        if is_first {
            stores.add_first(&self.hub, store, &self.cloud.dps);
        } else {
            stores.add(&self.hub, store);
        }
        // The first one stores the others as well.
        if is_first || !stores.have_first() {
            self.tasks.spawn(store::keep(Arc::clone(&self.cloud)));
        }
        Ok(())
    }

    /// Stops serving, then stores what has changed: all that clients were told is done.
    ///
    /// With the listeners go the hubs beside this one; they are stored too. Dropping does the same but
    /// does not wait for connections that are at work in this very moment.
    ///
    /// # Errors
    /// Fails if the state cannot be stored.
    ///
    /// # Cancel safety
    /// As good as dropping the hub.
    pub async fn stop(mut self) -> Result<(), StoreError> {
        let hubs = self.hang_up();
        while self.tasks.join_next().await.is_some() {}
        let ended = async {
            for hub in &hubs {
                let mut changes = hub.changes();
                while !hub.connections().is_empty() && changes.changed().await.is_ok() {}
            }
        };
        if timeout(PATIENCE, ended).await.is_err() {
            tracing::warn!("Connections do not end; the state is stored nevertheless");
        }
        self.save()
    }

    /// Lets nobody in any more, and cuts the connections of all hubs that go; returns these.
    ///
    /// An engine that is cut says no more: what is saved after this holds all that clients were told.
    fn hang_up(&mut self) -> Vec<Arc<Hub>> {
        self.tasks.abort_all();
        // A hub beside another leaves the listeners behind.
        self.cloud.remove(&self.hub);
        let is_first = Arc::ptr_eq(&self.cloud.default_hub(), &self.hub);
        let hubs = match is_first {
            true => self.cloud.hubs(),
            false => vec![Arc::clone(&self.hub)],
        };
        for hub in &hubs {
            hub.broadcast(&Notice::Order(Order::Cut));
        }
        hubs
    }

    /// Makes the cloud of a first hub, and binds its listeners.
    async fn listen(
        builder: &Builder,
        store: Option<&Store>,
        hub: &Arc<Hub>,
    ) -> Result<(Arc<Cloud>, Doors), StartError> {
        let certificates = if builder.tls {
            let authority = match store {
                Some(store) => store.authority()?,
                None => Authority::make()?,
            };
            Some(Arc::new(Certificates::new(authority, &builder.host)?))
        } else {
            None
        };
        let dps = Self::provide(builder, store, hub)?;
        if let Some(certificates) = &certificates
            && !dps.host.eq_ignore_ascii_case(&builder.host)
        {
            certificates.add(&dps.host)?;
        }
        let (doors, addresses) = Doors::bind(builder).await?;
        let cloud = Cloud::new(addresses, certificates, dps, Arc::clone(hub));
        Ok((Arc::new(cloud), doors))
    }

    /// Takes up the cloud's provisioning service.
    fn provide(builder: &Builder, store: Option<&Store>, hub: &Hub) -> Result<Dps, StoreError> {
        let stored = store.map(Store::load_provisioning).transpose()?.flatten();
        let group_key = hub.state().registry.group_key().to_vec();
        let options = &builder.provisioning;
        Ok(Dps::new(
            options,
            &builder.host,
            stored,
            &group_key,
            Now::read(),
        ))
    }

    /// Returns the provisioning service that this hub shares with those beside it.
    #[must_use]
    pub fn provisioning(&self) -> Provisioning {
        Provisioning::new(self.cloud())
    }

    pub(crate) fn cloud(&self) -> Arc<Cloud> {
        Arc::clone(&self.cloud)
    }

    /// Returns the hub's host name, as it stands in tokens and certificate.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.hub.host
    }

    /// Returns the address that the hub listens on for AMQP.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.cloud.addresses.amqps
    }

    /// Returns the address that the hub listens on for MQTT.
    #[must_use]
    pub fn mqtts_addr(&self) -> SocketAddr {
        self.cloud.addresses.mqtts
    }

    /// Returns the address that the hub listens on for HTTP.
    #[must_use]
    pub fn https_addr(&self) -> SocketAddr {
        self.cloud.addresses.https
    }

    /// Returns the address of the control endpoint, if there is one.
    #[must_use]
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.cloud.addresses.control
    }

    /// Returns the certificate of the authority to trust; none without TLS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        Some(self.cloud.certificates.as_ref()?.authority_pem())
    }

    /// Returns the script of faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the record of accepted telemetry.
    #[must_use]
    pub fn record(&self) -> Record {
        self.hub.record.clone()
    }

    /// Stores at once what has changed in this hub and in those behind the same listeners; it is
    /// stored within 200 ms anyway. Does nothing without a state directory.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub fn save(&self) -> Result<(), StoreError> {
        match &self.store {
            Some(_) => self.cloud.stores.flush(&self.cloud.dps),
            None => Ok(()),
        }
    }
}
