//! PUBACKs on their way out, in the order of the publications they answer.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::faults::Settling;

/// Acknowledgements that wait, for a script or a throttle.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    waiting: VecDeque<(u16, Leave)>,
}

/// When an acknowledgement may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    At(Instant),
    /// When the script releases it.
    Held,
}

impl Acks {
    /// Enters the acknowledgement of a packet.
    pub(crate) fn push(&mut self, id: u16, settling: Settling, now: Instant) {
        let leave = match settling {
            Settling::Now => Leave::At(now),
            Settling::After(delay) => Leave::At(now + delay),
            Settling::Hold => Leave::Held,
            Settling::Drop => return,
        };
        self.waiting.push_back((id, leave));
    }

    /// Takes out the next one if it may go; the order is kept (MQTT 3.1.1 section 4.6).
    pub(crate) fn pop(&mut self, now: Instant) -> Option<u16> {
        let (id, leave) = *self.waiting.front()?;
        let may_go = matches!(leave, Leave::At(at) if at <= now);
        may_go.then(|| self.waiting.pop_front())?;
        Some(id)
    }

    /// Lets go of everything that is held.
    pub(crate) fn release(&mut self, now: Instant) {
        for (_, leave) in &mut self.waiting {
            if *leave == Leave::Held {
                *leave = Leave::At(now);
            }
        }
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self.waiting.front()?.1 {
            Leave::At(at) => Some(at),
            Leave::Held => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn acknowledgements_leave_in_order_however_long_each_may_wait() {
        let now = Instant::now();
        let mut acks = Acks::default();
        acks.push(1, Settling::After(Duration::from_secs(2)), now);
        acks.push(2, Settling::Now, now);
        acks.push(3, Settling::Drop, now);
        acks.push(4, Settling::Hold, now);
        assert_eq!(acks.pop(now), None);
        let later = now + Duration::from_secs(2);
        assert_eq!(acks.next_due(), Some(later));
        assert_eq!((acks.pop(later), acks.pop(later)), (Some(1), Some(2)));
        assert_eq!((acks.pop(later), acks.next_due()), (None, None));
        acks.release(later);
        assert_eq!((acks.pop(later), acks.len()), (Some(4), 0));
    }
}
