//! Work at the hub.

use std::sync::Arc;

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

/// Is what a job needs to begin.
#[derive(Debug)]
pub(super) enum Permit {
    Uplink(Slot),
    /// The turn of the connection's twin requests, which go one after the other: of two patches the
    /// later one stays, even if the hub had to be asked twice for the earlier one.
    Twin(Arc<Mutex<()>>),
}

/// Does a job; one without its own permit is not begun.
pub(super) async fn perform(ingress: Ingress, device: DeviceId, permit: Permit, job: Job) -> Done {
    match (job, permit) {
        (Job::Uplink { token, uplink }, Permit::Uplink(slot)) => Done::Uplink {
            token,
            settlement: slot.deliver(uplink).await,
        },
        (Job::Twin { token, request }, Permit::Twin(turn)) => {
            let _turn = turn.lock().await;
            let answer = ingress.twin(&device, request).await;
            Done::Twin {
                token,
                answer: answer.map_err(|error| Refusal::from(&error)),
            }
        }
        (job, _) => job.undone(),
    }
}
