//! From the core to the task that speaks with the device, and what a device answers to methods.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway_core::{Delivered, DeviceId, Downlink, ErrorKind, MethodReply};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{TryAcquireError, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::registry::{Brought, Delivery, Order};
use crate::serve::Shared;

/// Methods whose time ran out that are remembered, to tell a late answer from an invented one.
const REMEMBERED: usize = 4096;

/// Brings a downlink to its device.
pub(crate) async fn deliver(shared: &Shared, downlink: Downlink) -> Result<Delivered, ErrorKind> {
    let seat = shared.registry.find(downlink.device());
    let seat = seat.ok_or(ErrorKind::UnknownDevice)?;
    let patience = Instant::now() + shared.config.timeouts.command;
    let (deadline, is_method) = match downlink {
        Downlink::Message(ref message) => (message.deadline.min(patience), false),
        Downlink::Method(ref call) => (call.deadline, true),
        Downlink::End(end) => {
            return match seat.orders.try_send(Order::End(end)) {
                Ok(()) => Ok(Delivered::Sent),
                Err(TrySendError::Full(_)) => Err(ErrorKind::Throttled),
                Err(TrySendError::Closed(_)) => Err(ErrorKind::UnknownDevice),
            };
        }
        _ => (patience, false),
    };
    let brought = async {
        let place = match seat.places.clone().try_acquire_owned() {
            Ok(place) => place,
            // Whoever calls would rather know than wait for others' answers.
            Err(TryAcquireError::NoPermits) if is_method => return Err(ErrorKind::Throttled),
            Err(_) => {
                let place = seat.places.clone().acquire_owned().await;
                place.map_err(|_| ErrorKind::Disconnected)?
            }
        };
        let mut expected = is_method.then(|| shared.answers.expect(downlink.device()));
        let (reply, outcome) = oneshot::channel();
        let delivery = Delivery {
            downlink,
            request: expected.as_ref().map(Expected::name),
            deadline,
            reply,
            _place: place,
        };
        let order = Order::Deliver(Box::new(delivery));
        let sent = seat.orders.send(order).await;
        sent.map_err(|_| ErrorKind::Disconnected)?;
        let Some(expected) = &mut expected else {
            return match outcome.await.unwrap_or(Err(ErrorKind::Disconnected))? {
                Brought::Confirmed => Ok(Delivered::Acknowledged),
                Brought::Unconfirmed => Ok(Delivered::Sent),
                Brought::Answered(reply) => Ok(Delivered::Answered(reply)),
            };
        };
        // The answer may be here before the acknowledgement.
        let brought = tokio::select! {
            biased;
            reply = expected.answer() => return Ok(Delivered::Answered(reply)),
            outcome = outcome => outcome.unwrap_or(Err(ErrorKind::Disconnected))?,
        };
        match brought {
            Brought::Answered(reply) => Ok(Delivered::Answered(reply)),
            Brought::Confirmed | Brought::Unconfirmed => {
                Ok(Delivered::Answered(expected.answer().await))
            }
        }
    };
    let outcome = timeout_at(deadline, brought).await;
    outcome.unwrap_or(Err(ErrorKind::TimedOut))
}

/// The answers to methods that somebody waits for.
#[derive(Debug)]
pub(crate) struct Answers(Mutex<Table>);

#[derive(Debug)]
struct Table {
    waiting: HashMap<u64, (DeviceId, oneshot::Sender<MethodReply>)>,
    /// Methods that were not answered in time, oldest first.
    expired: VecDeque<(u64, DeviceId)>,
    last: u64,
}

/// What became of a device's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Whoever called has it.
    InTime,
    /// Nobody waits any more.
    Late,
    /// Nobody asked this device.
    Unasked,
}

impl Answers {
    /// Begins to count at a random number, so that an answer to the process before finds nobody.
    pub(crate) fn new(start: u32) -> Self {
        Self(Mutex::new(Table {
            waiting: HashMap::new(),
            expired: VecDeque::new(),
            last: start.into(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is whole between statements, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether nobody waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    fn expect(&self, device: &DeviceId) -> Expected<'_> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        table.waiting.insert(number, (device.clone(), sender));
        Expected {
            answers: self,
            number,
            receiver,
        }
    }

    /// Takes a device's answer.
    pub(crate) fn answer(&self, device: &DeviceId, request: &str, reply: MethodReply) -> Answered {
        let Ok(number) = u64::from_str_radix(request, 16) else {
            return Answered::Unasked;
        };
        let mut table = self.lock();
        let is_asked = |(asked, _): &(DeviceId, _)| asked == device;
        if table.waiting.get(&number).is_some_and(is_asked) {
            let sender = table.waiting.remove(&number).map(|(_, sender)| sender);
            return match sender.map(|sender| sender.send(reply)) {
                Some(Ok(())) => Answered::InTime,
                _ => Answered::Late,
            };
        }
        let mut expired = table.expired.iter();
        let at = expired.position(|(other, asked)| *other == number && asked == device);
        match at.and_then(|at| table.expired.remove(at)) {
            Some(_) => Answered::Late,
            None => Answered::Unasked,
        }
    }
}

/// Waits for one answer; dropped, an answer that still comes is late.
#[derive(Debug)]
struct Expected<'a> {
    answers: &'a Answers,
    number: u64,
    receiver: oneshot::Receiver<MethodReply>,
}

impl Expected<'_> {
    fn name(&self) -> String {
        format!("{:x}", self.number)
    }

    async fn answer(&mut self) -> MethodReply {
        match (&mut self.receiver).await {
            Ok(reply) => reply,
            // Its sender is dropped only when this is.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        let mut table = self.answers.lock();
        if let Some((device, _)) = table.waiting.remove(&self.number) {
            if table.expired.len() == REMEMBERED {
                table.expired.pop_front();
            }
            table.expired.push_back((self.number, device));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_once_and_from_the_asked_device_only() {
        let answers = Answers::new(9);
        let (device, other) = (DeviceId::new("a").unwrap(), DeviceId::new("b").unwrap());
        let reply = || MethodReply::new(200, "1");
        let mut expected = answers.expect(&device);
        let name = expected.name();
        assert_eq!(name, "a");
        assert_eq!(answers.answer(&other, &name, reply()), Answered::Unasked);
        assert_eq!(answers.answer(&device, &name, reply()), Answered::InTime);
        assert_eq!(expected.receiver.try_recv(), Ok(reply()));
        assert_eq!(answers.answer(&device, &name, reply()), Answered::Unasked);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_late_once() {
        let answers = Answers::new(0);
        let device = DeviceId::new("a").unwrap();
        let name = answers.expect(&device).name();
        let reply = || MethodReply::new(200, "1");
        assert_eq!(answers.answer(&device, &name, reply()), Answered::Late);
        assert_eq!(answers.answer(&device, &name, reply()), Answered::Unasked);
        assert_eq!(
            answers.answer(&device, "no number", reply()),
            Answered::Unasked
        );
    }
}
