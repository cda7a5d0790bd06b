//! Which devices' commands are fetched from the hub now.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_core::Presence;
use tokio::time::Instant;

use crate::event::DevEui;

/// When one that must stay is looked at again.
const AGAIN: Duration = Duration::from_millis(250);

/// A device that listens, or is about to: the hub may have commands for it before it has said yes.
#[derive(Debug)]
struct Seat {
    number: u64,
    until: Instant,
    /// When it is looked at: until it listens longer than that, the two are the same.
    look_at: Instant,
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
    /// When each is looked at.
    looks: BTreeSet<(Instant, DevEui)>,
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
            look_at: until,
            presence: None,
        };
        seats.by_device.insert(device, seat);
        seats.looks.insert((until, device));
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
            seats.remove(device);
        }
    }

    pub(super) fn contains(&self, device: DevEui) -> bool {
        self.lock().by_device.contains_key(&device)
    }

    /// Ends a device's listening; false if it did not listen.
    pub(super) fn end(&self, device: DevEui) -> bool {
        // Its end asks for other locks.
        let seat = self.lock().remove(device);
        seat.is_some()
    }

    /// Ends the listening of those whose time is up, but for those that must stay.
    pub(super) fn sweep(&self, now: Instant, stays: impl Fn(DevEui) -> bool) {
        let mut seats = self.lock();
        let over: Vec<_> = std::iter::from_fn(|| seats.next_over(now, &stays)).collect();
        drop(seats);
        drop(over);
    }

    pub(super) fn clear(&self) {
        let mut seats = self.lock();
        seats.looks.clear();
        let over = std::mem::take(&mut seats.by_device);
        drop(seats);
        drop(over);
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_device.len()
    }
}

impl Seats {
    fn remove(&mut self, device: DevEui) -> Option<Seat> {
        let seat = self.by_device.remove(&device)?;
        self.looks.remove(&(seat.look_at, device));
        Some(seat)
    }

    /// Takes out a seat whose time is up.
    fn next_over(&mut self, now: Instant, stays: impl Fn(DevEui) -> bool) -> Option<Seat> {
        loop {
            let (_, device) = *self.looks.first().filter(|(at, _)| *at <= now)?;
            self.looks.pop_first();
            let Some(seat) = self.by_device.get_mut(&device) else {
                continue;
            };
            seat.look_at = match seat.until <= now {
                true if !stays(device) => return self.by_device.remove(&device),
                true => now + AGAIN,
                false => seat.until,
            };
            self.looks.insert((seat.look_at, device));
        }
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
        listening.sweep(later + AGAIN, |_| false);
        assert!(!listening.contains(DEVICE));
        assert!(listening.lock().looks.is_empty());
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
