//! One device's connection: a task that owns its socket, its protocol and what is in flight.

mod bell;
mod clocks;
mod commands;
mod intake;
mod jobs;
mod login;
mod requests;
mod wire;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_core::{Delivered, DeviceId, Ingress, Interest, Presence, Slot};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::proto::{Actions, CloseReason, Peer, Protocol};
use crate::registry::{Claim, Delivery, Outcome, Stop};
use crate::serve::Shared;
use bell::Bell;
use commands::{Commands, answer};
use intake::Intake;
use jobs::{Done, Job, Jobs, perform};
use login::{Arrival, Judgement, Renewal};
use wire::{Progress, Wire};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// For a reason that the device is told.
    Told(CloseReason),
    /// The device sends nothing more, but may still listen.
    HalfClosed,
    /// The device is gone or does not read.
    Gone(&'static str),
}

impl End {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Told(reason) => reason.as_str(),
            Self::HalfClosed => "closed_by_device",
            Self::Gone(why) => why,
        }
    }
}

/// Is where the connection stands with its device.
#[derive(Debug)]
enum Standing {
    Unknown,
    Judging,
    Known {
        device: DeviceId,
        interest: Interest,
        /// Whether it came by a token of its own, which the hub wants for whatever changes.
        has_token: bool,
        _claim: Claim,
    },
    /// It ends: what is asked for still is put in the queue, and answered once.
    Left,
}

/// Polls a future that may not be there, and takes it out when it is done.
fn poll_in<T>(slot: &mut Option<BoxFuture<'static, T>>, cx: &mut Context<'_>) -> Poll<T> {
    let polled = match slot {
        Some(future) => future.as_mut().poll(cx),
        None => Poll::Pending,
    };
    if polled.is_ready() {
        *slot = None;
    }
    polled
}

pub(crate) struct Connection<S> {
    shared: Arc<Shared>,
    ingress: Ingress,
    peer: Peer,
    protocol: Box<dyn Protocol>,
    actions: Actions,
    wire: Wire<S>,
    stop: Stop,
    standing: Standing,
    judgement: Option<Judgement>,
    arrival: Option<Arrival>,
    presence: Option<Presence>,
    /// A new token of the device before the hub.
    renewal: Option<Renewal>,
    sender: mpsc::Sender<Box<Delivery>>,
    deliveries: mpsc::Receiver<Box<Delivery>>,
    commands: Commands,
    /// Commands that count as sent once the output is written.
    unwritten: Vec<oneshot::Sender<Outcome>>,
    /// Decoded, and waiting for a credit or a place in the window.
    queue: VecDeque<Job>,
    reserving: Option<BoxFuture<'static, Slot>>,
    slot: Option<Slot>,
    /// Made with the first twin request, which most devices never make.
    twin_turn: Option<Arc<Mutex<()>>>,
    hello_deadline: Instant,
    heartbeat: Option<(Duration, Instant)>,
    /// When the alarm rings; none once it has.
    alarm: Option<Instant>,
    /// When bytes came last.
    read: Instant,
    /// When the last frame came whole, or reading began again.
    heard: Instant,
    /// When the frame at the front of the input began.
    frame_began: Option<Instant>,
    was_reading: bool,
    end: Option<End>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ingress: Ingress,
        peer: Peer,
        stream: S,
        stop: Stop,
        hello_deadline: Instant,
    ) -> Self {
        let (sender, deliveries) = mpsc::channel(shared.config.limits.max_commands);
        Self {
            protocol: shared.factory.protocol(&peer),
            shared,
            ingress,
            peer,
            actions: Actions::new(),
            wire: Wire::new(stream),
            stop,
            standing: Standing::Unknown,
            judgement: None,
            arrival: None,
            presence: None,
            renewal: None,
            sender,
            deliveries,
            commands: Commands::default(),
            unwritten: Vec::new(),
            queue: VecDeque::new(),
            reserving: None,
            slot: None,
            twin_turn: None,
            hello_deadline,
            heartbeat: None,
            alarm: Some(hello_deadline),
            read: Instant::now(),
            heard: Instant::now(),
            frame_began: None,
            was_reading: false,
            end: None,
        }
    }

    /// Serves the device to its end.
    ///
    /// Each time it is woken it does all that can be done, and looks at what comes seldom only if the
    /// bell was rung: a message costs two wake-ups, one to be read and one to be answered. Seldom goes
    /// before often, so that a device that never pauses keeps nobody waiting.
    pub(crate) async fn run(mut self) -> End {
        let first = pin!(None);
        let mut jobs = Jobs::new(first);
        let mut alarm = pin!(sleep_until(self.hello_deadline));
        let stop = self.stop.clone();
        let mut stopped = pin!(stop.stopped());
        self.protocol.on_connect(&self.peer, &mut self.actions);
        self.heartbeat = self
            .protocol
            .heartbeat()
            .map(|every| (every, Instant::now() + every));
        self.obey();

        let mut bell = Bell::new(Waker::noop());
        let end = poll_fn(|cx| {
            if !bell.is_of(cx.waker()) {
                bell = Bell::new(cx.waker());
            }
            loop {
                let is_rung = bell.silence();
                if is_rung {
                    let waker = Waker::from(bell.clone());
                    let seldom = &mut Context::from_waker(&waker);
                    if let Poll::Ready(reason) = stopped.as_mut().poll(seldom) {
                        return Poll::Ready(End::Told(reason));
                    }
                    while self.end.is_none() && self.poll_seldom(seldom).is_ready() {}
                }
                let awaited = self.awaited();
                loop {
                    while jobs.len() < self.shared.config.limits.window
                        && let Some(start) = self.next_job()
                    {
                        jobs.push(perform(&self.ingress, start));
                    }
                    let intake = self.take_frame(jobs.len());
                    if let Some(end) = self.end {
                        return Poll::Ready(end);
                    }
                    if intake == Intake::Taken {
                        continue;
                    }
                    let in_flight = jobs.len();
                    while let Poll::Ready(done) = jobs.poll_done(cx) {
                        self.done(done);
                    }
                    // There may be room for another frame, whose answer goes out with the others.
                    if jobs.len() < in_flight {
                        continue;
                    }
                    if self.poll_wire(cx, intake == Intake::Starved).is_pending() {
                        break;
                    }
                }
                // Behind the wire: whoever spoke in time is not late because we are.
                if self.set(alarm.as_mut()) || is_rung {
                    self.poll_alarm(alarm.as_mut(), &bell);
                }
                if self.awaited() != awaited {
                    // What is awaited anew is to ring the bell.
                    bell.ring();
                }
                if !bell.is_rung() {
                    return Poll::Pending;
                }
            }
        })
        .await;
        self.leave(jobs, end).await;
        end
    }

    /// Takes one of the things that come seldom, if it is there.
    fn poll_seldom(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(slot) = poll_in(&mut self.reserving, cx) {
            self.slot = Some(slot);
        } else if let Poll::Ready(verdict) = poll_in(&mut self.judgement, cx) {
            self.judged(verdict);
        } else if let Poll::Ready(verdict) = poll_in(&mut self.arrival, cx) {
            self.arrived(verdict);
        } else if let Poll::Ready(verdict) = poll_in(&mut self.renewal, cx) {
            self.presented(verdict);
        } else if self.takes_commands()
            && let Poll::Ready(Some(delivery)) = self.deliveries.poll_recv(cx)
        {
            self.command(delivery);
        } else {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Which of the things that come seldom may come now. What is awaited anew has to be polled.
    fn awaited(&self) -> [bool; 5] {
        [
            self.reserving.is_some(),
            self.judgement.is_some(),
            self.arrival.is_some(),
            self.renewal.is_some(),
            self.takes_commands(),
        ]
    }

    /// Writes and reads what can be. Ready if that may have made room for more.
    fn poll_wire(&mut self, cx: &mut Context<'_>, reads: bool) -> Poll<()> {
        self.note_reading(reads);
        let output = &mut self.actions.output;
        let polled = self.wire.poll_turn(cx, output, reads);
        self.wire.watch(output, self.shared.config.timeouts.write);
        let progress = ready!(polled);
        // Input is what was missing, and none came.
        let is_idle = reads && matches!(progress, Ok(Progress { read: None, .. }));
        self.progressed(progress);
        match is_idle {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Does what it is time for, and rings the bell, since anything may have come of it.
    fn poll_alarm(&mut self, alarm: Pin<&mut Sleep>, bell: &Arc<Bell>) {
        let waker = Waker::from(bell.clone());
        if self.alarm.is_some() && alarm.poll(&mut Context::from_waker(&waker)).is_ready() {
            self.alarm = None;
            self.due();
            bell.ring();
        }
    }

    /// Ends: nothing new is taken, what is in flight settles and is told, then what is not begun is
    /// given back, and the last bytes go out.
    async fn leave(mut self, mut jobs: Jobs<'_, impl Future<Output = Done>>, end: End) {
        if let Standing::Known { device, .. } = &self.standing {
            tracing::info!(device.id = %device, reason = end.as_str(), "Device disconnected");
        } else {
            let peer = self.peer.address;
            tracing::debug!(%peer, reason = end.as_str(), "Connection closed before a login");
        }
        // Gives up the device and fails its commands, also those not begun: no answer to them is
        // read any more, and nobody is to wait for the uplinks below.
        self.standing = Standing::Left;
        (self.presence, self.arrival, self.renewal) = (None, None, None);
        // Nobody polls these any more, and a credit is for those who wait for it.
        (self.judgement, self.reserving, self.slot) = (None, None, None);
        self.commands = Commands::default();
        self.unwritten.clear();
        self.deliveries.close();
        while self.deliveries.try_recv().is_ok() {}
        let mut is_open = !matches!(end, End::Gone(_));
        let patience = self.shared.config.timeouts.write;
        while jobs.len() > 0 {
            self.wire.watch(&self.actions.output, patience);
            let late = self.wire.write_deadline().unwrap_or(self.heard);
            let is_late = self.wire.write_deadline().is_some();
            tokio::select! {
                biased;
                done = poll_fn(|cx| jobs.poll_done(cx)) => self.done(done),
                written = self.wire.turn(&mut self.actions.output, false), if is_open => {
                    is_open = written.is_ok();
                }
                () = sleep_until(late), if is_open && is_late => is_open = false,
            }
        }
        // Once: who hands in again on this answer would do so for ever.
        for job in std::mem::take(&mut self.queue) {
            self.done(job.undone());
        }
        if let End::Told(reason) = end {
            self.protocol.on_close(reason, &mut self.actions);
        }
        if is_open {
            self.wire.close(&mut self.actions.output, patience).await;
        }
    }

    fn progressed(&mut self, progress: std::io::Result<Progress>) {
        match progress {
            Ok(Progress { drained, read }) => {
                if drained {
                    for reply in self.unwritten.drain(..) {
                        answer(reply, Ok(Delivered::Sent));
                    }
                }
                match read {
                    Some(0) => self.end = Some(End::HalfClosed),
                    Some(_) => {
                        self.read = Instant::now();
                        self.frame_began.get_or_insert(self.read);
                    }
                    None => {}
                }
            }
            Err(error) => {
                tracing::debug!(peer = %self.peer.address, error = %error, "Connection lost");
                self.end = Some(End::Gone("connection_lost"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
