//! Messages that came at least once: acknowledged in any order, told to the broker in the order in
//! which they came (MQTT 3.1.1 and 5, section 4.6) unless that is not wanted.

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
    /// The number of the next.
    next: u64,
    /// In order of arrival. Where order is not kept, only what has no verdict.
    ring: VecDeque<(u64, u16, Fate)>,
    /// Not acknowledged: what counts against the broker's window.
    unacknowledged: usize,
    most: usize,
    is_ordered: bool,
}

impl Arrivals {
    pub(super) fn new(most: u16, is_ordered: bool) -> Self {
        Self {
            next: 0,
            ring: VecDeque::new(),
            unacknowledged: 0,
            most: most.max(1).into(),
            is_ordered,
        }
    }

    /// Tells whether so many times as many wait for their verdict as may.
    pub(super) fn is_full(&self, times: usize) -> bool {
        self.ring.len() >= times * self.most
    }

    /// Takes in a message; none if it is here already, and this is the broker's second try.
    ///
    /// # Errors
    /// There are more than the broker may send, if it was `told` how many.
    pub(super) fn arrive(
        &mut self,
        id: u16,
        duplicate: bool,
        told: bool,
    ) -> Result<Option<Arrival>, Fault> {
        // Only versions before 5 send again while the connection lives.
        let is_here =
            |(_, other, fate): &(u64, u16, Fate)| *other == id && *fate != Fate::Forgotten;
        if duplicate && self.ring.iter().any(is_here) {
            return Ok(None);
        }
        if told && self.unacknowledged >= self.most {
            let what = format!("more than {} messages wait for their verdict", self.most);
            return Err(Fault::with_code(0x93, what));
        }
        self.unacknowledged += 1;
        let number = self.next;
        self.next += 1;
        self.ring.push_back((number, id, Fate::Open));
        Ok(Some(Arrival(number)))
    }

    /// Acknowledges one, where order is kept once all before it have their verdict.
    pub(super) fn acknowledge(&mut self, arrival: Arrival, out: &mut BytesMut) {
        self.decide(arrival, Fate::Acknowledged, out);
    }

    /// Lets one go without acknowledgement. It keeps its place in the broker's window.
    pub(super) fn forget(&mut self, arrival: Arrival, out: &mut BytesMut) {
        self.decide(arrival, Fate::Forgotten, out);
    }

    fn decide(&mut self, arrival: Arrival, fate: Fate, out: &mut BytesMut) {
        let at = self
            .ring
            .binary_search_by_key(&arrival.0, |(number, ..)| *number);
        let Ok(at) = at else { return };
        if !self.is_ordered {
            if let Some((_, id, _)) = self.ring.remove(at) {
                self.tell(id, fate, out);
            }
            return;
        }
        self.ring[at].2 = fate;
        while let Some(&(_, id, fate)) = self.ring.front()
            && fate != Fate::Open
        {
            self.ring.pop_front();
            self.tell(id, fate, out);
        }
    }

    fn tell(&mut self, id: u16, fate: Fate, out: &mut BytesMut) {
        if fate == Fate::Acknowledged {
            codec::puback(id, out);
            self.unacknowledged -= 1;
        }
    }

    /// Tells whether the broker can send nothing more at least once, since all that it may have on
    /// its way was let go.
    pub(super) fn is_stuck(&self) -> bool {
        self.ring.is_empty() && self.unacknowledged >= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(out: &mut BytesMut) -> Vec<u16> {
        let told = out
            .chunks(4)
            .map(|puback| u16::from_be_bytes([puback[2], puback[3]]));
        let told = told.collect();
        out.clear();
        told
    }

    #[test]
    fn without_order_none_waits_for_anothers_verdict() {
        for (is_ordered, first) in [(true, &[][..]), (false, &[2][..])] {
            let (mut arrivals, mut out) = (Arrivals::new(3, is_ordered), BytesMut::new());
            let slow = arrivals.arrive(1, false, true).unwrap().unwrap();
            let quick = arrivals.arrive(2, false, true).unwrap().unwrap();
            arrivals.acknowledge(quick, &mut out);
            assert_eq!(told(&mut out), first);
            arrivals.acknowledge(slow, &mut out);
            let rest: &[u16] = if is_ordered { &[1, 2] } else { &[1] };
            assert_eq!(told(&mut out), rest);
            assert!(arrivals.ring.is_empty() && arrivals.unacknowledged == 0);
        }
    }

    #[test]
    fn an_identifier_told_out_of_order_may_come_again() {
        let (mut arrivals, mut out) = (Arrivals::new(3, false), BytesMut::new());
        let slow = arrivals.arrive(1, false, true).unwrap().unwrap();
        let quick = arrivals.arrive(2, false, true).unwrap().unwrap();
        arrivals.acknowledge(quick, &mut out);
        let again = arrivals
            .arrive(2, true, true)
            .unwrap()
            .expect("another message");
        assert!(arrivals.arrive(1, true, true).unwrap().is_none());
        arrivals.acknowledge(again, &mut out);
        arrivals.forget(slow, &mut out);
        assert_eq!(told(&mut out), [2, 2]);
        assert_eq!(arrivals.unacknowledged, 1);
    }
}
