//! Methods called on devices.
//!
//! A request is acknowledged when its answer has reached the broker. If the connection is lost
//! meanwhile, the broker gives the request again: it is then the same call, which is not made twice
//! while it runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gateway_core::{CorrelationId, DeviceId, MethodCall, MethodName, MethodReply};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::convert::{self, ReturnAddress};
use super::inbound::Command;
use super::pool::Pool;
use super::queues::{Admission, Order};
use super::suspicion::Chore;
use super::verdict::{Silence, verdict};
use crate::client::Receipt;
use crate::lock::lock;

/// Names a call: its device, and what its caller tells the answer by.
type Name = (DeviceId, Bytes);

/// The calls that run, each with what is to be acknowledged for it: what it was asked by, and what came
/// again of it. Two whose caller tells them by the same come again as one.
#[derive(Debug, Default)]
pub(super) struct Calls {
    running: Mutex<HashMap<Name, Vec<Receipt>>>,
    serial: AtomicU64,
}

impl Calls {
    /// Notes that a call begins; false if it runs already, and this is the broker's second try. A
    /// caller that tells two calls by the same gets two answers that it cannot tell apart.
    fn begin(&self, name: &mut Name, is_duplicate: bool, receipt: Receipt) -> bool {
        let mut running = lock(&self.running);
        if !is_duplicate && running.contains_key(name) {
            name.1 = self.serial().into();
        }
        let receipts = running.entry(name.clone()).or_default();
        receipts.push(receipt);
        receipts.len() == 1
    }

    /// Ends a call, with all that is to be acknowledged for it, if it has not ended.
    fn end(&self, name: &Name) -> Vec<Receipt> {
        lock(&self.running).remove(name).unwrap_or_default()
    }

    /// A name for a call whose caller gave none that can be told.
    fn serial(&self) -> String {
        format!("call-{}", self.serial.fetch_add(1, Relaxed))
    }
}

/// A call on its way.
struct Call {
    to: ReturnAddress,
    /// None if the request cannot be called.
    call: Option<MethodCall>,
}

impl Call {
    /// What its answer is to the broker.
    fn chore(&self) -> Chore {
        match self.to.topic {
            Some(_) => Chore::AnswerElsewhere,
            None => Chore::Answer,
        }
    }
}

/// A call that runs, and ends when it is dropped: without acknowledgement then.
struct Running {
    pool: Arc<Pool>,
    /// None once it has ended: another may run under the name then.
    name: Option<Name>,
}

impl Running {
    /// Ends the call, with all that is to be acknowledged for it.
    fn end(&mut self) -> Vec<Receipt> {
        let name = self.name.take();
        name.map_or_else(Vec::new, |name| self.pool.calls.end(&name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.end());
    }
}

pub(super) fn take(pool: &Arc<Pool>, command: Command) {
    let Command {
        device,
        mut inward,
        duplicate,
        receipt,
        lost,
        ..
    } = command;
    let to = ReturnAddress::of(device.clone(), &mut inward);
    let limit = pool.config.commands.method_timeout;
    let deadline = Instant::now() + inward.expires_in.map_or(limit, |left| left.min(limit));
    let request = to.request.clone().unwrap_or_else(|| pool.calls.serial());
    let told_by = match (&to.correlation, &to.request) {
        (Some(correlation), _) => correlation.clone(),
        (None, _) => Bytes::from(request.clone()),
    };
    let name = inward.method.as_deref().map(MethodName::new);
    let id = CorrelationId::new(&request).or_else(|_| CorrelationId::new(pool.calls.serial()));
    let call = match (name, id) {
        (Some(Ok(name)), Ok(id)) => Some(MethodCall::new(
            device.clone(),
            id,
            name,
            inward.body,
            deadline,
        )),
        _ => None,
    };
    let mut name = (device.clone(), told_by);
    if !pool.calls.begin(&mut name, duplicate, receipt) {
        return;
    }
    let running = Running {
        pool: pool.clone(),
        name: Some(name),
    };
    let call = Call { to, call };
    let job = move |admission| match admission {
        Admission::Admitted => {
            let work: BoxFuture<'static, ()> = Box::pin(run(running, call, deadline));
            Some(work)
        }
        Admission::Refused => {
            refuse(running, &call, lost);
            None
        }
    };
    let patience = pool.config.commands.patience;
    pool.enqueue(&device, Order::Alongside, patience, Box::new(job));
}

/// Answers a call for which there is no room.
fn refuse(mut running: Running, call: &Call, lost: CancellationToken) {
    let receipts = running.end();
    let pool = &running.pool;
    let refusal = MethodReply::new(429, r#"{"error":"too many calls wait for the device"}"#);
    let reply = convert::reply(
        pool.topics.responses.as_ref(),
        pool.encoding,
        &call.to,
        &refusal,
    );
    let place = pool.place(&call.to.device);
    match reply {
        Ok(reply) => pool.chore(place, call.chore(), reply, receipts, lost),
        Err(_) => receipts.into_iter().for_each(Receipt::acknowledge),
    }
}

async fn run(mut running: Running, call: Call, deadline: Instant) {
    let (pool, device, chore) = (&running.pool, &call.to.device, call.chore());
    let reply = answer(pool, call.call, deadline, device).await;
    let reply = convert::reply(
        pool.topics.responses.as_ref(),
        pool.encoding,
        &call.to,
        &reply,
    );
    let told = match reply {
        Ok(reply) => pool.tell(pool.place(device), chore, reply).await,
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        tracing::warn!(device.id = %device, error = %error, count = 1, "Method's answer lost");
    }
    // Its caller has given up; if its own connection is lost, the broker gives the request again.
    let receipts = running.end();
    receipts.into_iter().for_each(Receipt::acknowledge);
}

/// What the device says, or the gateway in its place.
async fn answer(
    pool: &Pool,
    call: Option<MethodCall>,
    deadline: Instant,
    device: &DeviceId,
) -> MethodReply {
    let Some(call) = call else {
        return MethodReply::new(400, r#"{"error":"invalid method request"}"#);
    };
    let Some(callback) = pool.listener(device, |interest| interest.methods) else {
        return MethodReply::new(404, r#"{"error":"unknown_device"}"#);
    };
    match verdict(device, deadline, callback.on_method(call)).await {
        Ok(reply) => reply,
        Err(Silence::Late) => {
            pool.counters.late.fetch_add(1, Relaxed);
            MethodReply::new(504, r#"{"error":"timed_out"}"#)
        }
        Err(Silence::Panicked) => MethodReply::new(500, r#"{"error":"internal"}"#),
    }
}
