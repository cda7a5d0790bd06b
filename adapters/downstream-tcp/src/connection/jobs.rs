//! Work at the hub.

use gateway_core::{
    DEFAULT_RETRY_AFTER, DeviceId, ErrorKind, Ingress, Settlement, Slot, TwinReply, TwinRequest,
    Uplink,
};

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

/// Does a job; an uplink without a slot is not begun.
pub(super) async fn perform(
    ingress: Ingress,
    device: DeviceId,
    slot: Option<Slot>,
    job: Job,
) -> Done {
    match (job, slot) {
        (Job::Uplink { token, uplink }, Some(slot)) => Done::Uplink {
            token,
            settlement: slot.deliver(uplink).await,
        },
        (Job::Twin { token, request }, _) => {
            let answer = ingress.twin(&device, request).await;
            Done::Twin {
                token,
                answer: answer.map_err(|error| Refusal::from(&error)),
            }
        }
        (job @ Job::Uplink { .. }, None) => job.undone(),
    }
}
