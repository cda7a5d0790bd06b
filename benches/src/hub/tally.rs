//! The books on many messages: a bit for each, so that none is lost and none counted twice unseen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hub_simulator::{Accepted, Record};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::interval;

/// How often the hub's record is entered, so that it stays short.
const ENTRY: Duration = Duration::from_millis(100);
/// Messages a device at most: what is above is no number of ours.
const MOST: usize = 1 << 30;

/// What the books say of messages whose ids are the numbers 0, 1, 2, .. for each device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Different messages.
    pub different: u64,
    /// Messages that had come before.
    pub duplicates: u64,
    /// Messages whose id is no number.
    pub strange: u64,
}

/// Enters what a hub accepts into the books.
#[derive(Debug)]
pub(super) struct Tally {
    record: Record,
    ledger: Arc<Mutex<Ledger>>,
    _entering: JoinSet<()>,
}

impl Tally {
    pub(super) fn start(record: Record) -> Self {
        let ledger = Arc::default();
        let mut entering = JoinSet::new();
        let (own_record, own_ledger) = (record.clone(), Arc::clone(&ledger));
        entering.spawn(async move {
            let mut entries = interval(ENTRY);
            loop {
                entries.tick().await;
                enter(&own_record, &own_ledger);
            }
        });
        Self {
            record,
            ledger,
            _entering: entering,
        }
    }

    /// Enters what is left and says what the books say.
    pub(super) fn close_the_books(&self) -> Books {
        enter(&self.record, &self.ledger)
    }
}

fn enter(record: &Record, ledger: &Mutex<Ledger>) -> Books {
    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    // Taken under the lock: nothing is between the record and the books when both are looked at.
    for message in record.take() {
        ledger.enter(message);
    }
    ledger.books
}

#[derive(Debug, Default)]
struct Ledger {
    books: Books,
    seen: HashMap<String, Vec<u64>>,
}

impl Ledger {
    fn enter(&mut self, message: Accepted) {
        let number = message.message_id.and_then(|id| id.parse().ok());
        self.count(message.device_id, number);
    }

    fn count(&mut self, device: String, number: Option<usize>) {
        let Some(number) = number.filter(|number| *number < MOST) else {
            self.books.strange += 1;
            return;
        };
        let seen = self.seen.entry(device).or_default();
        let (word, bit) = (number / 64, 1 << (number % 64));
        if seen.len() <= word {
            seen.resize(word + 1, 0);
        }
        match seen[word] & bit {
            0 => self.books.different += 1,
            _ => self.books.duplicates += 1,
        }
        seen[word] |= bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_once_and_a_second_time_as_a_duplicate() {
        let mut ledger = Ledger::default();
        for (device, number) in [("a", 0), ("a", 64), ("b", 0), ("a", 64), ("a", 65)] {
            ledger.count(device.to_owned(), Some(number));
        }
        ledger.count("a".to_owned(), None);
        let books = Books {
            different: 4,
            duplicates: 1,
            strange: 1,
        };
        assert_eq!(ledger.books, books);
    }
}
