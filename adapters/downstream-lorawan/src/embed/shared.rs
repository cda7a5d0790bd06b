//! What the parts of the downstream share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_core::{CorrelationId, DeviceId, Ingress, MethodName};
use tokio::sync::{SetOnce, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::config::{ListenPolicy, LorawanConfig};
use super::directory::{Device, Directory};
use super::listening::Listening;
use super::network::NetworkServer;
use crate::event::{DevEui, DownlinkFailed, DownlinkId, FailureReason};
use crate::schedule::{Actions, Class, Command, Failure, Outcome, Schedule, Withdrawn};

/// How a command ended.
pub(super) type Ended = Result<Outcome, Failure>;

/// Who is told how a command ended.
#[derive(Debug)]
pub(super) enum Ticket {
    /// Somebody waits.
    Waiter(oneshot::Sender<Ended>),
    /// The caller has had an answer; the device reports the rest.
    Later(Later),
}

/// A method that was answered before its command was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Later {
    pub(super) device: DeviceId,
    pub(super) dev_eui: DevEui,
    pub(super) request: CorrelationId,
    pub(super) method: MethodName,
}

/// What `serve` does for those who do not wait for it.
#[derive(Debug)]
pub(super) enum Job {
    /// Announce a device to the hub.
    Listen {
        device: DeviceId,
        dev_eui: DevEui,
        number: u64,
    },
    /// Report how a command ended.
    Report { later: Later, ended: Ended },
    /// Do what the schedule says.
    Next(Actions<Ticket>),
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: LorawanConfig,
    pub(super) directory: Box<dyn Directory>,
    pub(super) network: Box<dyn NetworkServer>,
    pub(super) listening: Listening,
    /// The door inward, once the gateway runs.
    pub(super) ingress: SetOnce<Ingress>,
    pub(super) jobs: mpsc::Sender<Job>,
    /// Events that are being handled.
    pub(super) in_flight: TaskTracker,
    schedule: Mutex<Schedule<Ticket>>,
}

impl Shared {
    pub(super) fn new(
        config: LorawanConfig,
        directory: Box<dyn Directory>,
        network: Box<dyn NetworkServer>,
        jobs: mpsc::Sender<Job>,
    ) -> Self {
        Self {
            listening: Listening::new(config.max_devices.get()),
            schedule: Mutex::new(Schedule::new(
                config.max_devices,
                config.max_queued_per_device,
            )),
            ingress: SetOnce::new(),
            in_flight: TaskTracker::new(),
            config,
            directory,
            network,
            jobs,
        }
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule<Ticket>> {
        // Whole between statements, whoever panicked.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a device that showed itself listen, as its profile has it.
    pub(super) fn listen(&self, device: &Device, dev_eui: DevEui, window: Option<Instant>) {
        let until = match device.profile.config.listens() {
            ListenPolicy::Always => Some(Instant::now() + self.config.idle_timeout),
            ListenPolicy::Window => window,
        };
        let number = until.and_then(|until| self.listening.extend(dev_eui, until));
        if let Some(number) = number {
            let device = device.id.clone();
            let job = Job::Listen {
                device,
                dev_eui,
                number,
            };
            if self.start(job).is_some() {
                self.listening.forget(dev_eui, number);
            }
        }
    }

    /// Leaves something to `serve`; gives it back if that has too much to do, or has ended.
    pub(super) fn start(&self, job: Job) -> Option<Job> {
        let refused = self.jobs.try_send(job).err()?;
        tracing::warn!(lost = 1, "Too much waits for the hub; a task was dropped");
        Some(refused.into_inner())
    }

    /// Does what the schedule says, until it has nothing more to say.
    pub(super) async fn perform(&self, mut actions: Actions<Ticket>) {
        loop {
            for (ticket, ended) in actions.ended {
                self.tell(ticket, ended);
            }
            if let Some((dev_eui, downlink)) = actions.withdraw {
                self.withdraw(dev_eui, &downlink).await;
            }
            let Some(downlink) = actions.send else { return };
            let (dev_eui, id) = (downlink.dev_eui, downlink.id.clone());
            let taken = timeout(self.config.handover_timeout, self.network.send(downlink)).await;
            let reason = match taken {
                Ok(Ok(())) => return,
                Ok(Err(reason)) => reason,
                Err(_) => {
                    // It may well have it: what it tells of it decides, or its time is up.
                    tracing::debug!(device.id = %dev_eui, "Network server is slow to take a downlink");
                    return;
                }
            };
            tracing::debug!(device.id = %dev_eui, ?reason, "Network server took no downlink");
            let failed = DownlinkFailed::new(dev_eui, id, reason);
            actions = self.schedule().failed(&failed, Instant::now());
        }
    }

    /// Has the network server drop a downlink; what comes after it does not wait for ever.
    async fn withdraw(&self, dev_eui: DevEui, downlink: &DownlinkId) {
        let withdrawn = self.network.withdraw(dev_eui, downlink);
        if timeout(self.config.handover_timeout, withdrawn)
            .await
            .is_err()
        {
            tracing::debug!(device.id = %dev_eui, %downlink, "Network server is slow to drop a downlink");
        }
    }

    /// Does what the schedule says where nothing can be sent now: it takes back what it would send,
    /// which is in flight otherwise, and nobody has it.
    fn give_up(&self, mut actions: Actions<Ticket>) {
        loop {
            for (ticket, ended) in actions.ended {
                self.tell(ticket, ended);
            }
            let Some(downlink) = actions.send else { return };
            let failed = DownlinkFailed::new(downlink.dev_eui, downlink.id, FailureReason::Busy);
            actions = self.schedule().failed(&failed, Instant::now());
        }
    }

    fn tell(&self, ticket: Ticket, ended: Ended) {
        match ticket {
            // Whoever waited may have given up.
            Ticket::Waiter(waiter) => drop(waiter.send(ended)),
            Ticket::Later(later) => drop(self.start(Job::Report { later, ended })),
        }
    }

    /// Sends a command, and waits for what completes it.
    ///
    /// # Cancel safety
    /// Safe: the command is withdrawn.
    pub(super) async fn run(self: &Arc<Self>, command: Command, class: Class) -> Ended {
        let (waiter, ended) = oneshot::channel();
        let _withdrawal = Withdrawal {
            shared: self,
            dev_eui: command.dev_eui,
            downlink: command.id.clone(),
        };
        let ticket = Ticket::Waiter(waiter);
        let actions = self.schedule().push(command, ticket, class, Instant::now());
        self.perform(actions).await;
        ended.await.unwrap_or(Err(Failure::Flushed))
    }
}

/// Takes a command back when nobody waits for it any more; without effect on one that has ended.
struct Withdrawal<'a> {
    shared: &'a Shared,
    dev_eui: DevEui,
    downlink: DownlinkId,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        let mut schedule = self.shared.schedule();
        let withdrawn = schedule.withdraw(self.dev_eui, &self.downlink, Instant::now());
        drop(schedule);
        let actions = match withdrawn {
            Withdrawn::InFlight(actions) | Withdrawn::Transmitted(actions) => actions,
            Withdrawn::Ended | Withdrawn::Waiting => return,
        };
        if let Some(Job::Next(actions)) = self.shared.start(Job::Next(actions)) {
            self.shared.give_up(actions);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::directory::EuiDirectory;
    use super::super::network;
    use super::*;

    const DEV_EUI: DevEui = DevEui::new([1; 8]);

    #[tokio::test(start_paused = true)]
    async fn a_command_that_nobody_has_room_to_send_after_a_withdrawal_is_given_back() {
        // Its jobs are for nobody, and there is room for none.
        let (sender, _jobs) = mpsc::channel(1);
        let (network, mut orders) = network::stream(8);
        let directory = Box::new(EuiDirectory::default());
        let config = LorawanConfig::default();
        let shared = Arc::new(Shared::new(config, directory, Box::new(network), sender));
        assert!(shared.start(Job::Next(Actions::new())).is_none());
        let run = || {
            let expires = Instant::now() + std::time::Duration::from_secs(60);
            let command = Command::new(DEV_EUI, 1, "on", expires);
            Box::pin(async { shared.run(command, Class::C).await })
        };
        let (mut first, mut second, mut third) = (run(), run(), run());
        for command in [&mut first, &mut second, &mut third] {
            assert!(command.now_or_never().is_none());
        }
        drop(first);
        let busy = Some(Err(Failure::Network(FailureReason::Busy)));
        assert_eq!(
            [second, third].map(|command| command.now_or_never()),
            [busy; 2]
        );
        assert_eq!(shared.schedule().pending(DEV_EUI), 0);
        assert!(orders.next().await.is_some(), "the first was sent");
        assert!(orders.next().now_or_never().is_none(), "nothing else was");
    }
}
