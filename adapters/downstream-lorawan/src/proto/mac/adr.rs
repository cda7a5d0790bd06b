//! Adaptive data rate: as fast and as quiet as a device's signal allows.
//!
//! The plain way that Semtech described for The Things Network and ChirpStack took up: of the last
//! 20 uplinks the best signal counts, 10 dB stay in hand, each 3 dB above that are a step.

use std::collections::VecDeque;

/// Uplinks that are looked back on.
const HISTORY: usize = 20;
/// Decibels that stay in hand, for fading and for what grows between.
const MARGIN: f32 = 10.0;
/// Decibels of a step.
const STEP: f32 = 3.0;

/// Is what is remembered of a session's signal.
#[derive(Debug, Default)]
pub(super) struct History {
    snr: VecDeque<f32>,
    data_rate: Option<u8>,
}

/// Is what a device shall use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) data_rate: u8,
    pub(super) power: u8,
}

impl History {
    /// Follows a device to a data rate, and tells whether it is another one than before; that begins
    /// anew, since it was chosen for a reason.
    pub(super) fn follow(&mut self, data_rate: u8) -> bool {
        let before = self.data_rate.replace(data_rate);
        let is_other = before.is_some_and(|before| before != data_rate);
        if is_other {
            self.clear();
        }
        is_other
    }

    /// Notes an uplink's signal.
    pub(super) fn note(&mut self, snr: f32) {
        if self.snr.len() == HISTORY {
            self.snr.pop_front();
        }
        self.snr.push_back(snr);
    }

    /// Forgets, so that the next proposal waits for a full history.
    pub(super) fn clear(&mut self) {
        self.snr.clear();
    }

    /// Returns what would be better, once there is a full history.
    pub(super) fn propose(
        &self,
        now: Setting,
        spreading_factor: u8,
        max_data_rate: u8,
        has_power: impl Fn(u8) -> bool,
    ) -> Option<Setting> {
        if self.snr.len() < HISTORY {
            return None;
        }
        let best = self.snr.iter().copied().fold(f32::MIN, f32::max);
        let mut steps = ((best - required_snr(spreading_factor) - MARGIN) / STEP).floor() as i32;
        let mut better = now;
        while steps > 0 && better.data_rate < max_data_rate {
            better.data_rate += 1;
            steps -= 1;
        }
        while steps > 0 && has_power(better.power + 1) {
            better.power += 1;
            steps -= 1;
        }
        while steps < 0 && better.power > 0 {
            better.power -= 1;
            steps += 1;
        }
        (better != now).then_some(better)
    }
}

/// Returns the signal above noise that a spreading factor needs, dB (SX1276 data sheet, table 13).
pub(super) fn required_snr(spreading_factor: u8) -> f32 {
    f32::from(spreading_factor.clamp(5, 12)) * -2.5 + 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(snr: f32, count: usize, now: Setting) -> Option<Setting> {
        let mut history = History::default();
        for _ in 0..count {
            history.note(snr);
        }
        // EU868: data rate 0 is SF12.
        history.propose(now, 12 - now.data_rate, 5, |power| power <= 7)
    }

    #[test]
    fn nothing_is_proposed_before_there_is_a_history() {
        let slow = Setting {
            data_rate: 0,
            power: 0,
        };
        assert_eq!(after(10.0, 19, slow), None);
        assert!(after(10.0, 20, slow).is_some());
    }

    #[test]
    fn a_good_signal_is_used_for_speed_and_then_for_silence() {
        let slow = Setting {
            data_rate: 0,
            power: 0,
        };
        // 10 - -20 - 10 = 20 dB: six steps, of which the data rate takes five.
        let better = Setting {
            data_rate: 5,
            power: 1,
        };
        assert_eq!(after(10.0, 20, slow), Some(better));
        let one = Setting {
            data_rate: 1,
            power: 0,
        };
        assert_eq!(after(-7.0, 20, slow), Some(one));
        assert_eq!(after(-8.0, 20, slow), None);
    }

    #[test]
    fn a_bad_signal_gets_its_power_back() {
        let quiet = Setting {
            data_rate: 5,
            power: 3,
        };
        let louder = Setting {
            data_rate: 5,
            power: 1,
        };
        assert_eq!(after(-2.5, 20, quiet), Some(louder));
    }

    #[test]
    fn another_data_rate_begins_the_history_anew() {
        let mut history = History::default();
        history.follow(0);
        for _ in 0..HISTORY {
            history.note(10.0);
        }
        history.follow(1);
        history.note(10.0);
        let now = Setting {
            data_rate: 1,
            power: 0,
        };
        assert_eq!(history.propose(now, 11, 5, |_| true), None);
    }
}
