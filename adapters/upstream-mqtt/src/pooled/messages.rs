//! Messages to devices (C2D).
//!
//! MQTT has no word for "not now" and none for "never": a message is acknowledged or it is not, and
//! one that is not comes again only after the connection is lost. So it is kept here instead,
//! unacknowledged, and tried again, and what is refused in the end is acknowledged and told to
//! whoever reads the dead letters.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::BoxFuture;
use gateway_core::{CloudMessage, Disposition};
use tokio::time::{Instant, sleep};

use super::config::MqttSubscriptions;
use super::convert;
use super::inbound::Command;
use super::pool::Pool;
use super::queues::{Admission, Order};
use super::suspicion::Chore;
use super::template::{Template, Values};
use super::topics::Kind;
use super::verdict::verdict;

pub(super) fn take(pool: &Arc<Pool>, command: Command) {
    let device = command.device.clone();
    let commands = &pool.config.commands;
    let (patience, place) = match pool.awaiting(&device) {
        None => (commands.patience, None),
        Some(line) => match line.place_to_wait() {
            None => {
                return give_up(
                    pool,
                    command,
                    "too much waits for devices that are not back",
                );
            }
            place => (commands.keep, place),
        },
    };
    let (arrived, pool_too) = (Instant::now(), pool.clone());
    let job = move |admission| match admission {
        Admission::Admitted => {
            let work: BoxFuture<'static, ()> = Box::pin(async move {
                let _place = place;
                let lost = command.lost.clone();
                tokio::select! {
                    biased;
                    // Not acknowledged: the broker gives it again.
                    () = lost.cancelled() => {}
                    () = deliver(pool_too, command, arrived) => {}
                }
            });
            Some(work)
        }
        Admission::Refused => {
            give_up(&pool_too, command, "too many commands wait for the device");
            None
        }
    };
    pool.enqueue(&device, Order::Alongside, patience, Box::new(job));
}

/// Delivers a message until it is settled, or its time is over.
async fn deliver(pool: Arc<Pool>, command: Command, arrived: Instant) {
    let commands = &pool.config.commands;
    let keep = command
        .inward
        .expires_in
        .map_or(commands.keep, |left| left.min(commands.keep));
    let until = arrived + keep;
    // The broker does not say how often it has given a message before.
    let mut deliveries = u32::from(command.duplicate);
    for failures in 0.. {
        let verdict = match pool.listener(&command.device, |interest| interest.messages) {
            None => Disposition::Abandon,
            Some(callback) => {
                let deadline = until.min(Instant::now() + commands.verdict_timeout);
                let message = message(&command, deadline, deliveries);
                deliveries = deliveries.saturating_add(1);
                let given = verdict(&command.device, deadline, callback.on_message(message)).await;
                given.unwrap_or_else(|silence| {
                    pool.count(silence);
                    Disposition::Abandon
                })
            }
        };
        match verdict {
            Disposition::Complete => return command.receipt.acknowledge(),
            Disposition::Reject => return refuse(&pool, command, "the device refused it"),
            Disposition::Abandon => {
                let wait = commands.retry.delay(failures);
                if Instant::now() + wait >= until {
                    if commands.subscriptions == MqttSubscriptions::PerDevice {
                        pool.disown(&command.device, Kind::Message);
                    }
                    return give_up(&pool, command, "it could not be delivered in time");
                }
                sleep(wait).await;
            }
        }
    }
}

fn message(command: &Command, deadline: Instant, deliveries: u32) -> CloudMessage {
    let inward = &command.inward;
    let device = command.device.clone();
    let mut message = CloudMessage::new(device, inward.body.clone(), deadline);
    message.id.clone_from(&inward.id);
    message.system = inward.system.clone();
    message.properties = inward.properties.clone();
    message.delivery_count = deliveries;
    message
}

/// Refuses a message that finds no room or nobody, unless other gateways have heard it too and its
/// device is not here: then it is left to them.
fn give_up(pool: &Arc<Pool>, command: Command, reason: &str) {
    let commands = &pool.config.commands;
    // What a group gets comes to this gateway alone.
    let is_heard_by_all =
        commands.subscriptions == MqttSubscriptions::Wildcard && !commands.hands_over();
    match is_heard_by_all && pool.find(&command.device).is_none() {
        true => pool.leave(&command.device, Kind::Message, command.receipt),
        false => refuse(pool, command, reason),
    }
}

/// Acknowledges a message that will not be delivered, once whoever reads the dead letters has it.
fn refuse(pool: &Arc<Pool>, command: Command, reason: &str) {
    pool.counters.refused.fetch_add(1, Relaxed);
    let device = &command.device;
    tracing::warn!(device.id = %device, reason, count = 1, "Message to a device refused");
    let values = Values {
        device: Some(device),
        ..Values::default()
    };
    let letter = |topics: &Template| {
        let topic = topics.write(&values)?;
        convert::dead_letter(
            topic,
            pool.encoding,
            &command.topic,
            &command.inward,
            reason,
        )
    };
    let Some(Ok(publish)) = pool.topics.dead_letters.as_ref().map(letter) else {
        return command.receipt.acknowledge();
    };
    let place = pool.place(&command.device);
    let letter = Chore::DeadLetter;
    pool.chore(place, letter, publish, vec![command.receipt], command.lost);
}
