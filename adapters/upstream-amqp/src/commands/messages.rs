//! Cloud-to-device messages of one device.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use gateway_core::governor::Class;
use gateway_core::{Disposition, LinkPurpose};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{CLOSE_PATIENCE, Site, open};
use crate::client::{Incoming, Receiver, Verdict};
use crate::convert;
use crate::error::AmqpError;

/// How long the hub may take to hear that it is to send nothing more.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Brings messages until they are not wanted any more.
pub(super) async fn run(site: Arc<Site>, wait: Option<Duration>) -> Result<(), AmqpError> {
    let opening = async {
        // Messages lapse while they wait.
        site.turn(Class::Standing, wait).await;
        site.open_messages().await
    };
    let Some(link) = open(site.inbox.until_deaf(true), opening).await? else {
        return Ok(());
    };
    let _open = site.inbox.opened(LinkPurpose::Messages, link.id());
    let mut messages = Messages {
        site: &site,
        link,
        held: Vec::new(),
        verdicts: FuturesUnordered::new(),
    };
    messages.serve().await?;
    Box::pin(messages.give_back()).await;
    Ok(())
}

/// An open link. When it is lost, its messages are: the hub gives them again, so that a verdict on
/// them would be about nothing, or about something else.
struct Messages<'a> {
    site: &'a Site,
    link: Receiver,
    /// Messages that have no verdict. Not more than the link's credit.
    held: Vec<u32>,
    verdicts: FuturesUnordered<BoxFuture<'static, (u32, Disposition)>>,
}

impl Messages<'_> {
    /// Every message is taken from the link as it comes, since its time runs from then. It holds its
    /// credit until it has a verdict, also if the hub has settled it.
    async fn serve(&mut self) -> Result<(), AmqpError> {
        loop {
            let deaf = self.site.inbox.until_deaf(self.verdicts.is_empty());
            tokio::select! {
                biased;
                () = deaf => return Ok(()),
                Some((id, disposition)) = self.verdicts.next() => self.settle(id, disposition),
                message = self.link.recv_and_hold() => self.deliver(message?),
            }
        }
    }

    fn deliver(&mut self, message: Incoming) {
        let Incoming { id, payload, .. } = message;
        let device = &self.site.device;
        let message = match convert::decode(&payload) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(device.id = %device.id, error = %error, "Message rejected");
                // It will not become readable.
                return self.settle(id, Disposition::Reject);
            }
        };
        let env = self.site.env.clone();
        let config = &env.config.commands;
        let deadline = Instant::now() + config.lock;
        let message = convert::cloud_message(device.id.clone(), message, deadline);
        let keep = config.abandon.delay(message.delivery_count);
        self.site.inbox.prolong(config.after_uplink);
        let callback = device.callback();
        let in_hand = self.site.inbox.hand_over();
        self.held.push(id);
        self.verdicts.push(Box::pin(async move {
            let _in_hand = in_hand;
            let verdict = timeout_at(deadline, callback.on_message(message)).await;
            let disposition = verdict.unwrap_or_else(|_| {
                env.counters.lapsed.fetch_add(1, Relaxed);
                Disposition::Abandon
            });
            if disposition == Disposition::Abandon {
                sleep_until(deadline.min(Instant::now() + keep)).await;
            }
            (id, disposition)
        }));
    }

    fn settle(&mut self, id: u32, disposition: Disposition) {
        self.held.retain(|held| *held != id);
        let verdict = match disposition {
            Disposition::Complete => Verdict::Accept,
            Disposition::Reject => Verdict::Reject,
            Disposition::Abandon => Verdict::Release,
        };
        // A link that is lost says so when the next message is waited for.
        drop(self.link.settle(id, verdict));
    }

    /// Abandons what has no verdict, so that the hub need not wait for locks to lapse, and closes
    /// the link. Before, the hub must know that it sends nothing more: it would send it here again.
    async fn give_back(mut self) {
        // What a device has said before it stops to listen counts.
        while let Some(Some((id, disposition))) = self.verdicts.next().now_or_never() {
            self.settle(id, disposition);
        }
        self.verdicts.clear();
        drop(timeout(STOP_PATIENCE, self.link.stop()).await);
        let mut held = std::mem::take(&mut self.held);
        while let Some(Ok(Incoming { id, .. })) = self.link.recv_and_hold().now_or_never() {
            held.push(id);
        }
        for id in held {
            self.settle(id, Disposition::Abandon);
        }
        drop(timeout(CLOSE_PATIENCE, self.link.close()).await);
    }
}
