//! Work at the hub.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::Either;
use gateway_core::{
    DEFAULT_RETRY_AFTER, DeviceId, ErrorKind, Ingress, Settlement, Slot, TwinReply, TwinRequest,
    Uplink,
};

use tokio::sync::Mutex;

use crate::proto::Refusal;

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are uplinks, which a box would cost an allocation each"
)]
#[derive(Debug)]
pub(super) enum Job {
    Uplink { token: u64, uplink: Uplink },
    Twin { token: u64, request: TwinRequest },
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Done {
    Uplink {
        token: u64,
        settlement: Settlement,
    },
    Twin {
        token: u64,
        answer: Result<TwinReply, Refusal>,
    },
}

impl Job {
    /// The outcome of a job that was never begun.
    pub(super) fn undone(self) -> Done {
        match self {
            Self::Uplink { token, .. } => Done::Uplink {
                token,
                settlement: Settlement::RetryLater(DEFAULT_RETRY_AFTER),
            },
            Self::Twin { token, .. } => Done::Twin {
                token,
                answer: Err(Refusal::new(ErrorKind::Disconnected)),
            },
        }
    }
}

/// A job with what it needs to begin.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are uplinks, which a box would cost an allocation each"
)]
#[derive(Debug)]
pub(super) enum Start {
    Uplink {
        token: u64,
        uplink: Uplink,
        slot: Slot,
    },
    Twin {
        token: u64,
        request: TwinRequest,
        device: DeviceId,
        /// The turn of the connection's twin requests, which go one after the other: of two patches
        /// the later one stays, even if the hub had to be asked twice for the earlier one.
        turn: Arc<Mutex<()>>,
    },
}

/// Does a job. The future of an uplink is no larger than its delivery; the rare one is boxed.
pub(super) fn perform(ingress: &Ingress, start: Start) -> impl Future<Output = Done> + use<> {
    match start {
        Start::Uplink {
            token,
            uplink,
            slot,
        } => Either::Left(
            slot.deliver(uplink)
                .map(move |settlement| Done::Uplink { token, settlement }),
        ),
        Start::Twin {
            token,
            request,
            device,
            turn,
        } => {
            let ingress = ingress.clone();
            Either::Right(Box::pin(async move {
                let _turn = turn.lock().await;
                let answer = ingress.twin(&device, request).await;
                Done::Twin {
                    token,
                    answer: answer.map_err(|error| Refusal::from(&error)),
                }
            }))
        }
    }
}
