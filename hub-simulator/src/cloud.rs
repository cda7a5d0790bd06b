//! Everything that shares a set of listeners: the hubs, told apart by their host names.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::hub::Hub;
use crate::provisioning::Dps;
use crate::store::Stores;
use crate::tls::{CertificateError, Certificates, Thumbprints};

/// Where the listeners are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) amqps: SocketAddr,
    pub(crate) mqtts: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) control: Option<SocketAddr>,
}

/// The hubs behind one set of listeners.
#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) addresses: Addresses,
    pub(crate) certificates: Option<Arc<Certificates>>,
    /// Assigns devices to the hubs.
    pub(crate) dps: Dps,
    /// Answers to every name that is no hub's, as `localhost` or a gateway's.
    first: Arc<Hub>,
    others: RwLock<Vec<Arc<Hub>>>,
    /// Where the hubs are stored.
    pub(crate) stores: Stores,
}

impl Cloud {
    pub(crate) fn new(
        addresses: Addresses,
        certificates: Option<Arc<Certificates>>,
        dps: Dps,
        first: Arc<Hub>,
    ) -> Self {
        Self {
            addresses,
            certificates,
            dps,
            first,
            others: RwLock::default(),
            stores: Stores::default(),
        }
    }

    /// Adds a hub; one of the same name that was there before it hides it for as long as that one lives.
    pub(crate) fn add(&self, hub: Arc<Hub>) -> Result<(), CertificateError> {
        if let Some(certificates) = &self.certificates {
            certificates.add(&hub.host)?;
        }
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.push(hub);
        Ok(())
    }

    pub(crate) fn remove(&self, hub: &Arc<Hub>) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.retain(|other| !Arc::ptr_eq(other, hub));
    }

    pub(crate) fn default_hub(&self) -> Arc<Hub> {
        Arc::clone(&self.first)
    }

    /// All hubs, the first one first.
    pub(crate) fn hubs(&self) -> Vec<Arc<Hub>> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(&self.first)
            .chain(others.iter())
            .cloned()
            .collect()
    }

    /// The hub of a host name, in any case and with or without a port.
    pub(crate) fn hub_at(&self, host: &str) -> Option<Arc<Hub>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        self.hubs()
            .into_iter()
            .find(|hub| hub.host.eq_ignore_ascii_case(name))
    }
}

/// Who calls on a listener, as far as the line itself tells.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) cloud: Arc<Cloud>,
    /// The hub that the TLS handshake named, or the first one.
    pub(crate) hub: Arc<Hub>,
    /// Of the client certificate, if one was shown.
    pub(crate) thumbprints: Option<Thumbprints>,
}

impl Caller {
    pub(crate) fn new(
        cloud: Arc<Cloud>,
        server_name: Option<&str>,
        thumbprints: Option<Thumbprints>,
    ) -> Self {
        let named = server_name.and_then(|name| cloud.hub_at(name));
        Self {
            hub: named.unwrap_or_else(|| cloud.default_hub()),
            cloud,
            thumbprints,
        }
    }
}
