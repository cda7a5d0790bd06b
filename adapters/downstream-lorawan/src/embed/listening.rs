//! Which devices' commands are fetched from the hub now.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway_core::Presence;
use tokio::time::Instant;

use crate::event::DevEui;

/// A device that listens, or is about to: the hub may have commands for it before it has said yes.
#[derive(Debug)]
struct Seat {
    number: u64,
    until: Instant,
    presence: Option<Presence>,
}

/// The devices that listen.
#[derive(Debug)]
pub(super) struct Listening {
    seats: Mutex<Seats>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Seats {
    by_device: HashMap<DevEui, Seat>,
    next_number: u64,
}

impl Listening {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            seats: Mutex::default(),
            capacity,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        // Whole between statements, whoever panicked.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a device listen until then, or longer if it does already. Gives a number if it has to be
    /// announced to the hub; nothing more happens if there is no room.
    pub(super) fn extend(&self, device: DevEui, until: Instant) -> Option<u64> {
        let mut seats = self.lock();
        if let Some(seat) = seats.by_device.get_mut(&device) {
            seat.until = seat.until.max(until);
            return None;
        }
        if seats.by_device.len() >= self.capacity {
            tracing::debug!(device.id = %device, "Too many devices listen for one more");
            return None;
        }
        let number = seats.next_number;
        seats.next_number += 1;
        let seat = Seat {
            number,
            until,
            presence: None,
        };
        seats.by_device.insert(device, seat);
        Some(number)
    }

    /// Notes that the hub agreed; the presence ends at once if nobody waits for it any more.
    pub(super) fn settle(&self, device: DevEui, number: u64, presence: Presence) {
        let mut seats = self.lock();
        match seats.by_device.get_mut(&device) {
            Some(seat) if seat.number == number => seat.presence = Some(presence),
            // Its end asks for other locks.
            _ => {
                drop(seats);
                drop(presence);
            }
        }
    }

    /// Notes that the hub did not agree.
    pub(super) fn forget(&self, device: DevEui, number: u64) {
        let mut seats = self.lock();
        let seat = seats.by_device.get(&device);
        if seat.is_some_and(|seat| seat.number == number) {
            seats.by_device.remove(&device);
        }
    }

    pub(super) fn contains(&self, device: DevEui) -> bool {
        self.lock().by_device.contains_key(&device)
    }

    /// Ends a device's listening; false if it did not listen.
    pub(super) fn end(&self, device: DevEui) -> bool {
        let seat = self.lock().by_device.remove(&device);
        seat.is_some()
    }

    /// Ends the listening of those whose time is up, but for those that must stay.
    pub(super) fn sweep(&self, now: Instant, stays: impl Fn(DevEui) -> bool) {
        let is_over = |device: &DevEui, seat: &mut Seat| seat.until <= now && !stays(*device);
        let mut seats = self.lock();
        let over: Vec<_> = seats.by_device.extract_if(is_over).collect();
        drop(seats);
        drop(over);
    }

    pub(super) fn clear(&self) {
        let seats = std::mem::take(&mut self.lock().by_device);
        drop(seats);
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_device.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEVICE: DevEui = DevEui::new([1; 8]);

    #[test]
    fn a_device_is_announced_once_and_listens_until_its_last_time_is_up() {
        let (listening, now) = (Listening::new(10), Instant::now());
        let (soon, later) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        assert_eq!(listening.extend(DEVICE, later), Some(0));
        assert_eq!(listening.extend(DEVICE, soon), None);
        listening.sweep(soon, |_| false);
        assert!(listening.contains(DEVICE));
        listening.sweep(later, |_| true);
        assert!(listening.contains(DEVICE));
        listening.sweep(later, |_| false);
        assert!(!listening.contains(DEVICE));
    }

    #[test]
    fn a_refusal_of_an_earlier_announcement_ends_nothing() {
        let (listening, now) = (Listening::new(10), Instant::now());
        let first = listening.extend(DEVICE, now).unwrap();
        assert!(listening.end(DEVICE));
        let second = listening.extend(DEVICE, now).unwrap();
        listening.forget(DEVICE, first);
        assert!(listening.contains(DEVICE));
        listening.forget(DEVICE, second);
        assert!(!listening.contains(DEVICE));
    }

    #[test]
    fn no_more_devices_listen_than_there_is_room_for() {
        let (listening, now) = (Listening::new(1), Instant::now());
        assert!(listening.extend(DEVICE, now).is_some());
        assert!(listening.extend(DevEui::new([2; 8]), now).is_none());
        assert!(!listening.contains(DevEui::new([2; 8])));
    }
}
