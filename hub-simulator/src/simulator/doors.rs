//! The listeners of a cloud: bound first, opened when all its hubs are there.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::builder::{Builder, StartError};
use crate::cloud::{Addresses, Cloud};
use crate::control;
use crate::server::{self, Protocol};
use crate::tls::Certificates;

/// Listeners that let nobody in yet: who calls, waits.
#[derive(Debug)]
pub(super) struct Doors {
    listeners: [(TcpListener, Protocol); 3],
    control: Option<TcpListener>,
}

impl Doors {
    pub(super) async fn bind(builder: &Builder) -> Result<(Self, Addresses), StartError> {
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
        let doors = Self {
            listeners: [
                (amqps.0, Protocol::Amqp),
                (mqtts.0, Protocol::Mqtt),
                (https.0, Protocol::Http),
            ],
            control: control.map(|(listener, _)| listener),
        };
        Ok((doors, addresses))
    }

    /// Starts serving.
    pub(super) fn open(
        self,
        cloud: &Arc<Cloud>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), StartError> {
        let certificates = cloud.certificates.as_ref();
        let tls = certificates.map(Certificates::acceptor).transpose()?;
        for (listener, protocol) in self.listeners {
            let cloud = Arc::clone(cloud);
            tasks.spawn(server::accept(listener, protocol, tls.clone(), cloud));
        }
        if let Some(listener) = self.control {
            tasks.spawn(control::serve(listener, Arc::clone(cloud)));
        }
        Ok(())
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
