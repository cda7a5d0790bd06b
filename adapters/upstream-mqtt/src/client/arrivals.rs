//! Messages that came at least once: acknowledged in any order, told to the broker in the order in
//! which they came (MQTT 3.1.1 and 5, section 4.6).

use std::collections::VecDeque;

use bytes::BytesMut;

use super::codec::{self, Fault};

/// Names an arrival for as long as its connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Acknowledged,
    /// Never to be acknowledged; the broker sends it again on the next connection.
    Forgotten,
}

#[derive(Debug)]
pub(super) struct Arrivals {
    /// The number of the first in the ring.
    first: u64,
    ring: VecDeque<(u16, Fate)>,
    /// Not acknowledged: what counts against the broker's window.
    unacknowledged: usize,
    most: usize,
}

impl Arrivals {
    pub(super) fn new(most: u16) -> Self {
        Self {
            first: 0,
            ring: VecDeque::new(),
            unacknowledged: 0,
            most: most.max(1).into(),
        }
    }

    /// Takes in a message; none if it is here already, and this is the broker's second try.
    ///
    /// # Errors
    /// There are more than the broker may send.
    pub(super) fn arrive(&mut self, id: u16, duplicate: bool) -> Result<Option<Arrival>, Fault> {
        // Only versions before 5 send again while the connection lives.
        let is_here = |(other, fate): &(u16, Fate)| *other == id && *fate != Fate::Forgotten;
        if duplicate && self.ring.iter().any(is_here) {
            return Ok(None);
        }
        if self.unacknowledged >= self.most {
            let what = format!("more than {} messages wait for their verdict", self.most);
            return Err(Fault::with_code(0x93, what));
        }
        self.unacknowledged += 1;
        self.ring.push_back((id, Fate::Open));
        Ok(Some(Arrival(self.first + self.ring.len() as u64 - 1)))
    }

    /// Acknowledges one, once all before it have their verdict.
    pub(super) fn acknowledge(&mut self, arrival: Arrival, out: &mut BytesMut) {
        self.decide(arrival, Fate::Acknowledged, out);
    }

    /// Lets one go without acknowledgement. It keeps its place in the broker's window.
    pub(super) fn forget(&mut self, arrival: Arrival, out: &mut BytesMut) {
        self.decide(arrival, Fate::Forgotten, out);
    }

    fn decide(&mut self, arrival: Arrival, fate: Fate, out: &mut BytesMut) {
        let at = arrival.0.checked_sub(self.first);
        if let Some((_, open)) = at.and_then(|at| self.ring.get_mut(at as usize)) {
            *open = fate;
        }
        while let Some(&(id, fate)) = self.ring.front()
            && fate != Fate::Open
        {
            self.ring.pop_front();
            self.first += 1;
            if fate == Fate::Acknowledged {
                codec::puback(id, out);
                self.unacknowledged -= 1;
            }
        }
    }

    /// Tells whether the broker can send nothing more at least once, since all that it may have on
    /// its way was let go.
    pub(super) fn is_stuck(&self) -> bool {
        self.ring.is_empty() && self.unacknowledged >= self.most
    }
}
