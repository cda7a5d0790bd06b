//! One device's connection: a task that owns its socket, its protocol and what is in flight.

mod commands;
mod jobs;
mod login;
mod wire;

use std::collections::VecDeque;
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use gateway_core::{
    Delivered, DeviceId, ErrorKind, Ingress, Presence, Settlement, Slot, UpstreamError,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::proto::{
    Actions, CloseReason, Command, Confirmation, FrameError, Login, Peer, Protocol, Refusal,
    Request, TOO_LONG,
};
use crate::registry::{Claim, Delivery, Outcome, Stop};
use crate::serve::Shared;
use commands::{Commands, answer};
use jobs::{Done, Job, perform};
use login::{Admission, Arrival, Judgement};
use wire::{Progress, READ_SIZE, Wire};

/// Commands that wait in front of a connection.
const DELIVERIES: usize = 8;

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
    Known { device: DeviceId, _claim: Claim },
}

/// Is what can be done about input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    /// A frame was taken, there may be more.
    Taken,
    /// More bytes are needed.
    Starved,
    /// Nothing may be taken now.
    Held,
}

/// Waits for a future that may not be there, and takes it out when it is done.
async fn next<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => {
            let output = future.await;
            *slot = None;
            output
        }
        None => pending().await,
    }
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
    sender: mpsc::Sender<Delivery>,
    deliveries: mpsc::Receiver<Delivery>,
    commands: Commands,
    /// Commands that count as sent once the output is written.
    unwritten: Vec<oneshot::Sender<Outcome>>,
    /// Decoded, and waiting for a credit or a place in the window.
    queue: VecDeque<Job>,
    reserving: Option<BoxFuture<'static, Slot>>,
    slot: Option<Slot>,
    hello_deadline: Instant,
    heartbeat: Option<(Duration, Instant)>,
    /// When the last frame ended, or reading began again.
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
        let (sender, deliveries) = mpsc::channel(DELIVERIES);
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
            sender,
            deliveries,
            commands: Commands::default(),
            unwritten: Vec::new(),
            queue: VecDeque::new(),
            reserving: None,
            slot: None,
            hello_deadline,
            heartbeat: None,
            heard: Instant::now(),
            frame_began: None,
            was_reading: false,
            end: None,
        }
    }

    /// Serves the device to its end.
    ///
    /// What is ready is handled before the socket is touched, so that the frames of many answers
    /// go out in one write.
    pub(crate) async fn run(mut self) -> End {
        let mut jobs = FuturesUnordered::new();
        let mut alarm = pin!(sleep_until(self.hello_deadline));
        let stop = self.stop.clone();
        let mut stopped = pin!(stop.stopped());
        self.protocol.on_connect(&self.peer, &mut self.actions);
        self.heartbeat = self
            .protocol
            .heartbeat()
            .map(|every| (every, Instant::now() + every));
        self.obey();

        let end = loop {
            while jobs.len() < self.shared.config.limits.window {
                let Some((device, slot, job)) = self.next_job() else {
                    break;
                };
                jobs.push(perform(self.ingress.clone(), device, slot, job));
            }
            let intake = self.take_frame(jobs.len());
            if let Some(end) = self.end {
                break end;
            }
            let reads = match intake {
                Intake::Taken => continue,
                Intake::Starved => true,
                Intake::Held => false,
            };
            self.note_reading(reads);
            self.wire
                .watch(&self.actions.output, self.shared.config.timeouts.write);
            self.set(alarm.as_mut());
            let takes_commands = self.takes_commands();
            tokio::select! {
                biased;
                reason = &mut stopped => self.end = Some(End::Told(reason)),
                Some(done) = jobs.next() => self.done(done),
                slot = next(&mut self.reserving) => self.slot = Some(slot),
                verdict = next(&mut self.judgement) => self.judged(verdict),
                verdict = next(&mut self.arrival) => self.arrived(verdict),
                Some(delivery) = self.deliveries.recv(), if takes_commands => {
                    self.command(delivery);
                }
                () = &mut alarm => self.ring(),
                progress = self.wire.turn(&mut self.actions.output, reads) => {
                    self.progressed(progress);
                }
            }
        };
        self.leave(jobs, end).await;
        end
    }

    /// Ends: nothing new is taken, what is in flight settles and is told, the last bytes go out.
    async fn leave(mut self, mut jobs: FuturesUnordered<impl Future<Output = Done>>, end: End) {
        if let Standing::Known { device, .. } = &self.standing {
            tracing::info!(device.id = %device, reason = end.as_str(), "Device disconnected");
        } else {
            let peer = self.peer.address;
            tracing::info!(%peer, reason = end.as_str(), "Connection closed before a login");
        }
        // Gives up the device and fails its commands: no answer to them is read any more.
        self.standing = Standing::Unknown;
        (self.presence, self.arrival) = (None, None);
        self.commands = Commands::default();
        self.deliveries.close();
        for job in std::mem::take(&mut self.queue) {
            self.done(job.undone());
        }
        let mut is_open = !matches!(end, End::Gone(_));
        let patience = self.shared.config.timeouts.write;
        while !jobs.is_empty() {
            self.wire.watch(&self.actions.output, patience);
            let late = self.wire.write_deadline().unwrap_or(self.heard);
            let is_late = self.wire.write_deadline().is_some();
            tokio::select! {
                biased;
                Some(done) = jobs.next() => self.done(done),
                written = self.wire.turn(&mut self.actions.output, false), if is_open => {
                    is_open = written.is_ok();
                }
                () = sleep_until(late), if is_open && is_late => is_open = false,
            }
        }
        if let End::Told(reason) = end {
            self.protocol.on_close(reason, &mut self.actions);
        }
        if is_open {
            self.wire.close(&mut self.actions.output, patience).await;
        }
    }

    /// Takes the next job that may begin: an uplink needs a credit.
    fn next_job(&mut self) -> Option<(DeviceId, Option<Slot>, Job)> {
        let Standing::Known { device, .. } = &self.standing else {
            return None;
        };
        let slot = match self.queue.front()? {
            Job::Twin { .. } => None,
            Job::Uplink { .. } if self.reserving.is_some() => return None,
            Job::Uplink { .. } => {
                let slot = self.slot.take().or_else(|| self.ingress.try_reserve());
                if slot.is_none() {
                    let ingress = self.ingress.clone();
                    self.reserving = Some(async move { ingress.reserve().await }.boxed());
                    return None;
                }
                slot
            }
        };
        Some((device.clone(), slot, self.queue.pop_front()?))
    }

    /// Takes a frame, if its consequences have room.
    fn take_frame(&mut self, in_flight: usize) -> Intake {
        let limits = &self.shared.config.limits;
        let may_take = self.end.is_none()
            && !matches!(self.standing, Standing::Judging)
            && self.queue.is_empty()
            && in_flight < limits.window
            && self.actions.output.len() < limits.max_unwritten;
        if !may_take {
            return Intake::Held;
        }
        let most = limits.max_frame + READ_SIZE;
        match self.protocol.decode(&mut self.wire.input) {
            Ok(Some(frame)) => {
                self.frame_ended();
                self.protocol.on_frame(frame, &mut self.actions);
                self.obey();
                Intake::Taken
            }
            Ok(None) if self.wire.input.len() > most => {
                self.bad_frame(FrameError::fatal(TOO_LONG));
                Intake::Held
            }
            Ok(None) => {
                if !self.wire.input.is_empty() {
                    self.frame_began.get_or_insert_with(Instant::now);
                }
                self.wire.shrink();
                Intake::Starved
            }
            Err(error) => {
                self.frame_ended();
                self.bad_frame(error);
                Intake::Taken
            }
        }
    }

    fn frame_ended(&mut self) {
        self.frame_began = None;
        self.heard = Instant::now();
    }

    fn bad_frame(&mut self, error: FrameError) {
        tracing::debug!(peer = %self.peer.address, error = %error, "Bytes are no frame");
        self.protocol.on_frame_error(&error, &mut self.actions);
        self.obey();
        if error.is_fatal() {
            self.end.get_or_insert(End::Told(CloseReason::BadFrame));
        }
    }

    /// Does what the protocol asked for.
    fn obey(&mut self) {
        while !self.actions.requests.is_empty() {
            let mut requests = std::mem::take(&mut self.actions.requests);
            for request in requests.drain(..) {
                self.grant(request);
            }
            if self.actions.requests.is_empty() {
                // The same memory serves the next frame.
                self.actions.requests = requests;
            }
        }
    }

    fn grant(&mut self, request: Request) {
        match request {
            Request::Identify(login) => self.identify(login),
            Request::Done { tag, result } => self.commands.done(tag, result),
            Request::Close => {
                self.end.get_or_insert(End::Told(CloseReason::Protocol));
            }
            Request::Twin { token, request } => {
                let job = Job::Twin { token, request };
                match self.standing {
                    Standing::Known { .. } if self.end.is_none() => self.queue.push_back(job),
                    _ => self.done(job.undone()),
                }
            }
            Request::Uplink { token, uplink } => match &self.standing {
                Standing::Known { device, .. } if *device != uplink.device => {
                    self.refuse(token, ErrorKind::Unauthorized);
                }
                Standing::Known { .. } if self.end.is_none() => {
                    self.queue.push_back(Job::Uplink { token, uplink });
                }
                Standing::Known { .. } => self.done(Job::Uplink { token, uplink }.undone()),
                _ if self.end.is_some() => self.done(Job::Uplink { token, uplink }.undone()),
                _ => self.refuse(token, ErrorKind::Unauthorized),
            },
        }
    }

    fn refuse(&mut self, token: u64, kind: ErrorKind) {
        self.done(Done::Uplink {
            token,
            settlement: Settlement::Rejected(kind),
        });
    }

    fn identify(&mut self, login: Login) {
        match &self.standing {
            Standing::Judging => tracing::warn!("A protocol identified a device twice at once"),
            Standing::Known { device, .. } if *device == login.device => {
                let device = device.clone();
                self.protocol.on_login(Ok(&device), &mut self.actions);
            }
            Standing::Known { .. } => {
                let refusal = Refusal::new(ErrorKind::Rejected);
                self.judged(Err(refusal));
            }
            Standing::Unknown => {
                self.standing = Standing::Judging;
                let (registry, device) = (self.shared.registry.clone(), login.device.clone());
                let (sender, stop) = (self.sender.clone(), self.stop.clone());
                self.judgement = Some(login::judge(
                    self.shared.clone(),
                    self.ingress.clone(),
                    self.peer.clone(),
                    login,
                    move || Claim::new(registry, device, sender, stop),
                    self.hello_deadline,
                ));
            }
        }
    }

    fn judged(&mut self, verdict: Result<Admission, Refusal>) {
        match verdict {
            Ok(Admission {
                claim,
                announcement,
                presence,
            }) => {
                let device = announcement.device.clone();
                tracing::info!(device.id = %device, peer = %self.peer.address, "Device connected");
                claim.take();
                if presence.is_none() {
                    self.arrival = Some(login::arrive(self.ingress.clone(), announcement));
                }
                self.presence = presence;
                self.heard = Instant::now();
                self.standing = Standing::Known {
                    device: device.clone(),
                    _claim: claim,
                };
                self.protocol.on_login(Ok(&device), &mut self.actions);
            }
            Err(refusal) => {
                tracing::info!(peer = %self.peer.address, error = %refusal, "Login refused");
                self.protocol.on_login(Err(&refusal), &mut self.actions);
                self.end
                    .get_or_insert(End::Told(CloseReason::Refused(refusal)));
            }
        }
        self.obey();
    }

    fn arrived(&mut self, verdict: Result<Presence, UpstreamError>) {
        match verdict {
            Ok(presence) => self.presence = Some(presence),
            Err(error) => {
                let reason = match error.kind() {
                    ErrorKind::Closed => CloseReason::Shutdown,
                    _ => CloseReason::Refused(Refusal::from(&error)),
                };
                tracing::info!(peer = %self.peer.address, error = %error, "Hub refused the device");
                self.end.get_or_insert(End::Told(reason));
            }
        }
    }

    fn done(&mut self, done: Done) {
        let actions = &mut self.actions;
        match done {
            Done::Uplink { token, settlement } => {
                self.protocol.on_settled(token, settlement, actions);
            }
            Done::Twin { token, answer } => self.protocol.on_twin(token, answer, actions),
        }
        self.obey();
    }

    fn takes_commands(&self) -> bool {
        let limits = &self.shared.config.limits;
        matches!(self.standing, Standing::Known { .. })
            && self.commands.len() < limits.max_commands
            && self.unwritten.len() < limits.max_commands
            && self.actions.output.len() < limits.max_unwritten
    }

    fn command(&mut self, delivery: Delivery) {
        let Delivery {
            downlink,
            reply,
            deadline,
        } = delivery;
        let time_left = deadline.saturating_duration_since(Instant::now());
        if reply.is_closed() || time_left.is_zero() {
            return answer(reply, Err(ErrorKind::TimedOut));
        }
        let tag = self.commands.next_tag();
        let command = Command::new(tag, &downlink, time_left);
        match self.protocol.on_command(command, &mut self.actions) {
            Err(kind) => answer(reply, Err(kind)),
            Ok(Confirmation::Awaited) => self.commands.wait(tag, deadline, reply),
            Ok(Confirmation::Never) if self.actions.output.is_empty() => {
                answer(reply, Ok(Delivered::Sent));
            }
            Ok(Confirmation::Never) => self.unwritten.push(reply),
        }
        self.obey();
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
                        self.frame_began.get_or_insert_with(Instant::now);
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

    /// Stops the device's clocks while it is not listened to.
    fn note_reading(&mut self, reads: bool) {
        if reads && !self.was_reading {
            self.heard = Instant::now();
            self.frame_began = self.frame_began.map(|_| self.heard);
        }
        self.was_reading = reads;
    }

    /// When the device must have said something, if it is listened to, and what if it has not.
    fn device_deadline(&self) -> Option<(Instant, CloseReason)> {
        let timeouts = &self.shared.config.timeouts;
        match (&self.standing, self.frame_began) {
            (Standing::Unknown, _) => Some((self.hello_deadline, CloseReason::HelloTimeout)),
            _ if !self.was_reading => None,
            (_, Some(began)) => Some((began + timeouts.frame, CloseReason::FrameTimeout)),
            (_, None) => Some((self.heard + timeouts.idle, CloseReason::IdleTimeout)),
        }
    }

    /// Sets the alarm. One that is early finds nothing to do and is set again, which is cheaper
    /// than moving it with every frame.
    fn set(&self, mut alarm: Pin<&mut Sleep>) {
        let deadlines = [
            self.device_deadline().map(|(at, _)| at),
            self.wire.write_deadline(),
            self.commands.deadline(),
            self.heartbeat.map(|(_, at)| at),
        ];
        if let Some(at) = deadlines.into_iter().flatten().min()
            && (at < alarm.deadline() || alarm.is_elapsed())
        {
            alarm.as_mut().reset(at);
        }
    }

    fn ring(&mut self) {
        let now = Instant::now();
        if self.wire.write_deadline().is_some_and(|at| at <= now) {
            self.end = Some(End::Gone("write_timeout"));
            return;
        }
        if let Some((at, reason)) = self.device_deadline()
            && at <= now
        {
            self.end = Some(End::Told(reason));
            return;
        }
        while let Some(tag) = self.commands.expire(now) {
            self.protocol.on_command_expired(tag);
        }
        if let Some((every, at)) = self.heartbeat.filter(|(_, at)| *at <= now) {
            self.heartbeat = Some((every, at.max(now) + every));
            self.protocol.on_heartbeat(&mut self.actions);
            self.obey();
        }
    }
}
