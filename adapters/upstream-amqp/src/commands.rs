//! What the hub sends to one device: messages, methods, twin.
//!
//! A task for each device that listens, none for the others. It owns the links.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use fe2o3_amqp_types::messaging::MessageId;
use fe2o3_amqp_types::primitives::{Symbol, Value};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::stream::FuturesUnordered;
use gateway_core::{
    Backoff, DesiredPatch, Disposition, ErrorKind, Interest, MethodReply, TwinReply, TwinRequest,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::attach::note_throttle;
use crate::client::{Incoming, LinkSpec, Receiver, Sender, Verdict};
use crate::convert;
use crate::device::Device;
use crate::door::Turn;
use crate::env::{Env, Event};
use crate::error::AmqpError;
use crate::governor::{Class, Operation, Priority};
use crate::lane::Lane;
use crate::link::{address, client_properties};
use crate::twin::{Notice, Twin};

/// Changes of interest and twin requests that wait for the task.
const QUEUE: usize = 16;
/// How long an orderly close of a link may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Version of the hub's interface that twins and methods follow.
const API_VERSION: &str = "2021-04-12";

pub(crate) type TwinAnswer = oneshot::Sender<Result<TwinReply, AmqpError>>;

#[derive(Debug)]
enum Control {
    Interest(Interest),
    Twin(TwinRequest, TwinAnswer),
}

/// Reaches the task. Dropped, it ends the task in order.
#[derive(Debug)]
pub(crate) struct Commands {
    control: mpsc::Sender<Control>,
    interest: Interest,
    is_over: Arc<AtomicBool>,
}

impl Commands {
    pub(crate) fn start(
        env: &Arc<Env>,
        device: &Arc<Device>,
        lane: &Arc<Lane>,
        interest: Interest,
    ) -> Self {
        let (control, queue) = mpsc::channel(QUEUE);
        let task = Task {
            env: env.clone(),
            device: device.clone(),
            lane: lane.clone(),
            interest,
            messages: None,
            methods: None,
            twin: None,
            verdicts: FuturesUnordered::new(),
            replies: FuturesUnordered::new(),
            notice: None,
            failures: 0,
            open_at: Some(Instant::now()),
            turn: None,
            asks: Vec::new(),
            is_over: Arc::default(),
        };
        let is_over = task.is_over.clone();
        env.tasks.spawn(task.run(queue));
        Self {
            control,
            interest,
            is_over,
        }
    }

    /// Tells whether the hub has ended the device's session, as the supervisor was told.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    pub(crate) async fn set_interest(&mut self, interest: Interest) -> Result<(), AmqpError> {
        if interest != self.interest {
            let sent = self.control.send(Control::Interest(interest)).await;
            sent.map_err(|_| AmqpError::Down)?;
            self.interest = interest;
        }
        Ok(())
    }

    /// Hands over a request; the answer comes through the channel.
    pub(crate) async fn ask_twin(
        &self,
        request: TwinRequest,
        answer: TwinAnswer,
    ) -> Result<(), AmqpError> {
        self.control
            .send(Control::Twin(request, answer))
            .await
            .map_err(|_| AmqpError::Down)
    }
}

struct Task {
    env: Arc<Env>,
    device: Arc<Device>,
    lane: Arc<Lane>,
    interest: Interest,
    messages: Option<Receiver>,
    methods: Option<(Receiver, Sender)>,
    twin: Option<Twin>,
    verdicts: FuturesUnordered<BoxFuture<'static, (u32, Disposition)>>,
    replies: FuturesUnordered<BoxFuture<'static, (MessageId, MethodReply)>>,
    notice: Option<BoxFuture<'static, ()>>,
    failures: u32,
    /// When links that are wanted and missing are to be opened.
    open_at: Option<Instant>,
    /// What is opened next, and its turn at the door: what is there is served meanwhile.
    turn: Option<(Wanted, BoxFuture<'static, ()>)>,
    /// Requests that wait for the twin's links.
    asks: Vec<(TwinRequest, TwinAnswer)>,
    is_over: Arc<AtomicBool>,
}

/// What a device listens on, in the order in which it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Messages,
    Methods,
    Twin,
}

/// What the task met.
enum Met {
    Control(Option<Control>),
    Due,
    Turn,
    Message(Result<Incoming, AmqpError>),
    Verdict(u32, Disposition),
    Method(Result<Incoming, AmqpError>),
    Reply(MessageId, MethodReply),
    Twin(Result<Option<Notice>, AmqpError>),
    Notified,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Control>) {
        let down = self.lane.down.clone();
        loop {
            let met = tokio::select! {
                biased;
                () = down.cancelled() => return,
                met = self.next(&mut queue) => met,
            };
            // Rare, and larger than all that waits: a device that only waits should be small.
            if !Box::pin(self.handle(met, &queue)).await {
                break;
            }
        }
        Box::pin(self.close()).await;
    }

    /// Handles what was met. False: the device's commands are over.
    async fn handle(&mut self, met: Met, queue: &mpsc::Receiver<Control>) -> bool {
        let handled = match met {
            Met::Control(None) => return false,
            Met::Control(Some(Control::Interest(interest))) => {
                self.interest = interest;
                self.want();
                self.close_unwanted().await;
                Ok(())
            }
            Met::Control(Some(Control::Twin(request, answer))) => self.ask(request, answer).await,
            Met::Due => {
                self.want();
                Ok(())
            }
            Met::Turn => self.open_next().await,
            Met::Message(Ok(delivery)) => self.deliver(delivery),
            Met::Verdict(delivery, disposition) => self.settle(delivery, disposition),
            Met::Method(Ok(delivery)) => self.call(&delivery).await,
            Met::Reply(id, reply) => self.reply(id, &reply).await,
            Met::Twin(Ok(notice)) => {
                self.notify(notice);
                Ok(())
            }
            Met::Notified => {
                self.notice = None;
                Ok(())
            }
            Met::Message(Err(error)) => {
                self.messages = None;
                Err(error)
            }
            Met::Method(Err(error)) => {
                self.methods = None;
                Err(error)
            }
            Met::Twin(Err(error)) => {
                self.twin = None;
                Err(error)
            }
        };
        match handled {
            Ok(()) => true,
            // Nobody holds its links any more: what becomes of them is nobody's loss.
            Err(_) if queue.is_closed() => false,
            Err(error) => self.survives(error).await,
        }
    }

    async fn close(&mut self) {
        self.interest = Interest::NONE;
        self.twin_close().await;
        self.close_unwanted().await;
    }

    /// Waits for whatever comes first. Cancel safe: nothing is taken but what is returned.
    async fn next(&mut self, queue: &mut mpsc::Receiver<Control>) -> Met {
        let credit = self.env.config.commands.credit as usize;
        let due = self.open_at;
        let messages = self
            .messages
            .as_mut()
            .filter(|_| self.verdicts.len() < credit);
        let methods = self
            .methods
            .as_mut()
            .filter(|_| self.replies.len() < credit);
        let message: OptionFuture<_> = messages.map(Receiver::recv).into();
        let method: OptionFuture<_> = methods.map(|(link, _)| link.recv()).into();
        // A change is passed on before the next is taken.
        let twin = self.twin.as_mut().filter(|_| self.notice.is_none());
        let twin: OptionFuture<_> = twin.map(|twin| Box::pin(twin.next())).into();
        let notified: OptionFuture<_> = self.notice.as_mut().into();
        let turn: OptionFuture<_> = self.turn.as_mut().map(|(_, turn)| turn).into();
        tokio::select! {
            Some((id, disposition)) = self.verdicts.next() => Met::Verdict(id, disposition),
            Some((id, reply)) = self.replies.next() => Met::Reply(id, reply),
            control = queue.recv() => Met::Control(control),
            Some(delivery) = message => Met::Message(delivery.map_err(Into::into)),
            Some(delivery) = method => Met::Method(delivery.map_err(Into::into)),
            Some(notice) = twin => Met::Twin(notice),
            Some(()) = notified => Met::Notified,
            Some(()) = turn => Met::Turn,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Met::Due,
        }
    }

    /// The first that is wanted and not there.
    fn missing(&self) -> Option<Wanted> {
        let Interest {
            messages,
            methods,
            desired,
            ..
        } = self.interest;
        let is_deaf = !self.twin.as_ref().is_some_and(Twin::is_subscribed);
        if messages && self.messages.is_none() {
            Some(Wanted::Messages)
        } else if methods && self.methods.is_none() {
            Some(Wanted::Methods)
        } else if (desired && is_deaf) || !self.asks.is_empty() {
            Some(Wanted::Twin)
        } else {
            None
        }
    }

    /// Queues at the door for what is missing, telemetry's own link having come first.
    fn want(&mut self) {
        self.open_at = None;
        let missing = self.missing();
        if self.turn.as_ref().map(|(wanted, _)| *wanted) == missing {
            return;
        }
        self.turn = missing.map(|wanted| {
            // Messages lapse while they wait, and methods have somebody waiting.
            let class = match wanted {
                Wanted::Messages => Class::Standing,
                Wanted::Methods => Class::Wanted,
                Wanted::Twin if !self.asks.is_empty() => Class::Wanted,
                Wanted::Twin => Class::Quiet,
            };
            let priority = Priority::new(class, self.device.active());
            let env = self.env.clone();
            let turn = async move {
                let turn = Turn::default();
                env.door.pass(Operation::CommandLink, priority, &turn).await;
            };
            (wanted, Box::pin(turn) as BoxFuture<'static, ()>)
        });
    }

    async fn open_next(&mut self) -> Result<(), AmqpError> {
        let Some((wanted, _)) = self.turn.take() else {
            return Ok(());
        };
        let opened = match wanted {
            Wanted::Messages => self.open_messages().await,
            Wanted::Methods => self.open_methods().await,
            Wanted::Twin => self.open_twin().await.inspect_err(|_| self.twin = None),
        };
        opened.inspect_err(|error| note_throttle(&self.env, Operation::CommandLink, error))?;
        self.want();
        if self.turn.is_none() {
            self.failures = 0;
        }
        Ok(())
    }

    async fn open_messages(&mut self) -> Result<(), AmqpError> {
        let spec = self.spec("messages", "messages/devicebound", false, None);
        let credit = self.env.config.commands.credit;
        self.messages = Some(self.lane.open_receiver(spec, credit).await?);
        Ok(())
    }

    async fn open_methods(&mut self) -> Result<(), AmqpError> {
        self.methods = Some(self.open_pair("methods", "methods/devicebound").await?);
        Ok(())
    }

    async fn open_twin(&mut self) -> Result<(), AmqpError> {
        if self.twin.is_none() {
            match self.open_pair("twin", "twin").await {
                Ok((receiver, sender)) => self.twin = Some(Twin::new(sender, receiver)),
                Err(error) => return self.twin_failed(error),
            }
        }
        let (asks, twin) = (std::mem::take(&mut self.asks), self.twin.as_mut());
        let twin = twin.ok_or(AmqpError::Down)?;
        if self.interest.desired {
            twin.subscribe().await?;
        }
        for (request, answer) in asks {
            twin.ask(request, answer).await?;
        }
        Ok(())
    }

    /// Tells those who asked. Without them the twin may be wanted or not.
    fn twin_failed(&mut self, error: AmqpError) -> Result<(), AmqpError> {
        note_throttle(&self.env, Operation::CommandLink, &error);
        let is_wanted = self.interest.desired || error.is_passing();
        let mut asks = std::mem::take(&mut self.asks).into_iter();
        let Some((_, first)) = asks.next() else {
            return Err(error);
        };
        drop(first.send(Err(error)));
        // The others ask again and learn it then.
        asks.for_each(|(_, answer)| drop(answer.send(Err(AmqpError::Down))));
        match is_wanted {
            true => Err(AmqpError::Down),
            false => Ok(()),
        }
    }

    /// Opens both links of an exchange.
    async fn open_pair(&mut self, name: &str, path: &str) -> Result<(Receiver, Sender), AmqpError> {
        let pair = format!("{name}:{}", self.env.name(self.device.id.as_str(), "pair"));
        let receiver = self.spec(&format!("{name}-in"), path, true, Some(&pair));
        let sender = self.spec(&format!("{name}-out"), path, true, Some(&pair));
        let sender = self.lane.open_sender(sender).await?;
        let credit = self.env.config.commands.credit;
        Ok((self.lane.open_receiver(receiver, credit).await?, sender))
    }

    fn spec(&self, purpose: &str, path: &str, settled: bool, pair: Option<&str>) -> LinkSpec {
        let mut properties = client_properties();
        if let Some(pair) = pair {
            let mut insert = |name: &str, value: &str| {
                properties.insert(Symbol::from(name), Value::String(value.to_owned()));
            };
            insert("com.microsoft:api-version", API_VERSION);
            insert("com.microsoft:channel-correlation-id", pair);
        }
        LinkSpec {
            name: self.env.name(self.device.id.as_str(), purpose),
            address: address(&self.env, &self.device, path),
            settled,
            properties,
        }
    }

    fn deliver(&mut self, delivery: Incoming) -> Result<(), AmqpError> {
        let Incoming { id, payload, .. } = delivery;
        let Ok(message) = convert::decode(&payload) else {
            // It will not become readable.
            return self.settle(id, Disposition::Reject);
        };
        let deadline = Instant::now() + self.env.config.commands.lock;
        let message = convert::cloud_message(self.device.id.clone(), message, deadline);
        let callback = self.device.wish().callback;
        self.verdicts.push(Box::pin(
            async move { (id, callback.on_message(message).await) },
        ));
        Ok(())
    }

    fn settle(&mut self, delivery: u32, disposition: Disposition) -> Result<(), AmqpError> {
        // Its link has been lost: the hub gives the message again.
        let Some(link) = &self.messages else {
            return Ok(());
        };
        let verdict = match disposition {
            Disposition::Complete => Verdict::Accept,
            Disposition::Reject => Verdict::Reject,
            Disposition::Abandon => Verdict::Release,
        };
        Ok(link.settle(delivery, verdict)?)
    }

    async fn call(&mut self, delivery: &Incoming) -> Result<(), AmqpError> {
        let message = convert::decode(&delivery.payload)?;
        let deadline = Instant::now() + self.env.config.commands.method_timeout;
        match convert::method_call(self.device.id.clone(), message, deadline) {
            Ok((id, call)) => {
                let callback = self.device.wish().callback;
                self.replies.push(Box::pin(
                    async move { (id, callback.on_method(call).await) },
                ));
                Ok(())
            }
            Err(id) => {
                let reply = MethodReply::new(400, r#"{"error":"invalid method request"}"#);
                self.reply(id, &reply).await
            }
        }
    }

    async fn reply(&mut self, id: MessageId, reply: &MethodReply) -> Result<(), AmqpError> {
        // Its link has been lost, and with it whoever waited.
        let Some((_, link)) = &mut self.methods else {
            return Ok(());
        };
        let reply = convert::encode(&convert::method_reply(id, reply))?;
        Ok(link.send_settled(reply).await?)
    }

    async fn ask(&mut self, request: TwinRequest, answer: TwinAnswer) -> Result<(), AmqpError> {
        let Some(twin) = &mut self.twin else {
            if self.asks.len() < QUEUE {
                self.asks.push((request, answer));
                self.want();
            } else {
                drop(answer.send(Err(AmqpError::Crowded)));
            }
            return Ok(());
        };
        let asked = twin.ask(request, answer).await;
        if asked.is_err() {
            self.twin = None;
        }
        asked
    }

    fn notify(&mut self, notice: Option<Notice>) {
        let Some(Notice { version, patch }) = notice else {
            return;
        };
        let patch = DesiredPatch::new(self.device.id.clone(), version, patch);
        let callback = self.device.wish().callback;
        self.notice = Some(Box::pin(async move { callback.on_desired(patch).await }));
    }

    /// Decides what a lost or refused link means. False: the device's commands are over.
    async fn survives(&mut self, error: AmqpError) -> bool {
        if self.lane.down.is_cancelled() || self.device.is_gone() {
            return false;
        }
        note_throttle(&self.env, Operation::CommandLink, &error);
        tracing::info!(device.id = %self.device.id, error = %error, "Command link lost");
        let credential = self.device.wish().identity.credential;
        let breakers = &self.env.breakers;
        breakers.detached(&self.device.id, &credential, &error);
        match error.kind() {
            // Whoever took the device has it; fighting over it would go on for ever.
            kind @ (ErrorKind::Displaced | ErrorKind::Unauthorized | ErrorKind::UnknownDevice) => {
                self.is_over.store(true, Relaxed);
                self.env.tell(Event::Ended(self.device.clone(), kind)).await;
                return false;
            }
            // A hub of a tier without commands refuses them for good.
            ErrorKind::Unsupported => return true,
            _ => {}
        }
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let wait = backoff.unwrap_or_default().delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.open_at = Some(Instant::now() + wait);
        true
    }

    async fn close_unwanted(&mut self) {
        if !self.interest.messages
            && let Some(link) = self.messages.take()
        {
            // What is unsettled goes back to the hub's queue with the link.
            self.verdicts.clear();
            drop(timeout(CLOSE_PATIENCE, link.close()).await);
        }
        if !self.interest.methods
            && let Some((receiver, sender)) = self.methods.take()
        {
            self.replies.clear();
            drop(timeout(CLOSE_PATIENCE, receiver.close()).await);
            drop(timeout(CLOSE_PATIENCE, sender.close()).await);
        }
    }

    async fn twin_close(&mut self) {
        if let Some(twin) = self.twin.take() {
            drop(timeout(CLOSE_PATIENCE, twin.close()).await);
        }
    }
}
