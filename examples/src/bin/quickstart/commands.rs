//! The back end: sends cloud-to-device messages and calls methods while the fleet is at work.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::Backoff;
use hub_simulator::{C2d, C2dOutcome, HubSimulator, MethodError};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::args::Downstream;
use crate::plan::{Plan, device_id};
use crate::progress::Progress;

/// Commands on their way at a time.
const UNDER_WAY: usize = 64;
/// How long a device may take to answer a method, and one that hears only after it spoke.
const METHOD_PATIENCE: Duration = Duration::from_secs(10);
const SLEEPER_PATIENCE: Duration = Duration::from_secs(20);

/// Sends every command at its moment and waits until each has its answer, or has none.
pub(crate) async fn send_all(
    plan: &Plan,
    hub: &Arc<HubSimulator>,
    progress: &Arc<Progress>,
) -> anyhow::Result<()> {
    let sleeps = plan.downstream == Downstream::Lorawan;
    let mut under_way = JoinSet::new();
    for nth in 0..plan.commands {
        progress.settled(plan.moment(nth)).await;
        if under_way.len() >= UNDER_WAY
            && let Some(ended) = under_way.join_next().await
        {
            ended?;
        }
        let command = Command {
            nth,
            device: device_id(plan.target(nth)),
            is_called_again: plan.cut || sleeps,
            patience: match sleeps {
                true => SLEEPER_PATIENCE,
                false => METHOD_PATIENCE,
            },
            hub: hub.clone(),
            progress: progress.clone(),
        };
        under_way.spawn(command.carry_out());
    }
    while let Some(ended) = under_way.join_next().await {
        ended?;
    }
    Ok(())
}

/// Is a message and a method for one device.
struct Command {
    nth: u32,
    device: String,
    /// Whether a method without an answer is called again, as back ends do: it may have been on
    /// its way when the connections were cut, or its device has not heard it in time.
    is_called_again: bool,
    patience: Duration,
    hub: Arc<HubSimulator>,
    progress: Arc<Progress>,
}

impl Command {
    async fn carry_out(self) {
        tokio::join!(self.message(), self.method());
    }

    async fn message(&self) {
        let message = C2d::new(r#"{"interval":"10s"}"#)
            .with_message_id(format!("command-{}", self.nth))
            .with_content_type("application/json");
        self.progress.c2d_sent.add();
        match self.hub.send_c2d(&self.device, message) {
            Ok(ticket) => match ticket.outcome().await {
                C2dOutcome::Completed => self.progress.c2d_completed.add(),
                outcome => self.complain(format!("a message ended as {outcome:?}")),
            },
            Err(error) => self.complain(format!("a message was not taken: {error}")),
        }
    }

    async fn method(&self) {
        self.progress.methods_called.add();
        let backoff = Backoff::default();
        for failures in 0.. {
            match self.call().await {
                Ok(()) => return self.progress.methods_answered.add(),
                Err(complaint) => self.complain(complaint),
            }
            if !self.is_called_again {
                return;
            }
            sleep(backoff.delay(failures)).await;
        }
    }

    async fn call(&self) -> Result<(), String> {
        self.hub.wait_methods(&self.device).await;
        let call = self
            .hub
            .call_method(&self.device, "blink", r#"{"times":3}"#, self.patience);
        match call.await {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!("a method was answered with {}", answer.status)),
            Err(MethodError::DeviceNotOnline) => Err("a method found nobody".to_owned()),
            Err(error) => Err(format!("a method got no answer: {error}")),
        }
    }

    fn complain(&self, complaint: String) {
        self.progress
            .complain(format!("{}: {complaint}", self.device));
    }
}
