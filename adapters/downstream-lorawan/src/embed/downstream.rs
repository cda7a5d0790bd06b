//! The downstream itself: put together, served, and spoken to by the core.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_core::{
    ConfigError, Delivered, Downlink, Downstream, DownstreamError, ErrorKind, ServeContext,
};
use tokio::sync::mpsc;

use super::config::LorawanConfig;
use super::directory::{Directory, EuiDirectory};
use super::events::NetworkEvents;
use super::network::{self, NetworkServer, OrderStream};
use super::serve;
use super::shared::{Job, Shared};
use crate::schedule::Margins;

/// Puts a [`LorawanDownstream`] together.
#[derive(Debug)]
pub struct LorawanBuilder {
    config: LorawanConfig,
    directory: Box<dyn Directory>,
}

impl LorawanBuilder {
    #[cfg(feature = "cloud")]
    pub(crate) fn config(&self) -> &LorawanConfig {
        &self.config
    }

    /// Sets who knows the devices. Default: every device under its EUI, class A, no codec.
    #[must_use]
    pub fn with_directory(mut self, directory: impl Directory) -> Self {
        self.directory = Box::new(directory);
        self
    }

    /// Makes a downstream that gives downlinks to a network server.
    ///
    /// # Errors
    /// A setting is wrong.
    pub fn build(self, network: impl NetworkServer) -> Result<LorawanDownstream, ConfigError> {
        let Self { config, directory } = self;
        config.validate()?;
        let (sender, jobs) = mpsc::channel(config.max_tasks);
        let shared = Shared::new(config, directory, Box::new(network), sender);
        Ok(LorawanDownstream {
            shared: Arc::new(shared),
            jobs: Mutex::new(Some(jobs)),
        })
    }

    /// Makes a downstream that gives downlinks as a stream of orders.
    ///
    /// # Errors
    /// A setting is wrong.
    pub fn stream(self) -> Result<(LorawanDownstream, OrderStream), ConfigError> {
        self.config.validate()?;
        let (network, orders) = network::stream(self.config.max_orders);
        Ok((self.build(network)?, orders))
    }
}

/// Speaks with LoRaWAN devices through a network server that embeds it.
pub struct LorawanDownstream {
    shared: Arc<Shared>,
    jobs: Mutex<Option<mpsc::Receiver<Job>>>,
}

impl fmt::Debug for LorawanDownstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LorawanDownstream")
            .field("listening", &self.listening())
            .finish_non_exhaustive()
    }
}

impl LorawanDownstream {
    /// Starts to put a downstream together.
    #[must_use]
    pub fn builder(config: LorawanConfig) -> LorawanBuilder {
        LorawanBuilder {
            config,
            directory: Box::new(EuiDirectory::default()),
        }
    }

    /// The door for what the network server tells.
    #[must_use]
    pub fn events(&self) -> NetworkEvents {
        NetworkEvents(self.shared.clone())
    }

    /// How many devices' commands are fetched from the hub now.
    #[must_use]
    pub fn listening(&self) -> usize {
        self.shared.listening.len()
    }

    /// How far before or after its window each command was, since the start.
    #[must_use]
    pub fn margins(&self) -> Margins {
        self.shared.schedule().margins().clone()
    }
}

#[async_trait]
impl Downstream for LorawanDownstream {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        let jobs = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let jobs = jobs.ok_or_else(DownstreamError::served_before)?;
        serve::serve(self.shared.clone(), jobs, context).await;
        Ok(())
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        match downlink {
            Downlink::Message(message) => self.shared.message(message).await,
            Downlink::Method(call) => self.shared.method(call).await,
            Downlink::End(end) => self.shared.end(end).await,
            // No device of ours is interested in desired properties.
            _ => Err(DownstreamError::new(ErrorKind::Unsupported, "send")),
        }
    }
}
