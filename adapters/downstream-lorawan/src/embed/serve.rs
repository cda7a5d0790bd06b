//! What goes on while the gateway runs.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::{Announcement, Ingress, MessageId, ServeContext, Settlement};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::events;
use super::shared::{Ended, Job, Later, Shared, Ticket};

/// How often it is looked who need not listen any more: short beside a window.
const SWEEP: Duration = Duration::from_millis(250);

/// How often a report is sent again that the hub does not take.
const REPORT_TRIES: usize = 10;

/// Serves until shutdown, then lets what is in flight settle.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut jobs: mpsc::Receiver<Job>,
    context: ServeContext,
) {
    let ServeContext {
        ingress, shutdown, ..
    } = context;
    // It serves once.
    drop(shared.ingress.set(ingress.clone()));
    let mut tasks = JoinSet::new();
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(job) = jobs.recv(), if tasks.len() < shared.config.max_tasks => {
                let (shared, ingress) = (shared.clone(), ingress.clone());
                tasks.spawn(async move { shared.work(job, &ingress).await });
            }
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(error = %error, "A task panicked; please report this");
                }
            }
            // What is reported later needs no ear.
            _ = sweeps.tick() => shared.listening.sweep(Instant::now(), |device| {
                matches!(shared.schedule().in_flight(device), Some(Ticket::Waiter(_)))
            }),
        }
    }
    shared.in_flight.close();
    shared.in_flight.wait().await;
    // The hub gives the commands that wait to whoever serves next.
    let ended = shared.schedule().clear_all();
    shared.perform(ended).await;
    tasks.shutdown().await;
    shared.listening.clear();
}

impl Shared {
    async fn work(&self, job: Job, ingress: &Ingress) {
        match job {
            Job::Listen {
                device,
                dev_eui,
                number,
            } => match ingress.online(Announcement::new(device.clone())).await {
                Ok(presence) => self.listening.settle(dev_eui, number, presence),
                Err(error) => {
                    tracing::debug!(device.id = %device, error = %error, "Device cannot listen");
                    self.listening.forget(dev_eui, number);
                }
            },
            Job::Report { later, ended } => report(ingress, later, ended).await,
            Job::Next(actions) => self.perform(actions).await,
        }
    }
}

/// Reports what became of a command whose method was answered before.
async fn report(ingress: &Ingress, later: Later, ended: Ended) {
    let Later {
        device,
        dev_eui,
        request,
        method,
    } = later;
    let mut command = json!({"method": method, "request": request});
    match ended {
        Ok(outcome) => command["outcome"] = outcome.as_str().into(),
        Err(failure) => {
            command["outcome"] = "failed".into();
            command["error"] = failure.to_string().into();
        }
    }
    let body = json!({"devEui": dev_eui, "command": command}).to_string();
    let message = events::json(device.clone(), MessageId::random(), body.into(), "command");
    for _ in 0..REPORT_TRIES {
        match ingress.reserve().await.deliver(message.clone()).await {
            Settlement::RetryLater(after) => sleep(after).await,
            _ => return,
        }
    }
    tracing::warn!(device.id = %device, lost = 1, "The result of a command was not reported");
}
