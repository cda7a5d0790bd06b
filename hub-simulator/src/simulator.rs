//! The running simulator, as tests and programs use it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::builder::{Builder, StartError};
use crate::cloud::{Addresses, Cloud};
use crate::connection_string::{ConnectionString, KeyOwner};
use crate::faults::Faults;
use crate::hub::Hub;
use crate::hub::device::Feed;
use crate::hub::message::{C2d, C2dError, C2dTicket, MethodError, MethodResponse};
use crate::hub::peer::ConnectionStats;
use crate::hub::record::Record;
use crate::hub::registry::{DeviceKeys, KeyPair, Registry};
use crate::hub::state::Now;
use crate::hub::twin::TwinError;
use crate::provisioning::{Dps, Provisioning};
use crate::server::{self, Protocol};
use crate::store::{self, Store, StoreError};
use crate::tls::{Authority, Certificates};

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

/// What the hub carries at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubStats {
    /// The open connections, oldest first.
    pub connections: Vec<ConnectionStats>,
    /// Connections opened since the start.
    pub connections_opened: u64,
    /// Devices with a link on any connection.
    pub attached_devices: usize,
    /// Telemetry messages accepted since the start, or since the record was cleared.
    pub messages: u64,
}

impl HubSimulator {
    /// Starts setting up a simulator.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn start(builder: Builder) -> Result<Self, StartError> {
        let hub = Arc::new(Hub::new(
            Registry::new(&builder.host, builder.auto_register),
            builder.limits.clone(),
            Record::new(builder.record),
        ));
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
        let addresses = Addresses {
            amqps: amqps.1,
            mqtts: mqtts.1,
            https: https.1,
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

    // Registry.

    /// Registers a device unless it is registered, and returns its keys; empty ones if it is there
    /// and shows certificates instead.
    pub fn add_device(&self, id: &str) -> DeviceKeys {
        self.keys_of(id).encoded()
    }

    fn keys_of(&self, id: &str) -> KeyPair {
        let mut state = self.hub.state();
        state.registry.add(id).keys().cloned().unwrap_or_default()
    }

    /// Registers many devices.
    pub fn add_devices<I>(&self, ids: I)
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut state = self.hub.state();
        for id in ids {
            state.registry.add(id.as_ref());
        }
    }

    /// Returns the keys of a registered device.
    #[must_use]
    pub fn device_keys(&self, id: &str) -> Option<DeviceKeys> {
        let state = self.hub.state();
        Some(state.registry.get(id)?.keys()?.encoded())
    }

    /// Enables or disables a device; a disabled one loses its links. Returns whether it is registered.
    pub fn set_enabled(&self, id: &str, enabled: bool) -> bool {
        self.hub.set_enabled(id, enabled)
    }

    /// Gives a device new keys; tokens put before stay good until they expire.
    pub fn rotate_keys(&self, id: &str) -> Option<DeviceKeys> {
        let mut state = self.hub.state();
        let device = state.registry.get_mut(id)?;
        let keys = KeyPair::random();
        device.set_keys(keys.clone());
        Some(keys.encoded())
    }

    /// Removes a device with its modules: its links are detached, its messages purged. Returns whether it was there.
    pub fn remove_device(&self, id: &str) -> bool {
        self.hub.remove_identity(id)
    }

    /// Returns the connection string of a built-in policy: `iothubowner`, `service`, `device`,
    /// `registryRead` or `registryReadWrite`.
    ///
    /// # Panics
    /// Panics on any other name.
    #[must_use]
    pub fn policy_connection_string(&self, policy: &str) -> String {
        let state = self.hub.state();
        let keys = state
            .registry
            .policy(policy)
            .expect("the hub has the built-in policies only")
            .keys
            .clone();
        drop(state);
        let owner = KeyOwner::Policy(policy.to_owned());
        ConnectionString::new(self.host(), owner, keys.primary()).to_string()
    }

    /// Returns the connection string of a device, which is registered if it is not yet.
    #[must_use]
    pub fn device_connection_string(&self, id: &str) -> String {
        let keys = self.keys_of(id);
        ConnectionString::new(self.host(), KeyOwner::Device(id.to_owned()), keys.primary())
            .to_string()
    }

    /// Returns the key, in base64, that keys of automatically registered devices derive from.
    #[must_use]
    pub fn group_key(&self) -> String {
        BASE64.encode(self.hub.state().registry.group_key())
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

    // Messages, methods, twins.

    /// Puts a cloud-to-device message into a device's queue.
    ///
    /// # Errors
    /// Fails if the device is unknown, its queue full or the message too large.
    pub fn send_c2d(&self, device: &str, message: C2d) -> Result<C2dTicket, C2dError> {
        self.hub
            .state()
            .enqueue(device, message, Now::read())
            .map(C2dTicket::new)
    }

    /// Calls a direct method and waits for the answer.
    ///
    /// # Errors
    /// Fails at once if the device is unknown or does not listen to methods, and after `within` if it
    /// does not answer.
    ///
    /// # Cancel safety
    /// Safe, but the device may still carry out the call.
    pub async fn call_method(
        &self,
        device: &str,
        name: &str,
        payload: impl Into<Bytes>,
        within: Duration,
    ) -> Result<MethodResponse, MethodError> {
        let (call, answer) = self.hub.state().call_method(device, name, payload.into())?;
        let answer = timeout(within, answer).await;
        self.hub.state().forget_call(call);
        answer
            .ok()
            .and_then(Result::ok)
            .ok_or(MethodError::TimedOut)
    }

    /// Merges desired properties of a device and returns their new version.
    ///
    /// # Errors
    /// Fails if the device is unknown or the patch against the rules of twins; nothing changes then.
    pub fn patch_desired(&self, device: &str, patch: &Value) -> Result<u64, TwinError> {
        self.hub.state().patch_desired(device, patch)
    }

    /// Returns a device's reported properties with their `$version`; null if it is unknown.
    #[must_use]
    pub fn reported(&self, device: &str) -> Value {
        self.twin(device)["reported"].take()
    }

    /// Returns a device's twin as the device sees it; null if it is unknown.
    #[must_use]
    pub fn twin(&self, device: &str) -> Value {
        self.hub.state().twin(device).unwrap_or_default()
    }

    // Watching.

    /// Returns what each open connection carries, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionStats> {
        self.hub
            .connections()
            .iter()
            .map(|peer| peer.stats())
            .collect()
    }

    /// Counts the connections opened since the start.
    #[must_use]
    pub fn connections_opened_total(&self) -> u64 {
        self.hub.opened()
    }

    /// Counts the devices that have a link on any connection.
    #[must_use]
    pub fn attached_devices(&self) -> usize {
        self.hub.state().attached
    }

    /// Returns what the hub carries now.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        HubStats {
            connections: self.connections(),
            connections_opened: self.connections_opened_total(),
            attached_devices: self.attached_devices(),
            messages: self.hub.record.count(),
        }
    }

    /// Waits until the hub's figures meet a condition.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_until(&self, mut condition: impl FnMut(&HubStats) -> bool) {
        self.wait_for(|| condition(&self.stats())).await;
    }

    /// Waits until a device has its cloud-to-device link or its method links open.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_listening(&self, device: &str) {
        self.wait_for(|| {
            self.listens(device, Feed::Messages) || self.listens(device, Feed::Methods)
        })
        .await;
    }

    /// Waits until a device has its cloud-to-device link open.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_messages(&self, device: &str) {
        self.wait_for(|| self.listens(device, Feed::Messages)).await;
    }

    /// Waits until a device listens to nothing.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_deaf(&self, device: &str) {
        let feeds = [Feed::Messages, Feed::Methods, Feed::Desired];
        self.wait_for(|| !feeds.into_iter().any(|feed| self.listens(device, feed)))
            .await;
    }

    /// How often a device came with its first link, having had none before.
    #[must_use]
    pub fn attaches(&self, device: &str) -> u64 {
        let mut state = self.hub.state();
        state
            .registry
            .get_mut(device)
            .map_or(0, |device| device.attaches)
    }

    /// Waits until a device has both its method links open.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_methods(&self, device: &str) {
        self.wait_for(|| self.listens(device, Feed::Methods)).await;
    }

    /// Waits until a device has subscribed to its desired properties.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_desired(&self, device: &str) {
        self.wait_for(|| self.listens(device, Feed::Desired)).await;
    }

    fn listens(&self, device: &str, feed: Feed) -> bool {
        let mut state = self.hub.state();
        state
            .registry
            .get_mut(device)
            .is_some_and(|device| device.slot(feed).is_some())
    }

    async fn wait_for(&self, mut condition: impl FnMut() -> bool) {
        let mut changes = self.hub.changes();
        while !condition() {
            // The sender lives as long as the hub.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
