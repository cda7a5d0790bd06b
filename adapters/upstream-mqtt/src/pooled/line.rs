//! One of the connections that all devices share, and what keeps it up.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::Backoff;
use gateway_core::governor::{Class, Operation, Priority, Turn};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::filters::{Filters, Work, halves};
use super::inbound::LineInbox;
use super::pool::Pool;
use super::suspicion::{Chore, Pace, Suspicion};
use crate::client::{Client, Options, Publish};
use crate::error::MqttError;
use crate::lock::lock;

/// How long a connection must have lasted for the failures before it to be forgotten: a broker that
/// takes us and closes at once is not asked any faster than one that is not there.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);
/// How long the broker may take to hear that we are gone.
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum State {
    Connecting,
    Up(Client),
    /// It was lost or could not be made, and the next try is due then.
    Down(Arc<MqttError>, Instant),
}

/// A connection, up or not. Its devices stay its own while it is away.
#[derive(Debug)]
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) number: usize,
    state: watch::Sender<State>,
    pub(super) filters: Filters,
    is_kept: AtomicBool,
    suspicion: Suspicion,
    /// Until when devices may come back to which the broker has kept something.
    grace: Mutex<Option<Instant>>,
    /// Places for what waits for them: the rest of what the broker may give is the others'.
    places: Arc<Semaphore>,
}

impl Line {
    pub(super) fn new(number: usize, window: u16, pace: Pace) -> Self {
        Self {
            number,
            state: watch::Sender::new(State::Connecting),
            filters: Filters::default(),
            is_kept: AtomicBool::new(false),
            suspicion: Suspicion::new(pace),
            grace: Mutex::default(),
            places: Arc::new(Semaphore::new(usize::from(window / 2).max(1))),
        }
    }

    /// Sees to it that the connection is made, and made again when it is lost.
    pub(super) fn keep(self: &Arc<Self>, pool: &Arc<Pool>) {
        if !self.is_kept.swap(true, Relaxed) {
            pool.spawn(keep(self.clone(), pool.clone()));
        }
    }

    /// Tells whether devices may still come back from before the start.
    pub(super) fn is_in_grace(&self) -> bool {
        lock(&self.grace).is_some_and(|until| Instant::now() < until)
    }

    /// A place for a command that waits for its device to come back, if there is one.
    pub(super) fn place_to_wait(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(_))
    }

    /// The connection, if it is up. Nothing waits for one that is not: those who send would come
    /// back in another order.
    ///
    /// # Errors
    /// When to ask again.
    pub(super) fn client(&self) -> Result<Client, MqttError> {
        match &*self.state.borrow() {
            State::Up(client) => Ok(client.clone()),
            State::Connecting => Err(MqttError::Down),
            State::Down(_, due) => {
                let wait = due.saturating_duration_since(Instant::now());
                Err(MqttError::NotYet(wait))
            }
        }
    }

    /// What keeps the connection from being up.
    pub(super) fn fault(&self) -> Option<Arc<MqttError>> {
        match &*self.state.borrow() {
            State::Down(reason, _) => Some(reason.clone()),
            State::Connecting | State::Up(_) => None,
        }
    }

    /// Waits until the try that is on its way is decided.
    ///
    /// # Errors
    /// Why there is no connection.
    ///
    /// Cancel safe.
    pub(super) async fn decided(&self) -> Result<(), MqttError> {
        let mut state = self.state.subscribe();
        let state = state.wait_for(|state| !matches!(state, State::Connecting));
        match state.await.as_deref() {
            Ok(State::Up(_)) => Ok(()),
            Ok(State::Down(reason, _)) => Err(MqttError::Shared(reason.clone())),
            Ok(State::Connecting) | Err(_) => Err(MqttError::Down),
        }
    }

    /// Waits until the connection is up.
    ///
    /// Cancel safe.
    pub(super) async fn up(&self) -> Result<Client, MqttError> {
        let mut state = self.state.subscribe();
        let is_up =
            |state: &State| matches!(state, State::Up(client) if !client.down().is_cancelled());
        let state = state.wait_for(is_up);
        match state.await.as_deref() {
            Ok(State::Up(client)) => Ok(client.clone()),
            _ => Err(MqttError::Down),
        }
    }

    /// Publishes a message as soon as there is a connection, and again if the broker does not take it
    /// now, as when that one is lost.
    ///
    /// # Errors
    /// The broker will never take it, or may be closing the connection for it.
    ///
    /// Cancel safe.
    pub(super) async fn offer(
        &self,
        chore: Chore,
        publish: Publish,
        retry: &Backoff,
    ) -> Result<(), MqttError> {
        let mut failures = 0;
        loop {
            let client = self.up().await?;
            if self.suspicion.stands(chore, &publish.topic) {
                return Err(MqttError::Left);
            }
            let offered = self.suspicion.offer(chore, &publish.topic, client.down());
            let Some(offered) = offered else { continue };
            match client.publish(publish.clone()).await {
                Ok(()) => {
                    offered.taken();
                    return Ok(());
                }
                Err(MqttError::Down | MqttError::Unanswered(_)) => client.down().cancelled().await,
                Err(error) if error.is_passing() => {
                    drop(offered);
                    sleep(retry.delay(failures)).await;
                    failures = failures.saturating_add(1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the connection out of use and ends it: in order within the grace, or at once.
    pub(super) async fn end(&self, grace: Option<Duration>) {
        let closed = State::Down(Arc::new(MqttError::Closed), Instant::now());
        let State::Up(client) = self.state.send_replace(closed) else {
            return;
        };
        match grace {
            Some(grace) => {
                let end = client.disconnect(grace);
                drop(timeout(grace + FAREWELL, end).await);
            }
            None => client.abort(),
        }
    }
}

/// Keeps a connection up for as long as the upstream lives.
async fn keep(line: Arc<Line>, pool: Arc<Pool>) {
    let mut failures = 0;
    let mut is_first = true;
    loop {
        let begun = Instant::now();
        if is_first {
            // Before anything can come.
            *lock(&line.grace) = Some(begun + pool.config.commands.keep);
        }
        let reason = match connect(&line, &pool).await {
            Ok((client, lost)) => {
                let name = client.client_id();
                tracing::info!(connection = line.number, client.id = name, "Connected");
                if is_first && !client.is_session_present() {
                    *lock(&line.grace) = None;
                }
                // Nothing was missed before the first connection.
                let has_missed = !is_first && !client.is_session_present();
                is_first = false;
                let client = serve(&line, &pool, client, has_missed).await;
                line.suspicion.note_loss();
                lost.cancel();
                line.filters.lose();
                let reason = client.reason();
                reason.unwrap_or_else(|| Arc::new(MqttError::Down))
            }
            Err(error) => Arc::new(error),
        };
        if begun.elapsed() >= FORGIVEN_AFTER {
            failures = 0;
        }
        let wait = pool.config.reconnect.delay(failures);
        failures = failures.saturating_add(1);
        pool.counters.losses.fetch_add(1, Relaxed);
        tracing::warn!(
            connection = line.number,
            error = %reason,
            ?wait,
            "No connection to the broker"
        );
        line.state
            .send_replace(State::Down(reason, Instant::now() + wait));
        sleep(wait).await;
    }
}

async fn connect(line: &Line, pool: &Arc<Pool>) -> Result<(Client, CancellationToken), MqttError> {
    // The first connection carries the gateway's own commands and state.
    let priority = Priority::new(Class::Wanted, 0);
    pool.door
        .pass(Operation::Connect, priority, &Turn::default())
        .await;
    line.state.send_replace(State::Connecting);
    let lost = CancellationToken::new();
    let inbox = Arc::new(LineInbox::new(pool, lost.clone()));
    let options: Options = pool.options(line.number);
    let client = Client::connect(&options, inbox, &pool.connections).await?;
    Ok((client, lost))
}

/// Has the broker give what the connection is to hear, until it is lost.
async fn serve(line: &Arc<Line>, pool: &Arc<Pool>, client: Client, has_missed: bool) -> Client {
    line.filters.reset(client.is_session_present());
    let client = {
        let shared = client.clone();
        line.state.send_replace(State::Up(client));
        shared
    };
    if has_missed {
        pool.all_fall_behind(line.number - 1);
    }
    pool.spawn_for(&client, pool.clone().announce(line.number));
    loop {
        if let Some(work) = line.filters.take() {
            tell(line, &client, work).await;
            if client.down().is_cancelled() {
                return client;
            }
            continue;
        }
        tokio::select! {
            biased;
            () = client.down().cancelled() => return client,
            () = line.filters.wait() => {}
        }
    }
}

async fn tell(line: &Line, client: &Client, work: Work) {
    let Work {
        subscribe,
        unsubscribe,
    } = work;
    if !unsubscribe.is_empty() {
        if let Err(error) = client.unsubscribe(&unsubscribe).await {
            if client.down().is_cancelled() {
                return;
            }
            // What comes all the same is for nobody here.
            tracing::debug!(connection = line.number, error = %error, "Not unsubscribed");
        }
        line.filters.end(&unsubscribe);
    }
    let mut open = vec![subscribe];
    while let Some(names) = open.pop().filter(|names| !names.is_empty()) {
        match client.subscribe(&names).await {
            Ok(()) => line.filters.grant(&names),
            Err(_) if client.down().is_cancelled() => return,
            Err(error) => match &names[..] {
                [name] => {
                    let count = 1;
                    tracing::warn!(filter = %name, error = %error, count, "Not subscribed");
                    line.filters.refuse(name, error.to_string());
                }
                _ => open.extend(<[_; 2]>::from(halves(names))),
            },
        }
    }
}

/// Ends all connections, side by side.
pub(super) async fn end_all(lines: &[Arc<Line>], grace: Option<Duration>) {
    join_all(lines.iter().map(|line| line.end(grace))).await;
}
