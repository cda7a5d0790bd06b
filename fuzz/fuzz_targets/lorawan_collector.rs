//! What several concentrators hear of one frame: it is handed out once, when its time has come, with
//! whom it was heard by until then, and no more frames are held than may be.
//!
//! The input is steps of three bytes: how much time passes and which frame it is, who hears it, how well.
#![no_main]

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use gateway_downstream_lorawan::proto::mac::{Collected, Collector, CopyKind};
use gateway_downstream_lorawan::proto::{ConcentratorClock, Eui64, Reception};
use libfuzzer_sys::fuzz_target;

const BOUND: usize = 5;
const HOLD: Duration = Duration::from_millis(200);
/// How long a frame is known for another, from its first copy on.
const KNOWN: Duration = Duration::from_millis(1700);
/// Concentrators that are told of one frame.
const MAX_HEARD_BY: usize = 32;

struct World {
    collector: Collector,
    now: Duration,
    /// Frames that wait: until when, and who heard them how well.
    waiting: HashMap<Bytes, (Duration, Vec<Reception>)>,
    /// Frames that were handed out, in that order, and until when they are known.
    known: VecDeque<(Duration, Bytes)>,
}

impl World {
    fn hear(&mut self, frame: Bytes, gateway: u8, snr: u8) {
        self.known.retain(|(until, _)| *until > self.now);
        let clock = ConcentratorClock::Forwarder(u32::from(gateway));
        let reception = Reception::new(Eui64::new(gateway.into()), 868_100_000, 0, clock)
            .with_signal(-60.0, f32::from(snr.cast_signed()));
        let (waiting, all) = (self.waiting.len(), self.waiting.len() + self.known.len());
        let expected = match self.waiting.get_mut(&frame) {
            Some((_, heard_by)) => {
                heard_by.push(reception.clone());
                CopyKind::Another
            }
            None if self.known.iter().any(|(_, known)| *known == frame) => CopyKind::Late,
            None if waiting == BOUND => CopyKind::Overflow,
            None => {
                if all == BOUND {
                    self.known.pop_front();
                }
                let heard_by = vec![reception.clone()];
                self.waiting.insert(frame.clone(), (self.now + HOLD, heard_by));
                CopyKind::First
            }
        };
        assert_eq!(self.collector.hear(self.now, frame, reception), expected);
    }

    fn look(&mut self) {
        while let Some(collected) = self.collector.next(self.now) {
            let waited = self.waiting.remove(&collected.frame);
            let (due, heard_by) = waited.expect("it is handed out once");
            assert!(due <= self.now);
            check(&collected, &heard_by);
            self.known.push_back((due + KNOWN - HOLD, collected.frame));
        }
        let next = self.waiting.values().map(|(due, _)| *due).min();
        assert_eq!(self.collector.next_at(), next);
        assert!(next.is_none_or(|due| due > self.now));
    }
}

/// It has each concentrator once, and the best of all in front.
fn check(collected: &Collected, heard_by: &[Reception]) {
    let all: HashSet<_> = heard_by.iter().map(|reception| reception.gateway).collect();
    let told = std::iter::once(&collected.best).chain(&collected.others);
    let told: Vec<_> = told.collect();
    let different: HashSet<_> = told.iter().map(|reception| reception.gateway).collect();
    assert_eq!(different.len(), told.len());
    assert_eq!(collected.gateways(), all.len().min(MAX_HEARD_BY));
    assert!(told.iter().all(|told| heard_by.contains(told)));
    assert!(heard_by.iter().all(|reception| reception.snr <= collected.best.snr));
}

fuzz_target!(|input: &[u8]| {
    let mut world = World {
        collector: Collector::new(HOLD, KNOWN, BOUND),
        now: Duration::from_secs(1),
        waiting: HashMap::new(),
        known: VecDeque::new(),
    };
    for [what, gateway, snr] in input.as_chunks().0 {
        world.now += Duration::from_millis(u64::from(what >> 3) * 25);
        world.look();
        world.hear(vec![what & 7].into(), *gateway, *snr);
    }
    world.now += HOLD;
    world.look();
    assert!(world.waiting.is_empty());
});
