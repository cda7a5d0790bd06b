//! How sessions leave the table: evicted for room, or after their idle time to live.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::table::Sessions;
use super::{Session, SessionTable, lock};

/// Sessions that may stand above the capacity while others are being detached, and those that
/// evictions and a sweep each detach at a time.
pub(super) const DETACHING: usize = 64;
/// How far from the old end the table looks for a session that may go.
const EVICTION_SCAN: usize = 64;
/// Sweeps in one idle time to live: the precision with which it is kept.
pub(crate) const SWEEPS_PER_TTL: u32 = 8;

impl SessionTable {
    /// Starts to detach the session silent for longest among those that may go.
    pub(super) fn evict(self: &Arc<Self>, sessions: &mut Sessions, turn: OwnedSemaphorePermit) {
        for _ in 0..EVICTION_SCAN.min(sessions.len()) {
            let Some((_, session)) = sessions.peek_lru() else {
                return;
            };
            let session = session.clone();
            // Busy and online ones, and those on their way out, are not looked at again and again.
            sessions.promote(&session.device);
            let Some(retired) = self.retire(sessions, &session) else {
                continue;
            };
            self.counters.evicted.fetch_add(1, Relaxed);
            if let Retired::Leaving(leaving) = retired {
                let table = self.clone();
                self.spawn(async move {
                    table.detach(leaving).await;
                    drop(turn);
                });
            }
            return;
        }
    }

    /// Lets a session go, if it may: none if it may not, if it has gone, or if its gate is taken, as
    /// by an earlier call.
    fn retire(&self, sessions: &mut Sessions, session: &Arc<Session>) -> Option<Retired> {
        // The device may have come back, with a session that is not this one.
        let current = sessions.peek(&session.device)?;
        if !Arc::ptr_eq(current, session) || !session.may_go() {
            return None;
        }
        let leaving = Leaving::begin(session)?;
        if session.standing().is_held {
            return Some(Retired::Leaving(leaving));
        }
        sessions.pop(&session.device);
        Some(Retired::Gone)
    }

    /// Detaches a device and forgets it, unless somebody has come meanwhile, who then attaches it
    /// anew.
    async fn detach(&self, leaving: Leaving) {
        let session = &leaving.0;
        self.release(session).await;
        let mut sessions = lock(&self.sessions);
        if session.may_go() {
            sessions.pop(&session.device);
        }
    }

    /// Has the upstream forget a device; for whoever holds its gate.
    pub(super) async fn release(&self, session: &Session) {
        if let Err(error) = self.upstream.detach(&session.device).await {
            tracing::debug!(device.id = %session.device, error = %error, "Detach failed");
        }
        let mut standing = session.standing();
        standing.forget();
        standing.is_held = false;
    }

    /// Detaches what was silent for the idle time to live. Called [`SWEEPS_PER_TTL`] times in it.
    pub(crate) fn sweep(self: &Arc<Self>) {
        let old: Vec<_> = {
            let mut sessions = lock(&self.sessions);
            shrink(&mut sessions);
            // The first young one ends the walk, unless it stands at the old end by its conduct.
            let sessions = sessions.iter().rev().map(|(_, session)| session);
            sessions
                .take_while(|session| self.is_old(session) || session.is_stranger.load(Relaxed))
                .filter(|session| self.is_old(session) && session.may_go())
                .cloned()
                .collect()
        };
        // The old ones of a sweep that is not done yet are left to it.
        if !old.is_empty()
            && let Ok(turn) = self.expiry.clone().try_acquire_owned()
        {
            let table = self.clone();
            self.spawn(async move {
                table.expire(old).await;
                drop(turn);
            });
        }
    }

    fn is_old(&self, session: &Session) -> bool {
        let idle = self.now().saturating_sub(session.used.load(Relaxed));
        u128::from(idle) >= self.config.idle_ttl.as_millis()
    }

    /// Detaches sessions, some at a time, unless they are used meanwhile.
    async fn expire(self: Arc<Self>, old: Vec<Arc<Session>>) {
        let mut detaching = JoinSet::new();
        for session in old {
            let retired = {
                let mut sessions = lock(&self.sessions);
                match self.is_old(&session) {
                    true => self.retire(&mut sessions, &session),
                    false => None,
                }
            };
            let Some(retired) = retired else { continue };
            self.counters.expired.fetch_add(1, Relaxed);
            let Retired::Leaving(leaving) = retired else {
                continue;
            };
            if detaching.len() >= DETACHING {
                detaching.join_next().await;
            }
            let table = self.clone();
            detaching.spawn(async move { table.detach(leaving).await });
        }
        while detaching.join_next().await.is_some() {}
    }
}

/// What became of a session that may go.
enum Retired {
    /// The upstream cannot know the device.
    Gone,
    /// The device is to be detached.
    Leaving(Leaving),
}

/// Is a session that is on its way out. Its gate stays taken until the end: whoever comes meanwhile
/// waits.
#[derive(Debug)]
struct Leaving(Arc<Session>);

impl Leaving {
    fn begin(session: &Arc<Session>) -> Option<Self> {
        session.gate.try_acquire().ok()?.forget();
        Some(Self(session.clone()))
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.gate.add_permits(1);
    }
}

/// Gives back the room of a table that was much larger once.
fn shrink(sessions: &mut Sessions) {
    // `resize` does it, if the bound is another one; both are as good as none.
    let bound = NonZeroUsize::new(sessions.cap().get() ^ 1);
    sessions.resize(bound.unwrap_or(NonZeroUsize::MAX));
}
