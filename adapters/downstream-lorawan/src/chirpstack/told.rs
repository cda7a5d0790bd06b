//! What both forms of ChirpStack's events mean.

use super::Decoded;
use crate::cloud::{DecodeError, Route, Told};
use crate::event::{
    DevEui, DownlinkFailed, DownlinkId, Event, FailureReason, Log, LogLevel, Reception,
};

/// The member of a remark's context that names the downlink it is about.
pub(super) const QUEUE_ITEM: &str = "queue_item_id";

pub(super) fn about(
    application: &str,
    dev_eui: &str,
    events: impl FnOnce(DevEui) -> Result<Vec<Event>, DecodeError>,
) -> Decoded {
    let dev_eui: DevEui = dev_eui.parse().map_err(|_| DecodeError::NoDevEui)?;
    let route = Route::new(application, dev_eui.to_string())?;
    Ok(Told::new(dev_eui, route, events(dev_eui)?))
}

pub(super) fn reception(gateway: String, rssi: i32, snr: f32) -> Reception {
    let rssi = rssi.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
    Reception::new(gateway, rssi, Some(snr))
}

/// A margin of six bits.
pub(super) fn margin(margin: i32) -> i8 {
    margin.clamp(-32, 31) as i8
}

/// Is ChirpStack's word for what a remark is about.
#[derive(Clone, Copy)]
pub(super) struct Code<'a>(pub(super) &'a str);

impl Code<'_> {
    pub(super) const UNKNOWN: Self = Code("UNKNOWN");

    /// Why a downlink ended, if the remark tells the end of one. A concentrator's refusal
    /// (`DOWNLINK_GATEWAY`) is none: the downlink stays in the queue for the next window.
    fn failure(self) -> Option<FailureReason> {
        match self.0 {
            "DOWNLINK_PAYLOAD_SIZE" => Some(FailureReason::TooLong),
            "EXPIRED" => Some(FailureReason::Expired),
            "F_CNT_DOWN" | "DOWNLINK_CODEC" => Some(FailureReason::Other),
            _ => None,
        }
    }
}

pub(super) fn log(
    dev_eui: DevEui,
    level: LogLevel,
    code: Code<'_>,
    description: &str,
    queue_item: Option<&String>,
) -> Vec<Event> {
    let failed = code.failure().zip(queue_item).map(|(reason, item)| {
        Event::DownlinkFailed(DownlinkFailed::new(dev_eui, DownlinkId::new(item), reason))
    });
    let log = Event::Log(Log::new(dev_eui, level, code.0, description));
    [log].into_iter().chain(failed).collect()
}
