//! Which changes of its desired properties a device was given.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Session, SessionTable};
use crate::message::DesiredPatch;

/// Is a change on its way to its device. Dropped before it arrived, it may come again.
#[derive(Debug)]
pub(crate) struct Passage {
    session: Option<Arc<Session>>,
    version: u64,
    before: u64,
}

impl SessionTable {
    /// Lets a change of the desired properties pass if it is newer than the last that did since the
    /// device came online, and all of them if they are another version. A hub that does not count
    /// says 0, which always passes.
    pub(crate) fn pass_desired(&self, patch: &DesiredPatch) -> Option<Passage> {
        let version = patch.version;
        let session = self.find(&patch.device);
        let before = match &session {
            Some(session) if patch.is_whole => session.desired.swap(version, Relaxed),
            Some(session) => session.desired.fetch_max(version, Relaxed),
            None => 0,
        };
        let is_new = version > before || (patch.is_whole && version != before);
        (version == 0 || is_new).then_some(Passage {
            session,
            version,
            before,
        })
    }
}

impl Passage {
    /// Notes that the device has it.
    pub(crate) fn arrived(mut self) {
        self.session = None;
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            let desired = &session.desired;
            let undone = desired.compare_exchange(self.version, self.before, Relaxed, Relaxed);
            // Who fails finds a newer one.
            undone.ok();
        }
    }
}
