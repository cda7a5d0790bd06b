//! Changes of the desired properties that the device may acknowledge in short.

use std::collections::VecDeque;

use gateway_core::{DesiredPatch, TwinError, TwinProperties};

/// Changes remembered; of more, the oldest is forgotten. Enough for a device that answers within
/// some changes, and little for one that never does.
const MOST: usize = 8;
/// Bytes remembered: a whole section of a twin, at most 32 KiB on Azure IoT Hub, fits twice.
const MOST_BYTES: usize = 64 * 1024;

/// Remembers changes until they are acknowledged for good.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    /// Oldest first. Copies, since the bytes that came may hold a whole read's buffer.
    changes: VecDeque<(u64, Box<[u8]>)>,
}

impl Unacknowledged {
    pub(super) fn remember(&mut self, patch: &DesiredPatch) {
        self.forget(patch.version);
        self.changes
            .push_back((patch.version, (*patch.body).into()));
        let bytes = |changes: &VecDeque<(u64, Box<[u8]>)>| -> usize {
            changes.iter().map(|(_, body)| body.len()).sum()
        };
        while self.changes.len() > MOST || bytes(&self.changes) > MOST_BYTES {
            self.changes.pop_front();
        }
    }

    /// What was desired in this version, if that is remembered.
    pub(super) fn find(&self, version: u64) -> Option<Result<TwinProperties, TwinError>> {
        let (_, body) = self.changes.iter().find(|(known, _)| *known == version)?;
        Some(TwinProperties::parse(body))
    }

    pub(super) fn forget(&mut self, version: u64) {
        self.changes.retain(|(known, _)| *known != version);
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::DeviceId;

    use super::*;

    fn patch(version: u64, body: String) -> DesiredPatch {
        DesiredPatch::new(DeviceId::new("dev1").unwrap(), version, body)
    }

    #[test]
    fn of_many_changes_the_newest_are_remembered() {
        let mut changes = Unacknowledged::default();
        for version in 1..=20 {
            changes.remember(&patch(version, "{}".to_owned()));
        }
        assert!(changes.find(12).is_none() && changes.find(13).is_some());
        changes.remember(&patch(20, "{\"a\":1}".to_owned()));
        assert_eq!(changes.find(20).unwrap().unwrap().get("a"), Some("1"));
        assert!(changes.find(13).is_some(), "a change known is not one more");
        changes.forget(20);
        assert!(changes.find(20).is_none());
    }

    #[test]
    fn large_changes_are_remembered_up_to_a_bound() {
        let mut changes = Unacknowledged::default();
        let large = |version| patch(version, format!("{{\"a\":\"{}\"}}", "x".repeat(30_000)));
        for version in 1..=3 {
            changes.remember(&large(version));
        }
        assert!(changes.find(1).is_none() && changes.find(2).is_some());
        changes.remember(&patch(4, format!("\"{}\"", "x".repeat(MOST_BYTES))));
        assert!(changes.changes.is_empty());
    }
}
