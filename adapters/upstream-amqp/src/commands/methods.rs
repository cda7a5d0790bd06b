//! Direct methods of one device.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use fe2o3_amqp_types::messaging::MessageId;
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use gateway_core::governor::Class;
use gateway_core::{LinkPurpose, MethodReply};
use tokio::time::{Instant, timeout, timeout_at};

use super::inbox::InHand;
use super::{CLOSE_PATIENCE, Site, open};
use crate::client::{ClientError, Incoming, Receiver, Sender};
use crate::convert;
use crate::error::AmqpError;

/// How long the hub may take to grant a credit for the last answers.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Brings methods until they are not wanted any more.
pub(super) async fn run(site: Arc<Site>, wait: Option<Duration>) -> Result<(), AmqpError> {
    let opening = async {
        // Somebody waits for the answers.
        site.turn(Class::Wanted, wait).await;
        site.open_pair("methods", "methods/devicebound").await
    };
    let unwanted = site.inbox.until_unwanted(LinkPurpose::Methods);
    let Some((calls, answers)) = open(unwanted, opening).await? else {
        return Ok(());
    };
    let _open = site.inbox.opened(LinkPurpose::Methods, calls.id());
    let mut methods = Methods {
        site: &site,
        calls,
        answers,
        running: FuturesUnordered::new(),
        ready: VecDeque::new(),
    };
    methods.serve().await?;
    Box::pin(methods.close()).await;
    Ok(())
}

/// A call that was answered, or whose time is up.
struct Ended {
    id: MessageId,
    deadline: Instant,
    reply: Option<MethodReply>,
    in_hand: InHand,
}

/// The open links. Whoever waits for an answer waits at the hub: when the links are lost, no answer
/// is made up.
struct Methods<'a> {
    site: &'a Site,
    /// A call holds its credit until it is answered: the hub keeps what is beyond.
    calls: Receiver,
    answers: Sender,
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    ready: VecDeque<Ready>,
}

/// An answer that waits for the hub.
struct Ready {
    deadline: Instant,
    answer: Bytes,
    /// None where the device was not asked.
    _in_hand: Option<InHand>,
}

impl Methods<'_> {
    /// Every call is taken from the link as it comes, since its time runs from then.
    async fn serve(&mut self) -> Result<(), AmqpError> {
        loop {
            let unwanted = self.site.inbox.until_unwanted(LinkPurpose::Methods);
            let sending = self.ready.front().map(|first| {
                let sent = self.answers.send_settled(first.answer.clone());
                timeout_at(first.deadline, sent)
            });
            let sending = OptionFuture::from(sending);
            tokio::select! {
                biased;
                () = unwanted => return Ok(()),
                Some(sent) = sending => {
                    self.ready.pop_front();
                    self.calls.done();
                    match sent {
                        Ok(sent) => sent?,
                        Err(_) => self.count_late(),
                    }
                }
                Some(ended) = self.running.next() => self.answer(ended)?,
                call = self.calls.recv_and_hold() => self.call(&call?)?,
            }
        }
    }

    fn call(&mut self, call: &Incoming) -> Result<(), AmqpError> {
        let device = &self.site.device;
        let deadline = Instant::now() + self.site.env.config.commands.method_timeout;
        let decoded = convert::decode(&call.payload);
        let decoded = decoded.map(|call| convert::method_call(device.id.clone(), call, deadline));
        match decoded {
            Ok(Ok((id, call))) => {
                let callback = device.callback();
                let in_hand = self.site.inbox.hand_over();
                self.running.push(Box::pin(async move {
                    let reply = timeout_at(deadline, callback.on_method(call)).await.ok();
                    Ended {
                        id,
                        deadline,
                        reply,
                        in_hand,
                    }
                }));
            }
            Ok(Err(Some(id))) => {
                let reply = MethodReply::new(400, r#"{"error":"invalid method request"}"#);
                self.put(deadline, id, &reply, None)?;
            }
            // There is nothing to answer to.
            Ok(Err(None)) | Err(_) => {
                tracing::warn!(device.id = %device.id, "Unreadable method dropped");
                self.calls.done();
            }
        }
        Ok(())
    }

    fn answer(&mut self, ended: Ended) -> Result<(), AmqpError> {
        match ended.reply {
            Some(reply) if ended.deadline > Instant::now() => {
                self.put(ended.deadline, ended.id, &reply, Some(ended.in_hand))
            }
            _ => {
                self.calls.done();
                self.count_late();
                Ok(())
            }
        }
    }

    fn put(
        &mut self,
        deadline: Instant,
        id: MessageId,
        reply: &MethodReply,
        in_hand: Option<InHand>,
    ) -> Result<(), AmqpError> {
        let answer = convert::encode(&convert::method_reply(id, reply))?;
        self.ready.push_back(Ready {
            deadline,
            answer,
            _in_hand: in_hand,
        });
        Ok(())
    }

    fn count_late(&self) {
        self.site.env.counters.late.fetch_add(1, Relaxed);
        tracing::debug!(device.id = %self.site.device.id, "Method not answered in time");
    }

    /// Gives the answers that are there, since a device has given them before it stops to listen, and
    /// closes the links.
    async fn close(mut self) {
        while let Some(Some(ended)) = self.running.next().now_or_never() {
            // One that cannot be encoded is none.
            drop(self.answer(ended));
        }
        let answers = async {
            for ready in std::mem::take(&mut self.ready) {
                self.answers.send_settled(ready.answer).await?;
            }
            Ok::<_, ClientError>(())
        };
        drop(timeout(LAST_PATIENCE, answers).await);
        let close = async {
            drop(self.calls.close().await);
            drop(self.answers.close().await);
        };
        drop(timeout(CLOSE_PATIENCE, close).await);
    }
}
