//! A device's messages, one after the other.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::fleet::Fleet;

/// What happens next to the message in hand.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// It goes out when the fleet starts.
    Start,
    /// It goes out now.
    Now,
    /// It goes out at this time.
    At(Instant),
    /// It is out: its acknowledgement comes.
    Out,
    /// There is none left.
    Done,
}

#[derive(Debug)]
pub(super) struct Series {
    fleet: Arc<Fleet>,
    /// The sequence number of the message in hand.
    current: u32,
    turn: Turn,
    /// When the message in hand went out first.
    first_out: Option<Instant>,
    acked: Vec<u32>,
}

impl Series {
    pub(super) fn new(fleet: Arc<Fleet>) -> Self {
        Self {
            fleet,
            current: 1,
            turn: Turn::Start,
            first_out: None,
            acked: Vec::new(),
        }
    }

    /// The sequence number of the message in hand.
    pub(super) fn current(&self) -> u32 {
        self.current
    }

    pub(super) fn is_out(&self) -> bool {
        matches!(self.turn, Turn::Out)
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.turn, Turn::Done)
    }

    /// How many messages were acknowledged.
    pub(super) fn acked(&self) -> usize {
        self.acked.len()
    }

    /// The sequence numbers of acknowledged messages.
    pub(super) fn into_acked(self) -> Vec<u32> {
        self.acked
    }

    /// Waits until the message in hand is to go out; while it is out, for ever.
    pub(super) async fn due(&mut self) {
        if let Turn::Start = self.turn {
            self.fleet.go.cancelled().await;
            self.turn = self.paced();
        }
        match self.turn {
            Turn::Start | Turn::Now => {}
            Turn::At(due) => sleep_until(due).await,
            Turn::Out | Turn::Done => pending().await,
        }
    }

    /// Notes that the message in hand goes out.
    pub(super) fn goes_out(&mut self) {
        self.turn = Turn::Out;
        self.first_out.get_or_insert_with(|| {
            self.fleet.progress.sent.add();
            Instant::now()
        });
    }

    /// Notes that the hub has the message that is out.
    pub(super) fn acknowledge(&mut self) {
        let first_out = self.first_out.take().unwrap_or_else(Instant::now);
        self.acked.push(self.current);
        self.fleet.progress.acknowledge(first_out.elapsed());
        self.next();
    }

    /// Notes that the message that is out was refused for good.
    pub(super) fn refuse(&mut self) {
        self.first_out = None;
        self.fleet.progress.refuse();
        self.next();
    }

    /// Notes that the message that is out has to go out again later.
    pub(super) fn put_off(&mut self, after: Duration) {
        self.turn = Turn::At(Instant::now() + after);
    }

    fn next(&mut self) {
        if self.current == self.fleet.plan.messages {
            self.turn = Turn::Done;
        } else {
            self.current += 1;
            self.turn = self.paced();
        }
    }

    fn paced(&self) -> Turn {
        self.fleet.next_due().map_or(Turn::Now, Turn::At)
    }
}
