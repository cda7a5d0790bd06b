//! A message, and what gathered behind one, to the hub's verdict.

use std::slice;

use super::{Inner, is_forgotten};
use crate::error::{ErrorKind, UpstreamError};
use crate::message::{DEFAULT_RETRY_AFTER, Settlement, Uplink};
use crate::session::{Batch, Busy, Gate, Place};

impl Inner {
    /// Sends a message whose turn it is.
    pub(super) async fn send_now(&self, gate: &Gate<'_>, uplink: &Uplink) -> Settlement {
        match self.send(gate, slice::from_ref(uplink)).await {
            Ok(()) => Settlement::Accepted,
            Err(error) => failed(gate, &error),
        }
    }

    /// Sends a message that must wait for its turn. Whoever has the next one sends all that waits.
    pub(super) async fn send_in_turn(&self, session: &Busy, uplink: Uplink) -> Settlement {
        let mut place = session.queue(uplink);
        let gate = tokio::select! {
            biased;
            settlement = place.settled() => return settlement,
            gate = session.gate() => gate,
        };
        self.lead(gate, place).await
    }

    /// Sends what waits, until the own message is settled. The place is dropped before the gate, so
    /// that nobody sends the message of a sender that has gone.
    async fn lead(&self, gate: Gate<'_>, mut place: Place<'_>) -> Settlement {
        loop {
            // Who had the gate before may have sent it.
            if let Some(settlement) = place.try_settled() {
                return settlement;
            }
            let Some(batch) = gate.take_batch(&self.batches) else {
                return Settlement::RetryLater(DEFAULT_RETRY_AFTER);
            };
            self.send_batch(&gate, batch).await;
        }
    }

    /// Sends a batch and tells each of its messages what became of it. If it is refused for what may
    /// be one message's fault, smaller ones find out whose: halved at each refusal, doubled again
    /// after each success, so that one bad message among 500 costs some twenty requests.
    async fn send_batch(&self, gate: &Gate<'_>, mut batch: Batch<'_>) {
        let mut count = batch.unsettled().len();
        while count > 0 {
            match self.send(gate, &batch.unsettled()[..count]).await {
                Ok(()) => {
                    batch.settle(count, Settlement::Accepted);
                    count *= 2;
                }
                Err(error) if !may_be_one_message(error.kind()) => {
                    batch.settle(batch.unsettled().len(), failed(gate, &error));
                }
                Err(_) if count > 1 => count /= 2,
                Err(error) => batch.settle(1, failed(gate, &error)),
            }
            count = count.min(batch.unsettled().len());
        }
    }

    /// Sends messages of one device, attaching it first if need be.
    async fn send(&self, gate: &Gate<'_>, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        // Not by way of `Arc`'s own implementation, which would box once more.
        let upstream = &*self.upstream;
        let attempt = || match uplinks {
            [uplink] => upstream.send(uplink),
            uplinks => upstream.send_batch(uplinks),
        };
        self.sessions.attached(gate).await?;
        match attempt().await {
            Err(error) if is_forgotten(&error) => {
                gate.forget();
                self.sessions.attached(gate).await?;
                attempt().await
            }
            result => result,
        }
    }
}

/// Makes a settlement of an error and has it remembered.
fn failed(gate: &Gate<'_>, error: &UpstreamError) -> Settlement {
    gate.fail(error);
    Settlement::from(error)
}

/// Tells whether a batch may have been refused for one of its messages.
fn may_be_one_message(kind: ErrorKind) -> bool {
    use ErrorKind::{Other, Rejected, TooLarge, Unsupported};
    matches!(kind, Rejected | TooLarge | Unsupported | Other)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::config::GatewayConfig;
    use crate::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
    use crate::id::{DeviceId, MessageId};
    use crate::session::SessionTable;
    use crate::testkit::{MemoryUpstream, RecordingCallback};

    fn inner(hub: &MemoryUpstream) -> Inner {
        let (config, upstream) = (GatewayConfig::default(), Arc::new(hub.clone()));
        let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
        let credentials = HubPolicyCredentials::new(SharedAccessPolicy::new("device", key));
        let callback = RecordingCallback::new().shared();
        let sessions =
            SessionTable::new(&config, upstream.clone(), Arc::new(credentials), callback);
        Inner {
            sessions: Arc::new(sessions),
            upstream,
            credits: Arc::new(Semaphore::new(1)),
            closing: Default::default(),
            is_closing: Default::default(),
            batches: config.batches,
            counters: Default::default(),
            commands: Default::default(),
        }
    }

    /// Between the look for a verdict and the look for the gate another sender may have settled the
    /// message and have gone.
    #[tokio::test]
    async fn who_gets_the_gate_with_its_message_settled_sends_nothing_and_tells_the_verdict() {
        let hub = MemoryUpstream::new();
        let inner = inner(&hub);
        let device = DeviceId::new("d").unwrap();
        let session = inner.sessions.enter(&device).unwrap();
        let uplink = || Uplink::new(device.clone(), MessageId::random(), "x");
        for others_wait in [false, true] {
            let place = session.queue(uplink());
            let gate = session.gate().await;
            let mut batch = gate.take_batch(&inner.batches).unwrap();
            batch.settle(1, Settlement::Accepted);
            drop(batch);
            let _other = others_wait.then(|| session.queue(uplink()));
            assert_eq!(inner.lead(gate, place).await, Settlement::Accepted);
            assert!(hub.accepted().is_empty(), "the other's is its own to send");
        }
    }
}
