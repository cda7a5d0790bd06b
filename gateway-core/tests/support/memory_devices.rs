//! The downstream in memory as the downstream suite's fixture.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::testkit::{
    Command, DeviceClient, DeviceEvent, DownstreamCapabilities, DownstreamFixture,
    DownstreamSettings, MemoryDevice, MemoryDownstream,
};
use gateway_core::{
    Announcement, DeviceId, Disposition, Downlink, Downstream, ErrorKind, Interest, MessageId,
    MethodReply, Settlement, TwinRequest, Uplink,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A downstream in memory, whose devices send one message after the other.
#[derive(Debug, Default)]
pub(crate) struct Memory(MemoryDownstream);

#[async_trait]
impl DownstreamFixture for Memory {
    fn capabilities(&self) -> DownstreamCapabilities {
        let mut capabilities = DownstreamCapabilities::default();
        capabilities.pushes_back = false;
        capabilities.authenticates = false;
        capabilities.ends_idle = false;
        capabilities
    }

    async fn bind(&self, _: DownstreamSettings) -> Arc<dyn Downstream> {
        Arc::new(self.0.clone())
    }

    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient> {
        let announcement = Announcement::new(device.clone()).with_interest(Interest::ALL);
        let device = match self.0.connect_as(announcement).await {
            Ok(connected) => connected,
            Err(_) => self.0.device(device.clone()).await,
        };
        Box::new(Client::new(device))
    }

    async fn intrude(&self, _: &DeviceId, _: MessageId) {
        unreachable!("devices in memory prove nothing");
    }

    async fn send_garbage(&self) {
        drop(self.0.device("noise".parse().unwrap()).await);
    }
}

/// Sends one message after the other, as a device over a wire does.
#[derive(Debug)]
struct Client {
    device: Arc<MemoryDevice>,
    uplinks: Option<mpsc::Sender<Uplink>>,
    settled: mpsc::Receiver<DeviceEvent>,
    commands: HashMap<String, Command>,
    answers: VecDeque<DeviceEvent>,
    _sender: JoinSet<()>,
}

impl Client {
    fn new(device: MemoryDevice) -> Self {
        let device = Arc::new(device);
        let (uplinks, mut waiting) = mpsc::channel::<Uplink>(100);
        let (settle, settled) = mpsc::channel(100);
        let mut sender = JoinSet::new();
        sender.spawn({
            let device = device.clone();
            async move {
                while let Some(uplink) = waiting.recv().await {
                    let id = uplink.id.clone();
                    let event = match device.send_uplink(uplink).await {
                        Settlement::Accepted => DeviceEvent::Accepted(id),
                        Settlement::Rejected(_) => DeviceEvent::Rejected(id),
                        _ => DeviceEvent::RetryLater(id),
                    };
                    settle.send(event).await.unwrap();
                }
            }
        });
        Self {
            device,
            uplinks: Some(uplinks),
            settled,
            commands: HashMap::new(),
            answers: VecDeque::new(),
            _sender: sender,
        }
    }

    fn receive(&mut self, command: Command) -> DeviceEvent {
        if let Downlink::Desired(patch) = command.downlink() {
            let (version, patch) = (patch.version, patch.body.clone());
            command.acknowledge();
            return DeviceEvent::Desired { version, patch };
        }
        let tag = self.commands.len().to_string();
        let event = match command.downlink() {
            Downlink::Message(message) => DeviceEvent::Message {
                tag: tag.clone(),
                body: message.body.clone(),
            },
            Downlink::Method(call) => DeviceEvent::Method {
                tag: tag.clone(),
                name: call.name.clone(),
                payload: call.payload.clone(),
            },
            other => panic!("no case sends {other:?}"),
        };
        self.commands.insert(tag, command);
        event
    }
}

#[async_trait]
impl DeviceClient for Client {
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool {
        let uplink = Uplink::new(self.device.id().clone(), id, body);
        match &self.uplinks {
            Some(uplinks) => uplinks.send(uplink).await.is_ok(),
            None => false,
        }
    }

    async fn next(&mut self) -> DeviceEvent {
        if let Some(answer) = self.answers.pop_front() {
            return answer;
        }
        loop {
            tokio::select! {
                biased;
                Some(event) = self.settled.recv() => return event,
                command = self.device.next(), if self.uplinks.is_some() => match command {
                    Some(command) => return self.receive(command),
                    // What was sent is settled first.
                    None => self.uplinks = None,
                },
                else => return DeviceEvent::Closed,
            }
        }
    }

    async fn settle(&mut self, tag: &str, disposition: Disposition) {
        let command = self.commands.remove(tag).unwrap();
        match disposition {
            Disposition::Complete => command.acknowledge(),
            Disposition::Reject => command.refuse(ErrorKind::Rejected),
            Disposition::Abandon => command.refuse(ErrorKind::Other),
        }
    }

    async fn reply(&mut self, tag: &str, reply: MethodReply) {
        self.commands.remove(tag).unwrap().reply(reply);
    }

    async fn ask_twin(&mut self) {
        let reply = self.device.twin(TwinRequest::Get).await.unwrap();
        self.answers.push_back(DeviceEvent::Twin(reply.body));
    }

    async fn report(&mut self, patch: Bytes) {
        let request = TwinRequest::PatchReported(patch);
        self.device.twin(request).await.unwrap();
        self.answers.push_back(DeviceEvent::Reported);
    }

    async fn close(self: Box<Self>) {}
}
