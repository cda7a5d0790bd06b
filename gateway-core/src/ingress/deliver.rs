//! A message, and what gathered behind one, to the hub's verdict.

use std::slice;

use super::{Inner, is_forgotten};
use crate::error::{ErrorKind, UpstreamError};
use crate::message::{DEFAULT_RETRY_AFTER, Settlement, Uplink};
use crate::session::{Batch, Busy, Gate, Place};

impl Inner {
    /// Sends a message whose turn it is.
    pub(super) async fn send_now(&self, gate: &Gate<'_>, uplink: &Uplink) -> Settlement {
        settlement(&self.send(gate, slice::from_ref(uplink)).await)
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
        while let Some(batch) = gate.take_batch(&self.batches) {
            self.send_batch(&gate, batch).await;
            if let Some(settlement) = place.try_settled() {
                return settlement;
            }
        }
        Settlement::RetryLater(DEFAULT_RETRY_AFTER)
    }

    /// Sends a batch and tells each of its messages what became of it. If it is refused for what may
    /// be one message's fault, smaller ones find out whose: halved at each refusal, doubled again
    /// after each success, so that one bad message among 500 costs some twenty requests.
    async fn send_batch(&self, gate: &Gate<'_>, mut batch: Batch<'_>) {
        let mut count = batch.unsettled().len();
        while count > 0 {
            let result = self.send(gate, &batch.unsettled()[..count]).await;
            let settlement = settlement(&result);
            match result {
                Ok(()) => {
                    batch.settle(count, settlement);
                    count *= 2;
                }
                Err(error) if !may_be_one_message(error.kind()) => {
                    batch.settle(batch.unsettled().len(), settlement);
                }
                Err(_) if count > 1 => count /= 2,
                Err(_) => batch.settle(1, settlement),
            }
            count = count.min(batch.unsettled().len());
        }
    }

    /// Sends messages of one device, attaching it first if need be.
    async fn send(&self, gate: &Gate<'_>, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        let result = self.attach_and_send(gate, uplinks).await;
        if let Err(error) = &result {
            gate.fail(error);
        }
        result
    }

    async fn attach_and_send(
        &self,
        gate: &Gate<'_>,
        uplinks: &[Uplink],
    ) -> Result<(), UpstreamError> {
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

fn settlement(result: &Result<(), UpstreamError>) -> Settlement {
    match result {
        Ok(()) => Settlement::Accepted,
        Err(error) => Settlement::from(error),
    }
}

/// Tells whether a batch may have been refused for one of its messages.
fn may_be_one_message(kind: ErrorKind) -> bool {
    use ErrorKind::{Other, Rejected, TooLarge, Unsupported};
    matches!(kind, Rejected | TooLarge | Unsupported | Other)
}
