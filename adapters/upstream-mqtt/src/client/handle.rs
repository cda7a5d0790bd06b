//! What the adapter holds: clients and receipts.
//!
//! Each call locks the connection's state for as long as it takes to look or to write a packet into
//! memory, and waits outside the lock.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arrivals::Arrival;
use super::codec::Outgoing;
use super::driver::{self, Driver};
use super::ledger::{Key, Kind, Outcome};
use super::options::{Options, Properties5, Publish, Version};
use super::shared::{Served, Shared};
use super::state::State;
use super::transport::{self, Wire};
use crate::error::MqttError;

/// Takes what comes. It is called by the connection's only task, so it must return at once: put the
/// message into a bounded queue, or start a task for it.
pub(crate) trait Inbox: fmt::Debug + Send + Sync + 'static {
    fn on_publish(&self, incoming: Incoming);
}

/// A message from the broker.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retain: bool,
    /// The broker has sent it before, on this connection or another.
    pub(crate) duplicate: bool,
    /// In version 5, if there were any.
    pub(crate) properties: Option<Properties5>,
    /// Its payload is left out, being larger than [`Limits::max_packet`](super::Limits) allows.
    pub(crate) is_cut: bool,
    pub(crate) receipt: Receipt,
}

/// Answers for a message.
///
/// Dropped without a word, the message is not acknowledged: the broker sends it again on the next
/// connection, if the session lasts as long. Until then it takes up a place in the broker's window;
/// when all are taken up in that way, the connection ends, and a minute after the first where order is
/// not kept.
#[derive(Debug)]
pub(crate) struct Receipt(Option<(Arc<Shared>, Arrival)>);

impl Receipt {
    /// For a message that came at most once, there is nothing to answer for.
    pub(super) fn new(shared: &Arc<Shared>, arrival: Option<Arrival>) -> Self {
        Self(arrival.map(|arrival| (shared.clone(), arrival)))
    }

    /// Acknowledges the message, once all that came before it have their verdict.
    pub(crate) fn acknowledge(mut self) {
        if let Some((shared, arrival)) = self.0.take() {
            shared.with(|state| state.acknowledge(arrival));
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some((shared, arrival)) = self.0.take()
            && shared.with(|state| state.forget(arrival, Instant::now()))
        {
            shared.end_for(MqttError::Forgotten);
        }
    }
}

/// One connection to a broker. The last clone dropped, it ends as if it were lost.
#[derive(Debug, Clone)]
pub(crate) struct Client(Arc<Held>);

#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    version: Version,
    client_id: String,
    session_present: bool,
    takes_retained: bool,
    max_packet: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.end_for(MqttError::Closed);
    }
}

impl Client {
    /// Connects once, up to the broker's answer to CONNECT.
    ///
    /// # Cancel safety
    /// Safe: what is half open is closed.
    pub(crate) async fn connect(
        options: &Options,
        inbox: Arc<dyn Inbox>,
        tasks: &TaskTracker,
    ) -> Result<Self, MqttError> {
        let deadline = Instant::now() + options.limits.connect_timeout;
        let wire = match timeout_at(deadline, transport::dial(options)).await {
            Ok(dialled) => dialled.map_err(MqttError::Connect)?,
            Err(late) => return Err(MqttError::Connect(late.into())),
        };
        match timeout_at(deadline, Self::open(wire, options, inbox, tasks)).await {
            Ok(opened) => opened,
            Err(_) => Err(MqttError::Unanswered("CONNECT")),
        }
    }

    pub(super) async fn open(
        mut wire: Wire,
        options: &Options,
        inbox: Arc<dyn Inbox>,
        tasks: &TaskTracker,
    ) -> Result<Self, MqttError> {
        let (answer, buffer) = driver::greet(&mut wire, options).await?;
        let terms = driver::terms(options, &answer);
        let shared = Arc::new(Shared::new(State::new(terms, Instant::now())));
        let driver = Driver {
            served: Served(shared.clone()),
            wire,
            buffer,
            inbox,
            patience: options.limits.answer_timeout,
        };
        tasks.spawn(driver.run());
        let limit = usize::try_from(answer.max_packet).unwrap_or(usize::MAX);
        let own_id = || options.client_id.clone();
        Ok(Self(Arc::new(Held {
            shared,
            version: options.version,
            client_id: answer.assigned_client_id.unwrap_or_else(own_id),
            session_present: answer.session_present,
            takes_retained: answer.takes_retained,
            max_packet: limit.min(options.limits.max_packet),
        })))
    }

    /// Tells whether the broker has kept the session of an earlier connection: its subscriptions,
    /// and what it could not deliver.
    pub(crate) fn is_session_present(&self) -> bool {
        self.0.session_present
    }

    /// The client identifier, which a broker of version 5 may have assigned.
    pub(crate) fn client_id(&self) -> &str {
        &self.0.client_id
    }

    /// Publishes a message at least once: `Ok` if and only if the broker has acknowledged it with
    /// success. Messages go out in the order in which these calls were first polled.
    ///
    /// # Errors
    /// - [`Unspeakable`](MqttError::Unspeakable), [`TooLarge`](MqttError::TooLarge),
    ///   [`Unsupported`](MqttError::Unsupported), [`Crowded`](MqttError::Crowded): nothing was sent.
    /// - [`PublishRefused`](MqttError::PublishRefused): the broker has it and will not take it.
    /// - [`Down`](MqttError::Down), [`Unanswered`](MqttError::Unanswered): the connection is gone;
    ///   the broker may have the message or not.
    ///
    /// # Cancel safety
    /// Safe: what is not sent yet is not sent; what is sent keeps its packet identifier until it is
    /// acknowledged.
    pub(crate) async fn publish(&self, publish: Publish) -> Result<(), MqttError> {
        let packet = self.prepare(publish)?;
        let ticket = self.submit(Kind::Publish, packet)?;
        acknowledged(ticket.await)
    }

    /// Publishes messages in this order, none of another in between, without waiting for each.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), of the first that failed; the others may have been taken. If
    /// one cannot be sent at all, none is.
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub(crate) async fn publish_all(&self, publishes: Vec<Publish>) -> Result<(), MqttError> {
        let packets = publishes.into_iter().map(|publish| self.prepare(publish));
        let packets = packets.collect::<Result<Vec<_>, _>>()?;
        let (now, shared) = (Instant::now(), &self.0.shared);
        let keys = shared.with(|state| state.submit(Kind::Publish, packets, now))?;
        let tickets: Vec<_> = keys.into_iter().map(|key| self.ticket(key)).collect();
        let mut result = Ok(());
        for ticket in tickets {
            let told = acknowledged(ticket.await);
            result = result.and(told);
        }
        result
    }

    /// Subscribes to filters, all in one packet: `Ok` if the broker grants each at least once.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`SubscribeRefused`](MqttError::SubscribeRefused) for the
    /// first filter that is not granted; the others may be.
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub(crate) async fn subscribe(&self, filters: &[String]) -> Result<(), MqttError> {
        let packet = Outgoing::subscribe(self.0.version, filters)?;
        let codes = self.answered(Kind::Subscribe, packet).await?;
        if codes.len() != filters.len() {
            return Err(MqttError::Protocol(
                "SUBACK does not answer each filter".into(),
            ));
        }
        refused(filters, &codes, |code| matches!(code, 1 | 2))
    }

    /// Ends subscriptions.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub(crate) async fn unsubscribe(&self, filters: &[String]) -> Result<(), MqttError> {
        let packet = Outgoing::unsubscribe(self.0.version, filters)?;
        let codes = self.answered(Kind::Unsubscribe, packet).await?;
        refused(filters, &codes, |code| code < 0x80)
    }

    /// Tells when the connection has ended.
    pub(crate) fn down(&self) -> &CancellationToken {
        &self.0.shared.down
    }

    /// Why the connection ended, once it has: [`Closed`](MqttError::Closed) if this side ended it.
    pub(crate) fn reason(&self) -> Option<Arc<MqttError>> {
        match self.down().is_cancelled() {
            true => self.0.shared.reason(),
            false => None,
        }
    }

    /// Tells whether every packet was answered when the connection ended: whoever closed it did not
    /// do so for one of them.
    pub(crate) fn was_idle(&self) -> bool {
        self.0.shared.lock().was_idle()
    }

    /// Messages on their way without acknowledgement.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.shared.lock().in_flight()
    }

    /// Takes nothing new, waits until nothing is open or `grace` is over, and ends the connection
    /// with DISCONNECT, so that there is no will. Returns when it has ended.
    ///
    /// # Cancel safety
    /// Nothing new is taken all the same; the connection ends when the client is dropped.
    pub(crate) async fn disconnect(&self, grace: Duration) {
        let shared = &self.0.shared;
        shared.with(State::close);
        let drained = poll_fn(|cx| shared.lock().poll_drained(cx.waker()));
        if timeout(grace, drained).await.is_err() {
            tracing::debug!("A connection ends with messages that are not acknowledged");
        }
        shared.end_in_order();
        shared.down.cancelled().await;
    }

    /// Ends the connection at once and without a word: the broker publishes the will.
    pub(crate) fn abort(&self) {
        self.0.shared.end_for(MqttError::Closed);
    }

    /// Checks a message against what the connection takes.
    fn prepare(&self, publish: Publish) -> Result<Outgoing, MqttError> {
        let packet = Outgoing::publish(self.0.version, publish)?;
        if packet.is_retained() && !self.0.takes_retained {
            return Err(MqttError::Unsupported("retained messages"));
        }
        self.check_size(&packet)?;
        Ok(packet)
    }

    fn check_size(&self, packet: &Outgoing) -> Result<(), MqttError> {
        let (size, limit) = (packet.size(), self.0.max_packet);
        match size > limit {
            true => Err(MqttError::TooLarge { size, limit }),
            false => Ok(()),
        }
    }

    fn submit(&self, kind: Kind, packet: Outgoing) -> Result<Ticket, MqttError> {
        let (now, shared) = (Instant::now(), &self.0.shared);
        let key = shared.with(|state| state.submit_one(kind, packet, now))?;
        Ok(self.ticket(key))
    }

    fn ticket(&self, key: Key) -> Ticket {
        Ticket::new(self.0.shared.clone(), key)
    }

    async fn answered(&self, kind: Kind, packet: Outgoing) -> Result<Vec<u8>, MqttError> {
        self.check_size(&packet)?;
        match self.submit(kind, packet)?.await {
            Outcome::Answered(codes) => Ok(codes),
            Outcome::Unanswered => Err(MqttError::Unanswered("a subscription")),
            Outcome::Acknowledged(_) | Outcome::Down => Err(MqttError::Down),
        }
    }
}

fn acknowledged(outcome: Outcome) -> Result<(), MqttError> {
    match outcome {
        // "No matching subscribers" is success, too (version 5, section 3.4.2.1).
        Outcome::Acknowledged(0..0x80) => Ok(()),
        Outcome::Acknowledged(code) => Err(MqttError::PublishRefused { code }),
        Outcome::Unanswered => Err(MqttError::Unanswered("a message")),
        Outcome::Answered(_) | Outcome::Down => Err(MqttError::Down),
    }
}

fn refused(filters: &[String], codes: &[u8], is_good: fn(u8) -> bool) -> Result<(), MqttError> {
    match filters.iter().zip(codes).find(|(_, code)| !is_good(**code)) {
        None => Ok(()),
        Some((filter, &code)) => Err(MqttError::SubscribeRefused {
            filter: filter.clone(),
            code,
        }),
    }
}

/// Waits for the broker's word on a packet.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    /// None once it is told.
    key: Option<Key>,
}

impl Ticket {
    pub(super) fn new(shared: Arc<Shared>, key: Key) -> Self {
        let key = Some(key);
        Self { shared, key }
    }
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(key) = self.key else {
            return Poll::Ready(Outcome::Down);
        };
        let told = self.shared.lock().poll(key, cx.waker());
        if told.is_ready() {
            self.key = None;
        }
        told
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.with(|state| state.drop_key(key));
        }
    }
}
