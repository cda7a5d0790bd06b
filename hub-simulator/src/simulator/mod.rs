//! The running simulator, as tests and programs use it.

mod calls;
mod identities;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::builder::{Builder, StartError};
use crate::cloud::{Addresses, Cloud};
use crate::control;
use crate::faults::Faults;
use crate::hub::Hub;
use crate::hub::events::{EventLog, EventRetention, MAX_PARTITIONS};
use crate::hub::record::Record;
use crate::hub::registry::Registry;
use crate::hub::state::Now;
use crate::provisioning::{Dps, Provisioning};
use crate::server::{self, Protocol};
use crate::store::{self, Store, StoreError};
use crate::tls::{Authority, Certificates};
pub use watch::HubStats;

/// An IoT hub on this machine; dropping it closes every connection and frees the port.
#[derive(Debug)]
pub struct HubSimulator {
    hub: Arc<Hub>,
    faults: Faults,
    cloud: Arc<Cloud>,
    store: Option<Arc<Store>>,
    /// Aborts the listener, its connections and the clock when it is dropped.
    _tasks: JoinSet<()>,
}

impl Drop for HubSimulator {
    fn drop(&mut self) {
        // A hub beside another leaves the listeners behind.
        self.cloud.remove(&self.hub);
        if let Err(error) = self.save() {
            tracing::error!(%error, "The state cannot be stored");
        }
        self.faults.cut_all();
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl HubSimulator {
    /// Starts setting up a simulator.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn start(builder: Builder) -> Result<Self, StartError> {
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
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&hub).run_clock());
        let cloud = match &builder.beside {
            Some(cloud) => {
                cloud.add(Arc::clone(&hub))?;
                Arc::clone(cloud)
            }
            None => Self::listen(&builder, store.as_deref(), &hub, &mut tasks).await?,
        };
        if let Some(store) = &store {
            store.save_hub(&hub)?;
            hub.state().registry.track_changes();
            let first_of = builder.beside.is_none().then(|| Arc::clone(&cloud));
            let store = Arc::downgrade(store);
            tasks.spawn(store::keep(store, Arc::clone(&hub), first_of));
        }
        let faults = Faults::new(Arc::clone(&hub));
        Ok(Self {
            hub,
            cloud,
            faults,
            store,
            _tasks: tasks,
        })
    }

    /// Opens the listeners and starts serving.
    async fn listen(
        builder: &Builder,
        store: Option<&Store>,
        hub: &Arc<Hub>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Arc<Cloud>, StartError> {
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
        let tls = certificates
            .as_ref()
            .map(Certificates::acceptor)
            .transpose()?;
        let (amqps, mqtts, https) = (
            bind(builder.amqps).await?,
            bind(builder.mqtts).await?,
            bind(builder.https).await?,
        );
        let control = match builder.control {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let addresses = Addresses {
            amqps: amqps.1,
            mqtts: mqtts.1,
            https: https.1,
            control: control.as_ref().map(|(_, address)| *address),
        };
        let cloud = Arc::new(Cloud::new(addresses, certificates, dps, Arc::clone(hub)));
        for ((listener, _), protocol) in [
            (amqps, Protocol::Amqp),
            (mqtts, Protocol::Mqtt),
            (https, Protocol::Http),
        ] {
            tasks.spawn(server::accept(
                listener,
                protocol,
                tls.clone(),
                Arc::clone(&cloud),
            ));
        }
        if let Some((listener, _)) = control {
            tasks.spawn(control::serve(listener, Arc::clone(&cloud)));
        }
        Ok(cloud)
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

    /// The provisioning service, if it is stored with this hub.
    fn own_provisioning(&self) -> Option<&Dps> {
        Arc::ptr_eq(&self.cloud.default_hub(), &self.hub).then_some(&self.cloud.dps)
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

    /// Stores what has changed in the state directory at once; it is stored within 200 ms anyway. Does
    /// nothing without a state directory.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn save(&self) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        store.flush(&self.hub, self.own_provisioning())
    }
}
