//! A device's registration: where it was assigned, and the operations that it may ask after.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Ticks;

/// How long an operation can be asked after.
const OPERATION_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Operations that one registration remembers: more than a device has under way at once.
const OPERATIONS: usize = 8;
/// Polls that a device may make within `POLL_WINDOW` (Microsoft, "IoT Hub DPS limits").
const POLLS: u32 = 5;
const POLL_WINDOW: Duration = Duration::from_secs(10);

/// How a device came to its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Substatus {
    InitialAssignment,
    DeviceDataMigrated,
    DeviceDataReset,
    ReprovisionedToInitialAssignment,
}

/// What the latest operation of a registration comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Assigned(Substatus),
    Failed { code: u32, message: String },
    Disabled,
}

/// One registration; there is at most one for each registration id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Registration {
    /// As the device wrote it first.
    pub(crate) id: String,
    pub(crate) device_id: String,
    /// The group that the device came by; none for an individual enrolment.
    pub(crate) group: Option<String>,
    pub(crate) by_certificate: bool,
    /// Where the device is, whatever came of later operations.
    pub(crate) hub: Option<String>,
    pub(crate) outcome: Outcome,
    pub(crate) created: SystemTime,
    /// When the latest operation ends; before, it is under way.
    pub(crate) updated: SystemTime,
    /// What the device sent along the last time.
    pub(crate) payload: Option<Value>,
    pub(crate) etag: String,
    #[serde(skip)]
    pub(super) operations: Operations,
    #[serde(skip)]
    polls: Option<(SystemTime, u32)>,
}

impl Registration {
    pub(super) fn new(id: String, device_id: String, now: SystemTime) -> Self {
        Self {
            id,
            device_id,
            group: None,
            by_certificate: false,
            hub: None,
            outcome: Outcome::Disabled,
            created: now,
            updated: now,
            payload: None,
            etag: String::new(),
            operations: Operations::default(),
            polls: None,
        }
    }

    pub(super) fn is_under_way(&self, now: SystemTime) -> bool {
        now < self.updated
    }

    /// Counts a poll; returns whether it is one too many for its time.
    pub(super) fn polls_too_often(&mut self, now: SystemTime) -> bool {
        let within = |start: SystemTime| {
            now.duration_since(start)
                .is_ok_and(|since| since < POLL_WINDOW)
        };
        let (start, count) = self
            .polls
            .filter(|(start, _)| within(*start))
            .unwrap_or((now, 0));
        self.polls = Some((start, count.saturating_add(1)));
        count >= POLLS
    }

    fn status(&self, now: SystemTime) -> &'static str {
        match self.outcome {
            _ if self.is_under_way(now) => "assigning",
            Outcome::Assigned(_) => "assigned",
            Outcome::Failed { .. } => "failed",
            Outcome::Disabled => "disabled",
        }
    }

    /// The registration state as the service API shows it.
    pub(super) fn view(&self, now: SystemTime) -> Value {
        let mut view = json!({
            "registrationId": self.id,
            "createdDateTimeUtc": Ticks::from(self.created).to_string(),
            "status": self.status(now),
            "lastUpdatedDateTimeUtc": Ticks::from(self.updated.min(now)).to_string(),
            "etag": self.etag,
        });
        if self.is_under_way(now) {
            return view;
        }
        match &self.outcome {
            Outcome::Assigned(substatus) => {
                view["assignedHub"] = self.hub.as_deref().into();
                view["deviceId"] = self.device_id.as_str().into();
                view["substatus"] = json!(substatus);
            }
            Outcome::Failed { code, message } => {
                view["errorCode"] = (*code).into();
                view["errorMessage"] = message.as_str().into();
            }
            Outcome::Disabled => {}
        }
        view
    }

    /// The registration state as its device sees it.
    pub(super) fn device_view(&self, now: SystemTime) -> Value {
        let mut view = self.view(now);
        if self.by_certificate {
            view["x509"] = json!({});
        } else if let Some(group) = &self.group {
            view["symmetricKey"] = json!({ "enrollmentGroupId": group });
        }
        view
    }

    /// The answer to a registration or to a poll.
    pub(super) fn operation_view(&self, operation: &str, now: SystemTime) -> Value {
        let mut view = json!({ "operationId": operation, "status": self.status(now) });
        if !self.is_under_way(now) {
            view["registrationState"] = self.device_view(now);
        }
        view
    }
}

/// The latest operations of a registration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Operations(VecDeque<(String, SystemTime)>);

impl Operations {
    pub(super) fn start(&mut self, id: String, now: SystemTime) {
        if self.0.len() >= OPERATIONS {
            self.0.pop_front();
        }
        self.0.push_back((id, now));
    }

    pub(super) fn know(&self, id: &str, now: SystemTime) -> bool {
        let alive = |started: SystemTime| {
            now.duration_since(started)
                .is_ok_and(|age| age < OPERATION_LIFE)
        };
        self.0
            .iter()
            .any(|(known, started)| known == id && alive(*started))
    }
}
