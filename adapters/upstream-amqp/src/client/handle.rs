//! What the adapter holds: sessions, senders, receivers, deliveries.
//!
//! Each call locks the connection's state for as long as it takes to look or to write a frame into
//! memory, and waits outside the lock.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::sync::Notify;

use super::error::ClientError;
use super::link::{Delivery as Incoming, LinkSpec};
use super::outbox::{Outbox, Wakers};
use super::session::{LinkId, Outcome, Session as SessionState, SessionEvent, Verdict};
use super::state::{SessionKey, State};
use crate::env::lock;

/// What the holders of a connection share with its driver.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Told when there is something to write.
    pub(super) output: Notify,
}

impl Shared {
    /// Works on the state, then has written and woken what came of it.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let result = work(&mut state);
        let mut wake = std::mem::take(&mut state.wake);
        let has_output = !state.out.is_empty();
        drop(state);
        wake.wake();
        if has_output {
            self.output.notify_one();
        }
        result
    }

    fn session<T>(
        &self,
        key: SessionKey,
        work: impl FnOnce(&mut SessionState, &mut Outbox, &mut Wakers) -> T,
    ) -> Result<T, ClientError> {
        self.with(|state| {
            let (session, out, wake) = state.session(key)?;
            Ok(work(session, out, wake))
        })
    }
}

/// One session. The last clone dropped, links included, ends it.
#[derive(Debug, Clone)]
pub(crate) struct Session(Arc<Held>);

#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    key: SessionKey,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.with(|state| state.drop_session(self.key));
    }
}

impl Session {
    /// Begins a session.
    ///
    /// Cancel safe: it is ended once the hub has begun it.
    pub(super) async fn begin(shared: Arc<Shared>) -> Result<Self, ClientError> {
        let key = shared.with(State::begin)?;
        let session = Self(Arc::new(Held { shared, key }));
        poll_fn(|cx| ready(session.state(|state, _, _| state.poll_begun(cx.waker())))).await?;
        Ok(session)
    }

    fn state<T>(
        &self,
        work: impl FnOnce(&mut SessionState, &mut Outbox, &mut Wakers) -> T,
    ) -> Result<T, ClientError> {
        self.0.shared.session(self.0.key, work)
    }

    /// What tells it from every other, for tests.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn key(&self) -> SessionKey {
        self.0.key
    }

    /// Waits for what the hub does to the session or to a sender on it. For one task.
    ///
    /// Cancel safe.
    pub(crate) async fn event(&self) -> SessionEvent {
        poll_fn(
            |cx| match self.state(|state, _, _| state.poll_event(cx.waker())) {
                Ok(None) => Poll::Pending,
                Ok(Some(event)) => Poll::Ready(event),
                Err(error) => Poll::Ready(SessionEvent::Ended(error)),
            },
        )
        .await
    }

    /// Attaches a sender and waits for the hub's word.
    ///
    /// Cancel safe: the link is detached once the hub has answered.
    pub(crate) async fn attach_sender(&self, spec: LinkSpec) -> Result<Sender, ClientError> {
        let link = self.attach(spec, None).await?;
        Ok(Sender { link })
    }

    /// Attaches a receiver that lets the hub have `credit` messages with us at a time.
    ///
    /// Cancel safe, as [`attach_sender`](Self::attach_sender).
    pub(crate) async fn attach_receiver(
        &self,
        spec: LinkSpec,
        credit: u32,
    ) -> Result<Receiver, ClientError> {
        let link = self.attach(spec, Some(credit)).await?;
        Ok(Receiver { link })
    }

    /// Messages that may be sent on a link now; none on one that is gone.
    pub(crate) fn credit(&self, link: LinkId) -> u32 {
        self.state(|state, _, _| state.credit(link)).unwrap_or(0)
    }

    /// Tells whether the hub has left so many links unanswered that it should be given up.
    pub(crate) fn is_worn_out(&self) -> bool {
        self.state(|state, _, _| state.is_worn_out())
            .unwrap_or(false)
    }

    async fn attach(&self, spec: LinkSpec, credit: Option<u32>) -> Result<Link, ClientError> {
        let id = self.state(|state, out, _| state.attach(spec, credit, out))??;
        let link = Link {
            session: self.clone(),
            id,
        };
        poll_fn(|cx| ready(self.state(|state, _, _| state.poll_attached(id, cx.waker())))).await?;
        Ok(link)
    }
}

fn ready<T>(
    looked: Result<Option<Result<T, ClientError>>, ClientError>,
) -> Poll<Result<T, ClientError>> {
    match looked {
        Ok(None) => Poll::Pending,
        Ok(Some(result)) => Poll::Ready(result),
        Err(error) => Poll::Ready(Err(error)),
    }
}

/// Holds a link; dropped, it detaches it without waiting.
#[derive(Debug)]
struct Link {
    session: Session,
    id: LinkId,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Its session may be gone: then so is the link.
        let id = self.id;
        drop(
            self.session
                .state(|state, out, wake| state.drop_link(id, out, wake)),
        );
    }
}

impl Link {
    async fn close(self) -> Result<(), ClientError> {
        let id = self.id;
        self.session
            .state(|state, out, wake| state.detach(id, out, wake))?;
        poll_fn(|cx| {
            ready(
                self.session
                    .state(|state, _, _| state.poll_closed(id, cx.waker())),
            )
        })
        .await
    }
}

/// One link to the hub. Dropped, it is detached, and what is unsettled on it fails.
#[derive(Debug)]
pub(crate) struct Sender {
    link: Link,
}

impl Sender {
    pub(crate) fn id(&self) -> LinkId {
        self.link.id
    }

    /// The session that it is on, for tests.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn session(&self) -> SessionKey {
        self.link.session.key()
    }

    /// Sends a message once the link has credit and the session and the connection have room.
    ///
    /// Cancel safe: what has been sent of a large message is taken back before the next one.
    pub(crate) async fn send(
        &mut self,
        payload: impl AsRef<[u8]>,
        format: u32,
    ) -> Result<Delivery, ClientError> {
        let delivery = self.send_whole(payload, format, false).await?;
        Ok(Delivery {
            session: self.link.session.clone(),
            delivery,
            is_over: false,
        })
    }

    /// Sends a message that the hub does not settle.
    ///
    /// Cancel safe, as [`send`](Self::send).
    pub(crate) async fn send_settled(
        &mut self,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), ClientError> {
        self.send_whole(payload, 0, true).await.map(drop)
    }

    async fn send_whole(
        &mut self,
        payload: impl AsRef<[u8]>,
        format: u32,
        settled: bool,
    ) -> Result<u32, ClientError> {
        let (id, session) = (self.link.id, &self.link.session);
        let mut begun = false;
        poll_fn(|cx| {
            let message = (payload.as_ref(), format, settled);
            ready(session.state(|state, out, _| {
                state
                    .send(id, &mut begun, message, out, cx.waker())
                    .transpose()
            }))
        })
        .await
    }

    /// Why the hub detached it, if it has.
    pub(crate) fn end(&self) -> Option<ClientError> {
        let id = self.link.id;
        let end = self.link.session.state(|state, _, _| state.end_of(id));
        end.unwrap_or_else(Some)
    }

    /// Detaches it and waits for the hub's answer.
    ///
    /// Cancel safe: it is detached all the same.
    pub(crate) async fn close(self) -> Result<(), ClientError> {
        self.link.close().await
    }
}

/// One link from the hub. Dropped, it is detached: what is unsettled goes back to the hub's queue.
#[derive(Debug)]
pub(crate) struct Receiver {
    link: Link,
}

impl Receiver {
    pub(crate) fn id(&self) -> LinkId {
        self.link.id
    }

    /// Waits for the next message.
    ///
    /// Cancel safe.
    pub(crate) async fn recv(&mut self) -> Result<Incoming, ClientError> {
        self.receive(false).await
    }

    /// Waits for the next message; one that came settled counts against the link's credit until
    /// [`done`](Self::done).
    ///
    /// Cancel safe.
    pub(crate) async fn recv_and_hold(&mut self) -> Result<Incoming, ClientError> {
        self.receive(true).await
    }

    async fn receive(&mut self, keeps_credit: bool) -> Result<Incoming, ClientError> {
        let (id, session) = (self.link.id, &self.link.session);
        poll_fn(|cx| {
            ready(
                session
                    .state(|state, out, _| state.poll_received(id, keeps_credit, out, cx.waker())),
            )
        })
        .await
    }

    /// Lets the hub send another message for one that was held.
    pub(crate) fn done(&self) {
        let id = self.link.id;
        // Of a link that is gone nothing comes.
        drop(self.link.session.state(|state, out, _| state.done(id, out)));
    }

    /// Has the hub send nothing more. When it has heard that, all that it sent is here.
    ///
    /// Cancel safe: it is told all the same.
    pub(crate) async fn stop(&mut self) -> Result<(), ClientError> {
        let (id, session) = (self.link.id, &self.link.session);
        session.state(|state, out, _| state.stop(id, out))?;
        poll_fn(|cx| ready(session.state(|state, _, _| state.poll_stopped(id, cx.waker())))).await
    }

    /// Tells the hub what became of a message.
    pub(crate) fn settle(&self, delivery: u32, verdict: Verdict) -> Result<(), ClientError> {
        let id = self.link.id;
        self.link
            .session
            .state(|state, out, _| state.settle(id, delivery, verdict, out))?
    }

    /// Detaches it and waits for the hub's answer.
    ///
    /// Cancel safe: it is detached all the same.
    pub(crate) async fn close(self) -> Result<(), ClientError> {
        self.link.close().await
    }
}

/// Is a message on its way: resolves to the hub's word on it.
#[derive(Debug)]
pub(crate) struct Delivery {
    session: Session,
    delivery: u32,
    /// The session has forgotten it.
    is_over: bool,
}

impl Future for Delivery {
    type Output = Result<Outcome, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let delivery = self.delivery;
        let settled = ready(
            self.session
                .state(|state, _, _| state.poll_settled(delivery, cx.waker())),
        );
        self.is_over = settled.is_ready();
        settled
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.is_over {
            let delivery = self.delivery;
            drop(self.session.state(|state, _, _| state.forget(delivery)));
        }
    }
}
