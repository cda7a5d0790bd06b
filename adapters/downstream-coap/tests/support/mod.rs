//! A gateway over a hub in memory, and devices that speak CoAP over UDP and over streams.

#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod hello;
pub(crate) mod peers;
pub(crate) mod pki;
pub(crate) mod proxy;
pub(crate) mod session;
pub(crate) mod stream;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::{DeviceEvent, MemoryUpstream};
use gateway_core::{DeviceId, Gateway, GatewayConfig, MessageId, MethodName, ShutdownReport};
use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, Token, option};
use gateway_downstream_coap::{CoapConfig, CoapDownstream, CoapDownstreamBuilder};
use stream::StreamDevice;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

/// What every device of a test proves itself with.
pub(crate) const TOKEN: &str = "a token for tests";

/// Requests on their way; the gateway takes 16 of a peer.
const WINDOW: usize = 8;
/// When what is not acknowledged is sent again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a device waits in vain before its test fails.
const LIMIT: Duration = Duration::from_secs(120);

/// Gives a test no more time than that.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let result = timeout(LIMIT, work).await;
    result.expect("what the test waits for does not happen")
}

pub(crate) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

/// Waits for what nobody tells.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let mut tick = interval(Duration::from_millis(20));
    in_time(async {
        while !is_so() {
            tick.tick().await;
        }
    })
    .await;
}

/// A gateway that serves devices with the token.
pub(crate) struct Running {
    pub(crate) hub: MemoryUpstream,
    pub(crate) coap: Arc<CoapDownstream>,
    pub(crate) gateway: Gateway,
    shutdown: CancellationToken,
    run: JoinSet<ShutdownReport>,
}

impl Running {
    pub(crate) async fn start(config: CoapConfig, devices: &[&str]) -> Self {
        Self::start_with(with_tokens(config, devices)).await
    }

    /// A gateway that tries nothing twice.
    pub(crate) async fn start_impatient(config: CoapConfig, devices: &[&str]) -> Self {
        let mut gateway = GatewayConfig::default();
        gateway.retry.budget = Duration::ZERO;
        Self::start_as(with_tokens(config, devices), gateway).await
    }

    pub(crate) async fn start_with(builder: CoapDownstreamBuilder) -> Self {
        Self::start_as(builder, GatewayConfig::default()).await
    }

    async fn start_as(builder: CoapDownstreamBuilder, config: GatewayConfig) -> Self {
        let hub = MemoryUpstream::new();
        let coap = Arc::new(builder.bind().await.unwrap());
        let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
        let policy = SharedAccessPolicy::new("device", key);
        let gateway = Gateway::builder(hub.clone())
            .with_config(config)
            .with_credentials(HubPolicyCredentials::new(policy))
            .with_downstream("coap", coap.clone())
            .build()
            .unwrap();
        let shutdown = CancellationToken::new();
        let mut run = JoinSet::new();
        run.spawn({
            let (gateway, shutdown) = (gateway.clone(), shutdown.clone());
            async move { gateway.run(shutdown).await.unwrap() }
        });
        Self {
            hub,
            coap,
            gateway,
            shutdown,
            run,
        }
    }

    pub(crate) async fn device(&self, name: &str) -> Device {
        Device::new(self.coap.udp_addr().unwrap(), &device(name)).await
    }

    /// A device on a TCP connection.
    pub(crate) async fn stream_device(&self, name: &str) -> StreamDevice {
        let stream = TcpStream::connect(self.coap.tcp_addr().unwrap()).await;
        StreamDevice::new(stream.unwrap(), &device(name)).await
    }

    pub(crate) async fn end(mut self) -> ShutdownReport {
        self.shutdown.cancel();
        self.run.join_next().await.unwrap().unwrap()
    }
}

/// Gives devices the token, over UDP among others.
fn with_tokens(mut config: CoapConfig, devices: &[&str]) -> CoapDownstreamBuilder {
    config.udp.get_or_insert_default().listen.set_port(0);
    for name in devices {
        let token = TOKEN.to_owned().into();
        config.identity.tokens.insert(device(name), token);
    }
    CoapDownstream::builder(config)
}

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    Uplink(MessageId),
    Twin,
    Report,
    /// A registration for commands or for desired properties.
    Register,
    Asked,
    Other,
}

impl Purpose {
    /// What the gateway's answer means to the device, if there is more to it than itself.
    fn event(self, response: Message) -> Option<DeviceEvent> {
        Some(match self {
            Self::Asked | Self::Other | Self::Register => return None,
            Self::Uplink(id) => match response.code {
                Code::CHANGED => DeviceEvent::Accepted(id),
                Code::UNAVAILABLE | Code::TOO_MANY_REQUESTS => {
                    assert!(response.options.has(option::MAX_AGE));
                    DeviceEvent::RetryLater(id)
                }
                _ => DeviceEvent::Rejected(id),
            },
            Self::Twin => {
                assert_eq!(response.code, Code::CONTENT);
                DeviceEvent::Twin(response.payload)
            }
            Self::Report => {
                assert_eq!(response.code, Code::CHANGED);
                DeviceEvent::Reported
            }
        })
    }
}

/// The change that a notification brings; none if it asks whether the device is there.
fn change(notification: Message) -> Option<DeviceEvent> {
    let version = notification.options.get(option::ETAG)?;
    let fold = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    Some(DeviceEvent::Desired {
        version: version.iter().fold(0, fold),
        patch: notification.payload,
    })
}

#[derive(Debug)]
struct Outstanding {
    purpose: Purpose,
    id: u16,
    message: Message,
    is_acknowledged: bool,
}

/// A device on a socket of its own.
#[derive(Debug)]
pub(crate) struct Device {
    socket: UdpSocket,
    proof: [String; 2],
    last_id: u16,
    last_token: u32,
    outstanding: HashMap<Token, Outstanding>,
    answered: HashSet<Token>,
    commands: Token,
    /// Tokens of observations that it does not want any more.
    former: HashSet<Token>,
    desired: Token,
    /// Messages of the gateway that were seen, and those that were acknowledged.
    seen: HashSet<u16>,
    acknowledged: HashSet<u16>,
    heard_at: Instant,
    patience: Duration,
    events: VecDeque<DeviceEvent>,
    answers: VecDeque<Message>,
}

impl Device {
    pub(crate) async fn new(gateway: SocketAddr, device: &DeviceId) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(gateway).await.unwrap();
        Self {
            socket,
            proof: [format!("$.id={device}"), format!("$.token={TOKEN}")],
            last_id: 0,
            last_token: 0,
            outstanding: HashMap::new(),
            answered: HashSet::new(),
            commands: Token::EMPTY,
            former: HashSet::new(),
            desired: Token::EMPTY,
            seen: HashSet::new(),
            acknowledged: HashSet::new(),
            heard_at: Instant::now(),
            patience: PATIENCE,
            events: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    /// Sets when what is not acknowledged is sent again.
    pub(crate) fn send_again_after(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Sends a request with the device's proof; waits while there are too many on their way.
    pub(crate) async fn request(&mut self, purpose: Purpose, mut message: Message) -> Token {
        for part in &self.proof {
            message
                .options
                .add(option::URI_QUERY, part.clone().into_bytes());
        }
        while self.outstanding.len() >= WINDOW {
            self.take().await;
        }
        self.last_token += 1;
        let token = Token::from(self.last_token);
        self.send(purpose, message.with_token(token)).await;
        token
    }

    /// Sends a request with the device's proof and waits for its answer.
    pub(crate) async fn say(&mut self, message: Message) -> Message {
        self.request(Purpose::Asked, message).await;
        self.answer().await
    }

    /// Sends bytes as they are and waits for the next datagram.
    pub(crate) async fn exchange(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.write(bytes).await;
        let mut buffer = vec![0; 4096];
        let length = self.socket.recv(&mut buffer).await.unwrap();
        buffer.truncate(length);
        buffer
    }

    /// Waits for a message of the gateway.
    pub(crate) async fn requested(&mut self) -> Datagram {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).await.unwrap();
        Datagram::decode(&buffer[..length]).unwrap()
    }

    /// Waits until each of its observations has ended with an error, and gives their codes.
    pub(crate) async fn farewells(&mut self) -> Vec<Code> {
        let mut codes = HashMap::new();
        while codes.len() < 2 {
            let Datagram { id, message, .. } = self.requested().await;
            self.acknowledge(id).await;
            codes.insert(message.token, message.code);
        }
        assert!(codes.contains_key(&self.commands) && codes.contains_key(&self.desired));
        codes.into_values().collect()
    }

    /// Sends a datagram.
    pub(crate) async fn tell(&mut self, datagram: Datagram) {
        self.write(&datagram.encode()).await;
    }

    async fn write(&self, bytes: &[u8]) {
        // Behind the size of the pieces in which the target cuts it.
        fuzz_seeds::keep("coap_message", &[&[7], bytes].concat());
        self.socket.send(bytes).await.unwrap();
    }

    /// The parts of a query that prove who this is.
    pub(crate) fn proof(&self) -> impl Iterator<Item = Vec<u8>> {
        self.proof.iter().map(|part| part.clone().into_bytes())
    }

    /// Sends a request as it is and waits for its answer.
    pub(crate) async fn ask(&mut self, message: Message) -> Message {
        self.last_token += 1;
        let message = message.with_token(Token::from(self.last_token));
        self.send(Purpose::Asked, message).await;
        self.answer().await
    }

    /// Waits for the answer to what was asked.
    pub(crate) async fn answer(&mut self) -> Message {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            self.take().await;
        }
    }

    /// Observes commands and desired properties, and waits for what becomes of it.
    pub(crate) async fn register(&mut self) {
        self.commands = self.observe("c", 0).await;
        self.desired = self.observe("twin/desired", 0).await;
        self.idle().await;
    }

    /// Observes commands, without waiting for what becomes of it.
    pub(crate) async fn observe_commands(&mut self) {
        self.former.insert(self.commands);
        self.commands = self.observe("c", 0).await;
    }

    /// Waits until no request is on its way.
    pub(crate) async fn idle(&mut self) {
        while !self.outstanding.is_empty() {
            self.take().await;
        }
    }

    async fn observe(&mut self, path: &str, value: u32) -> Token {
        let message = Message::new(Code::GET)
            .with_path(path)
            .with_uint(option::OBSERVE, value);
        self.request(Purpose::Register, message).await
    }

    /// Takes the registrations back.
    pub(crate) async fn deregister(&mut self) {
        self.forgo(self.commands, "c").await;
        self.forgo(self.desired, "twin/desired").await;
        self.idle().await;
    }

    /// Takes the registration for commands back.
    pub(crate) async fn deregister_commands(&mut self) {
        self.forgo(self.commands, "c").await;
        self.idle().await;
    }

    async fn forgo(&mut self, token: Token, path: &str) {
        let mut message = Message::new(Code::GET)
            .with_path(path)
            .with_uint(option::OBSERVE, 1)
            .with_token(token);
        for part in &self.proof {
            let part = part.clone().into_bytes();
            message.options.add(option::URI_QUERY, part);
        }
        self.send(Purpose::Other, message).await;
    }

    pub(crate) async fn next(&mut self) -> DeviceEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            self.take().await;
        }
    }

    /// Acknowledges a notification.
    pub(crate) async fn acknowledge(&mut self, id: u16) {
        self.acknowledged.insert(id);
        self.write(&Datagram::empty(Kind::Acknowledgement, id).encode())
            .await;
    }

    async fn send(&mut self, purpose: Purpose, message: Message) {
        self.last_id += 1;
        let id = self.last_id;
        let outstanding = Outstanding {
            purpose,
            id,
            message: message.clone(),
            is_acknowledged: false,
        };
        self.outstanding.insert(message.token, outstanding);
        let kind = Kind::Confirmable;
        self.write(&Datagram { kind, id, message }.encode()).await;
    }

    /// Takes the next datagram, or sends again what was not acknowledged.
    ///
    /// Nothing is lost when it is dropped while it waits for one.
    async fn take(&mut self) {
        let mut buffer = [0; 4096];
        match timeout(self.patience, self.socket.recv(&mut buffer)).await {
            Ok(length) => {
                self.heard_at = Instant::now();
                let datagram = Datagram::decode(&buffer[..length.unwrap()]).unwrap();
                self.on_datagram(datagram).await;
            }
            Err(_) => {
                assert!(self.heard_at.elapsed() < LIMIT, "the gateway is silent");
                for outstanding in self.outstanding.values() {
                    if !outstanding.is_acknowledged {
                        let (id, message) = (outstanding.id, outstanding.message.clone());
                        let kind = Kind::Confirmable;
                        self.write(&Datagram { kind, id, message }.encode()).await;
                    }
                }
            }
        }
    }

    async fn on_datagram(&mut self, datagram: Datagram) {
        let Datagram { kind, id, message } = datagram;
        if message.code == Code::EMPTY {
            let mut outstanding = self.outstanding.values_mut();
            if let Some(known) = outstanding.find(|known| known.id == id) {
                known.is_acknowledged = true;
            }
            return;
        }
        if kind == Kind::Confirmable && !self.seen.insert(id) {
            if self.acknowledged.contains(&id) {
                self.acknowledge(id).await;
            }
            return;
        }
        if let Some(known) = self.outstanding.remove(&message.token) {
            self.answered.insert(message.token);
            let is_command = message.options.has(option::LOCATION_PATH);
            if known.purpose == Purpose::Register && is_command {
                // The answer to the registration was lost; this says as much.
                return self.on_notification(id, message).await;
            }
            if kind == Kind::Confirmable {
                self.acknowledge(id).await;
            }
            return self.on_response(known, message).await;
        }
        if kind == Kind::Acknowledgement && self.answered.contains(&message.token) {
            // It came twice.
            return;
        }
        assert_eq!(kind, Kind::Confirmable, "nobody asked for {message:?}");
        self.on_notification(id, message).await;
    }

    async fn on_response(&mut self, known: Outstanding, response: Message) {
        if let (Code::UNAUTHORIZED, Some(echo)) =
            (response.code, response.options.get(option::ECHO))
        {
            let mut message = known.message;
            message.options.remove(option::ECHO);
            message.options.add(option::ECHO, echo.clone());
            return self.send(known.purpose, message).await;
        }
        match known.purpose {
            Purpose::Asked => self.answers.push_back(response),
            purpose => self.events.extend(purpose.event(response)),
        }
    }

    async fn on_notification(&mut self, id: u16, message: Message) {
        if self.former.contains(&message.token) {
            return self.tell(Datagram::empty(Kind::Reset, id)).await;
        }
        if message.token == self.desired {
            self.acknowledge(id).await;
            return self.events.extend(change(message));
        }
        assert_eq!(message.token, self.commands, "nobody asked for {message:?}");
        let path = texts(&message, option::LOCATION_PATH).join("/");
        match &*path {
            "" => self.acknowledge(id).await,
            "c" => self.events.push_back(DeviceEvent::Message {
                tag: id.to_string(),
                body: message.payload,
            }),
            _ => {
                self.acknowledge(id).await;
                let query = texts(&message, option::LOCATION_QUERY);
                let mut names = query
                    .iter()
                    .filter_map(|part| part.strip_prefix("command="));
                let name = MethodName::new(names.next().unwrap()).unwrap();
                let payload = message.payload;
                self.events.push_back(DeviceEvent::Method {
                    tag: path,
                    name,
                    payload,
                });
            }
        }
    }
}

fn texts(message: &Message, number: u16) -> Vec<String> {
    let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
    message.options.all(number).map(text).collect()
}
