use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp_types::primitives::{Symbol, Value};
use futures_util::future::BoxFuture;
use gateway_core::governor::{Class, Operation, Priority, Turn};
use tokio::time::sleep;

use super::Scope;
use super::inbox::Inbox;
use crate::client::{LinkSpec, Receiver, Sender};
use crate::device::Device;
use crate::env::Env;
use crate::error::AmqpError;
use crate::lane::Lane;
use crate::link::{address, client_properties};

/// Version of the hub's interface that twins and methods follow.
const API_VERSION: &str = "2021-04-12";

/// Where a task and its feeds are.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) env: Arc<Env>,
    pub(crate) device: Arc<Device>,
    pub(crate) lane: Arc<Lane>,
    pub(crate) inbox: Arc<Inbox>,
}

/// Opens links, unless they are not wanted any more before: none then.
///
/// Boxed: it is larger than all that comes after it, and soon over.
pub(crate) fn open<'a, T: 'a>(
    unwanted: impl Future<Output = ()> + Send + 'a,
    opening: impl Future<Output = Result<T, AmqpError>> + Send + 'a,
) -> BoxFuture<'a, Result<Option<T>, AmqpError>> {
    Box::pin(async move {
        tokio::select! {
            biased;
            () = unwanted => Ok(None),
            opened = opening => Ok(Some(opened?)),
        }
    })
}

impl Site {
    pub(super) fn new(scope: Scope<'_>, inbox: Arc<Inbox>) -> Self {
        Self {
            env: scope.env.clone(),
            device: scope.device.clone(),
            lane: scope.lane.clone(),
            inbox,
        }
    }

    /// Waits until a link may be opened: after the wait, and when it is its turn, telemetry's own
    /// link having come first.
    ///
    /// Cancel safe.
    pub(crate) async fn turn(&self, class: Class, wait: Option<Duration>) {
        if let Some(wait) = wait {
            sleep(wait).await;
        }
        let turn = Turn::default();
        let priority = Priority::new(class, self.device.active());
        let pass = self.env.door.pass(Operation::CommandLink, priority, &turn);
        let mut pass = pin!(pass);
        tokio::select! {
            biased;
            () = &mut pass => return,
            // Only the twin's links wait while nobody does.
            () = self.inbox.until(|state| !state.asks.is_empty()) => {}
        }
        if class == Class::Quiet {
            self.env.door.hurry(&turn);
        }
        pass.await;
    }

    /// Opens a receiver of the device's messages.
    pub(super) async fn open_messages(&self) -> Result<Receiver, AmqpError> {
        let spec = self.spec("messages", "messages/devicebound", false, None);
        let credit = self.env.config.commands.credit;
        self.lane.open_receiver(spec, credit).await
    }

    /// Opens both links of an exchange, side by side.
    ///
    /// Cancel safe: what was opened is detached.
    pub(crate) async fn open_pair(
        &self,
        name: &str,
        path: &str,
    ) -> Result<(Receiver, Sender), AmqpError> {
        let pair = format!("{name}:{}", self.env.name(self.device.id.as_str(), "pair"));
        let receiver = self.spec(&format!("{name}-in"), path, true, Some(&pair));
        let sender = self.spec(&format!("{name}-out"), path, true, Some(&pair));
        let credit = self.env.config.commands.credit;
        tokio::try_join!(
            self.lane.open_receiver(receiver, credit),
            self.lane.open_sender(sender),
        )
    }

    fn spec(&self, purpose: &str, path: &str, settled: bool, pair: Option<&str>) -> LinkSpec {
        let mut properties = client_properties();
        if let Some(pair) = pair {
            let mut insert = |name: &str, value: &str| {
                properties.insert(Symbol::from(name), Value::String(value.to_owned()));
            };
            insert("com.microsoft:api-version", API_VERSION);
            insert("com.microsoft:channel-correlation-id", pair);
        }
        LinkSpec {
            name: self.env.name(self.device.id.as_str(), purpose),
            address: address(&self.env, &self.device, path),
            settled,
            properties,
        }
    }
}
