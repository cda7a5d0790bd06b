//! What a device's desired properties are, which changes of them it was given, and which it missed.
//! Pure.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::id::DeviceId;
use crate::message::DesiredPatch;

/// Reads `$version` of a JSON object of properties; none if it has none.
#[must_use]
pub fn version_of(properties: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Versioned {
        #[serde(rename = "$version")]
        version: u64,
    }
    let properties = serde_json::from_slice::<Versioned>(properties).ok()?;
    Some(properties.version)
}

/// Finds the desired properties in a twin's JSON, as they were written, with their version; none if
/// they are not there or have no version.
#[must_use]
pub fn desired_of(twin: &Bytes) -> Option<(u64, Bytes)> {
    #[derive(Deserialize)]
    struct Twin<'a> {
        #[serde(borrow)]
        desired: &'a RawValue,
    }
    let text = serde_json::from_slice::<Twin<'_>>(twin).ok()?.desired.get();
    let desired = twin.slice_ref(text.as_bytes());
    Some((version_of(&desired)?, desired))
}

/// Is a change of desired properties on its way to the device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DesiredChange {
    /// The version after it.
    pub version: u64,
    /// A JSON object.
    pub body: Bytes,
    /// Whether the body is all desired properties.
    pub is_whole: bool,
}

impl DesiredChange {
    /// Makes what the device is given of it.
    #[must_use]
    pub fn patch(&self, device: DeviceId) -> DesiredPatch {
        let patch = DesiredPatch::new(device, self.version, self.body.clone());
        match self.is_whole {
            true => patch.whole(),
            false => patch,
        }
    }
}

/// Passes changes of a device's desired properties on in the order of their versions, each once, for
/// an [`Upstream`](crate::Upstream) whose hub tells of changes and answers what there is.
///
/// Where a change is missing, all desired properties are to be fetched; they come in the place of what
/// was missed. Nothing is made up for a device that was given nothing yet: it reads its twin itself.
#[derive(Debug)]
pub struct DesiredChanges {
    /// The version of the newest change passed on, or read by the device itself; 0 if none is known.
    passed: u64,
    /// What the hub had when it was first asked, for a device to which nothing was passed on.
    base: u64,
    /// The newest version that the hub has told of.
    told: u64,
    /// Something may have been missed: until it is fetched, single changes are of no use.
    is_behind: bool,
    /// The device may lack a change that was passed on: what is fetched next is for it.
    owes_whole: bool,
    /// The version of the change taken out last.
    given: u64,
    waiting: VecDeque<DesiredChange>,
    /// Changes that may wait; what is beyond is fetched later.
    room: usize,
}

impl DesiredChanges {
    /// Begins anew with a device that has had changes up to `known`, 0 if none. So many changes may
    /// wait to be passed on; what is beyond is fetched later.
    #[must_use]
    pub fn new(known: u64, room: usize) -> Self {
        Self {
            passed: known,
            base: 0,
            told: 0,
            is_behind: false,
            owes_whole: false,
            given: 0,
            waiting: VecDeque::new(),
            room,
        }
    }

    /// Takes note that the hub tells of changes from now on, which it did not before.
    pub fn subscribed(&mut self) {
        self.is_behind = true;
        self.told = 0;
    }

    /// Takes note that the hub tells of nothing any more. What waits is dropped: all desired properties are for it when
    /// the hub tells again.
    pub fn unsubscribed(&mut self) {
        self.is_behind = false;
        if let Some(first) = self.waiting.front() {
            self.lacks(first.version);
        }
    }

    /// Takes note that the device may lack the change taken out last, as after
    /// [`Disposition::Abandon`](crate::Disposition::Abandon). What builds on it is dropped, and all
    /// desired properties are to be fetched, after a while; they are passed on whatever their version.
    pub fn missed(&mut self) {
        self.is_behind = true;
        self.lacks(self.given);
    }

    /// Goes back before a change: it and what builds on it are not passed on but by all properties at once.
    fn lacks(&mut self, version: u64) {
        self.owes_whole = true;
        self.waiting.clear();
        (self.passed, self.base) = (version.saturating_sub(1), 0);
    }

    /// Tells whether all desired properties are to be fetched.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Takes a change of which the hub tells. One without a version, 0, belongs nowhere: all desired properties are to be
    /// fetched in its place.
    pub fn take(&mut self, version: u64, body: Bytes) {
        if version == 0 {
            (self.is_behind, self.owes_whole) = (true, true);
        }
        self.told = self.told.max(version);
        // The last version of all has no next one.
        let before = version.saturating_sub(1);
        let is_next = match (self.passed, self.base) {
            _ if self.owes_whole => false,
            // Nothing can be missing yet.
            (0, 0) => true,
            (0, base) => before <= base,
            (passed, _) => before == passed && !self.is_behind,
        };
        if is_next && self.waiting.len() < self.room {
            self.passed = self.passed.max(version);
            self.waiting.push_back(DesiredChange {
                version,
                body,
                is_whole: false,
            });
        } else if version > self.passed {
            self.is_behind = true;
        }
    }

    /// Takes all desired properties, as they were fetched. False if they are older than what the hub has told of: they
    /// are to be fetched again.
    pub fn fetched(&mut self, version: u64, body: Bytes) -> bool {
        if version < self.told {
            return false;
        }
        self.is_behind = false;
        let owes_whole = mem::take(&mut self.owes_whole);
        if self.known() == 0 && !owes_whole {
            // A device that was given nothing asks for its twin itself.
            self.base = version;
        } else if self.known() != version || owes_whole {
            // A lower version is that of a twin that was made anew.
            self.passed = version;
            self.waiting.clear();
            self.waiting.push_back(DesiredChange {
                version,
                body,
                is_whole: true,
            });
        }
        true
    }

    /// Takes note that the device has read its twin itself. True if that brought news.
    pub fn read(&mut self, version: u64) -> bool {
        let is_newer = version > self.passed;
        if is_newer {
            self.passed = version;
            self.owes_whole = false;
            self.waiting.clear();
        }
        is_newer
    }

    /// Tells the version from which on the device is not to miss anything; 0 if none is known.
    #[must_use]
    pub fn known(&self) -> u64 {
        match self.passed {
            0 => self.base,
            passed => passed,
        }
    }

    /// Tells whether a change waits to be passed on.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes out the next change to pass on.
    pub fn pop(&mut self) -> Option<DesiredChange> {
        let change = self.waiting.pop_front()?;
        self.given = change.version;
        Some(change)
    }
}
