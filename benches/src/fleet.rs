//! Devices in a thread of their own, whose CPU is not the server's.

use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};

use crate::process::{join, named};

/// Is the thread of a program's devices, which do a round when they are told to.
#[derive(Debug)]
pub struct Fleet<Order, Outcome> {
    orders: mpsc::Sender<(Order, oneshot::Sender<Outcome>)>,
    thread: JoinHandle<Result<()>>,
}

impl<Order: Send + 'static, Outcome: Send + 'static> Fleet<Order, Outcome> {
    /// Starts the thread, brings up the devices there and returns once they are up. `drive` has
    /// them do one round.
    ///
    /// # Errors
    /// The devices', while they come up.
    pub fn start<Devices>(
        bring_up: impl AsyncFnOnce() -> Result<Devices> + Send + 'static,
        drive: impl AsyncFn(Devices, Order) -> Result<(Devices, Outcome)> + Send + 'static,
    ) -> Result<Self> {
        let (orders, mut ordered) = mpsc::channel::<(Order, oneshot::Sender<Outcome>)>(1);
        let (ready, is_ready) = oneshot::channel();
        let thread = named("devices", move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut devices = bring_up().await?;
                ready.send(()).ok().context("nobody waits")?;
                while let Some((order, answer)) = ordered.recv().await {
                    let outcome;
                    (devices, outcome) = drive(devices, order).await?;
                    answer.send(outcome).ok().context("nobody waits")?;
                }
                Ok(())
            })
        })?;
        match is_ready.blocking_recv() {
            Ok(()) => Ok(Self { orders, thread }),
            Err(_) => Err(join(thread).err().context("it ended without a word")?),
        }
    }

    /// Has the devices do a round, and tells what came of it.
    ///
    /// # Errors
    /// A device gave up; [`stop`](Self::stop) tells why.
    pub fn drive(&mut self, order: Order) -> Result<Outcome> {
        let (answer, outcome) = oneshot::channel();
        let ordered = self.orders.blocking_send((order, answer));
        ordered.ok().context("the devices are gone")?;
        outcome.blocking_recv().context("the devices gave up")
    }

    /// Ends the devices.
    ///
    /// # Errors
    /// What they failed at.
    pub fn stop(self) -> Result<()> {
        drop(self.orders);
        join(self.thread)
    }
}
