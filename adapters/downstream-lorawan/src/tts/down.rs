//! What The Things Stack is asked to send: `DownlinkQueueRequest` in protobuf's JSON form.

use bytes::Bytes;
use serde::Serialize;

use crate::cloud::read::to_base64;
use crate::event::{Downlink, DownlinkId, Priority};

/// Marks our names among the correlation ids of a downlink, which has no other name.
const MARK: &str = "iot-gateway:";

/// Lets a confirmed downlink be sent once: the hub gives out what was not confirmed again, which
/// would go beside further attempts. The Things Stack counts from 1 where nothing is said, from
/// `attempt` where that is, and sends another while that is not above `max_attempts`.
const ONE_ATTEMPT: ConfirmedRetry = ConfirmedRetry {
    attempt: 1,
    max_attempts: 1,
};

/// Reads a correlation id that is one of ours.
pub(super) fn ours(correlation_id: &str) -> Option<DownlinkId> {
    correlation_id.strip_prefix(MARK).map(DownlinkId::new)
}

#[derive(Serialize)]
struct Queue<'a> {
    downlinks: Vec<ApplicationDownlink<'a>>,
}

#[derive(Serialize)]
struct ApplicationDownlink<'a> {
    f_port: u8,
    #[serde(serialize_with = "to_base64")]
    frm_payload: &'a Bytes,
    confirmed: bool,
    priority: &'static str,
    correlation_ids: [String; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed_retry: Option<ConfirmedRetry>,
}

#[derive(Serialize)]
struct ConfirmedRetry {
    attempt: u32,
    max_attempts: u32,
}

pub(super) fn encode(downlink: Option<&Downlink>) -> Bytes {
    let downlinks = downlink.map(|downlink| ApplicationDownlink {
        f_port: downlink.port,
        frm_payload: &downlink.payload,
        confirmed: downlink.confirmed,
        priority: match downlink.priority {
            Priority::Low => "LOW",
            Priority::Normal => "NORMAL",
            Priority::High => "HIGH",
        },
        correlation_ids: [format!("{MARK}{}", downlink.id)],
        confirmed_retry: downlink.confirmed.then_some(ONE_ATTEMPT),
    });
    let queue = Queue {
        downlinks: downlinks.into_iter().collect(),
    };
    // Texts, numbers and bytes can always be written.
    serde_json::to_vec(&queue).unwrap_or_default().into()
}
