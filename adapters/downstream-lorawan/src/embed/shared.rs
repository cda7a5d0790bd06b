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
use crate::event::{DevEui, DownlinkFailed, DownlinkId};
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
    /// Give the network server what goes next, when it was told of the downlink that nobody waits
    /// for any more, if it may still send that.
    Next {
        dev_eui: DevEui,
        downlink: Option<DownlinkId>,
        actions: Actions<Ticket>,
    },
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
            if !self.start(job) {
                self.listening.forget(dev_eui, number);
            }
        }
    }

    /// Leaves something to `serve`; false if that has too much to do, or has ended.
    pub(super) fn start(&self, job: Job) -> bool {
        let refused = self.jobs.try_send(job);
        if refused.is_err() {
            tracing::warn!(lost = 1, "Too much waits for the hub; a task was dropped");
        }
        refused.is_ok()
    }

    /// Does what the schedule says, until it has nothing more to say.
    pub(super) async fn perform(&self, mut actions: Actions<Ticket>) {
        loop {
            for (ticket, ended) in actions.ended {
                self.tell(ticket, ended);
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

    fn tell(&self, ticket: Ticket, ended: Ended) {
        match ticket {
            // Whoever waited may have given up.
            Ticket::Waiter(waiter) => drop(waiter.send(ended)),
            Ticket::Later(later) => {
                self.start(Job::Report { later, ended });
            }
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
        let (dev_eui, downlink) = (self.dev_eui, self.downlink.clone());
        let now = Instant::now();
        let withdrawn = self.shared.schedule().withdraw(dev_eui, &downlink, now);
        let (downlink, actions) = match withdrawn {
            Withdrawn::InFlight(actions) => (Some(downlink), actions),
            Withdrawn::Transmitted(actions) => (None, actions),
            Withdrawn::Ended | Withdrawn::Waiting => return,
        };
        self.shared.start(Job::Next {
            dev_eui,
            downlink,
            actions,
        });
    }
}
