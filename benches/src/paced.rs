//! Messages that are due at a set rate, whatever became of those before them.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking};

use crate::process::machine_time;

/// The least that is slept until the next message is due: far below what is measured, far above
/// what a sleep costs.
const TICK: Duration = Duration::from_micros(100);

/// Latencies above this count as this, in nanoseconds: a minute.
const LONGEST: u64 = 60_000_000_000;

/// Makes a histogram of latencies in nanoseconds, to three digits.
///
/// # Errors
/// The bounds, which are constants, make none.
pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(LONGEST, 3)?)
}

/// What is due in a round.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Devices, which take turns.
    pub devices: usize,
    /// Messages a second, of all devices.
    pub per_second: f64,
    /// How long messages are due.
    pub lasts: Duration,
}

/// What came of a round.
#[derive(Debug)]
pub struct Round {
    /// From when a message was due to the hub's word on it, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Messages that were not accepted.
    pub refused: u64,
}

impl Round {
    fn note(&mut self, (took, is_accepted): (Duration, bool)) {
        self.latencies.saturating_record(took.as_nanos() as u64);
        self.refused += u64::from(!is_accepted);
    }
}

impl Load {
    /// Sends what is due. `send` is given the device and the number of a message, and says whether
    /// the hub has accepted it.
    ///
    /// # Errors
    /// A message's.
    pub async fn run<Sending>(
        self,
        send: impl Fn(usize, u64) -> Sending + Send + 'static,
    ) -> Result<Round>
    where
        Sending: Future<Output = Result<bool>> + Send + 'static,
    {
        let runtime = Handle::current();
        spawn_blocking(move || self.pace(send, &runtime)).await?
    }

    /// Does so from a thread that is not the runtime's: its timers are no finer than a millisecond,
    /// and would be late with the runtime.
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread of its own, which nothing else needs"
    )]
    fn pace<Sending>(self, send: impl Fn(usize, u64) -> Sending, runtime: &Handle) -> Result<Round>
    where
        Sending: Future<Output = Result<bool>> + Send + 'static,
    {
        let mut round = Round {
            latencies: histogram()?,
            refused: 0,
        };
        let mut sending = JoinSet::new();
        let start = machine_time();
        for number in 0..(self.per_second * self.lasts.as_secs_f64()) as u64 {
            let due = start + Duration::from_secs_f64(number as f64 / self.per_second);
            while let Some(early) = due.checked_sub(machine_time()).filter(|d| !d.is_zero()) {
                sleep(early.max(TICK));
            }
            let sent = send(number as usize % self.devices, number);
            let timed = async move {
                let is_accepted = sent.await?;
                anyhow::Ok((machine_time().saturating_sub(due), is_accepted))
            };
            sending.spawn_on(timed, runtime);
            while let Some(sent) = sending.try_join_next() {
                round.note(sent??);
            }
        }
        while let Some(sent) = runtime.block_on(sending.join_next()) {
            round.note(sent??);
        }
        Ok(round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Barrier};

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_message_that_a_stalled_runtime_held_up_counts_from_when_it_was_due() {
        let load = Load {
            devices: 2,
            per_second: 100.0,
            lasts: Duration::from_millis(200),
        };
        // The only worker stands still until the last message is due.
        let (stalled, is_stalled) = tokio::sync::oneshot::channel();
        let last_is_due = Arc::new(Barrier::new(2));
        let until = last_is_due.clone();
        let mut stall = JoinSet::new();
        stall.spawn(async move {
            stalled.send(()).unwrap();
            until.wait();
        });
        is_stalled.await.unwrap();
        let send = move |_, number| {
            if number == 19 {
                last_is_due.wait();
            }
            async { Ok(true) }
        };
        let round = load.run(send).await.unwrap();
        assert_eq!((round.latencies.len(), round.refused), (20, 0));
        let first = Duration::from_nanos(round.latencies.max());
        assert!(first >= Duration::from_millis(189), "{first:?}");
    }
}
