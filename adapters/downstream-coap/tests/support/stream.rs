//! A device that speaks CoAP over a stream.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;
use fuzz_seeds::Conversation;
use gateway_core::testkit::DeviceEvent;
use gateway_core::{DeviceId, MethodName};
use gateway_downstream_coap::proto::message::{Code, Message, Token, option};
use gateway_downstream_coap::proto::tcp::{FrameReader, write_frame};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Purpose, TOKEN, WINDOW, change, texts};

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A device on a connection of its own.
pub(crate) struct StreamDevice {
    stream: Box<dyn Stream>,
    said: Conversation,
    input: BytesMut,
    proof: [String; 2],
    last_token: u32,
    outstanding: HashMap<Token, Purpose>,
    commands: Token,
    desired: Token,
    /// Messages of the hub whose pings are not answered, by their numbers.
    unanswered: HashMap<String, Option<Token>>,
    messages: u32,
    /// A change that is told when its ping is answered.
    change: Option<DeviceEvent>,
    events: VecDeque<DeviceEvent>,
    answers: VecDeque<Message>,
    is_closed: bool,
}

impl StreamDevice {
    /// Begins with its settings.
    pub(crate) async fn new(stream: impl Stream + 'static, device: &DeviceId) -> Self {
        let mut client = Self {
            stream: Box::new(stream),
            said: Conversation::new("coap_session", &[0]),
            input: BytesMut::new(),
            proof: [format!("$.id={device}"), format!("$.token={TOKEN}")],
            last_token: 0,
            outstanding: HashMap::new(),
            commands: Token::EMPTY,
            desired: Token::EMPTY,
            unanswered: HashMap::new(),
            messages: 0,
            change: None,
            events: VecDeque::new(),
            answers: VecDeque::new(),
            is_closed: false,
        };
        client.tell(&Message::new(Code::CSM)).await;
        client
    }

    /// Sends a message as it is; false if the gateway has closed the connection.
    pub(crate) async fn tell(&mut self, message: &Message) -> bool {
        let mut bytes = BytesMut::new();
        write_frame(message, &mut bytes);
        self.write(&bytes).await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        // Steps of the target: to receive, and how much.
        for part in bytes.chunks(255) {
            self.said.say(&[&[0, part.len() as u8], part].concat());
        }
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Sends a request with the device's proof; waits while there are too many on their way.
    pub(crate) async fn request(&mut self, purpose: Purpose, mut message: Message) -> bool {
        for part in &self.proof {
            let part = part.clone().into_bytes();
            message.options.add(option::URI_QUERY, part);
        }
        while self.outstanding.len() >= WINDOW && !self.is_closed {
            self.take().await;
        }
        self.last_token += 1;
        let token = Token::from(self.last_token);
        self.outstanding.insert(token, purpose);
        self.tell(&message.with_token(token)).await
    }

    /// Sends a request with the device's proof and waits for its answer.
    pub(crate) async fn say(&mut self, message: Message) -> Message {
        assert!(self.request(Purpose::Asked, message).await);
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            assert!(!self.is_closed, "the gateway closed the connection");
            self.take().await;
        }
    }

    /// Observes commands and desired properties, and waits for what becomes of it.
    pub(crate) async fn register(&mut self) {
        self.commands = self.observe("c").await;
        self.desired = self.observe("twin/desired").await;
        while !self.outstanding.is_empty() && !self.is_closed {
            self.take().await;
        }
    }

    async fn observe(&mut self, path: &str) -> Token {
        let message = Message::new(Code::GET)
            .with_path(path)
            .with_uint(option::OBSERVE, 0);
        self.request(Purpose::Register, message).await;
        Token::from(self.last_token)
    }

    pub(crate) async fn next(&mut self) -> DeviceEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if self.is_closed {
                return DeviceEvent::Closed;
            }
            self.take().await;
        }
    }

    /// Confirms a message, by the pong that its ping waits for.
    pub(crate) async fn confirm(&mut self, tag: &str) {
        loop {
            if let Some(ping) = self.unanswered[tag] {
                self.unanswered.remove(tag);
                self.tell(&Message::new(Code::PONG).with_token(ping)).await;
                return;
            }
            self.take().await;
        }
    }

    /// The next frame of the gateway, signals too; none if it has closed the connection.
    ///
    /// Nothing is lost when it is dropped while it waits.
    pub(crate) async fn hear(&mut self) -> Option<Message> {
        let reader = FrameReader::new(1 << 20);
        loop {
            if let Some(message) = reader.read(&mut self.input).unwrap() {
                return Some(message);
            }
            if !matches!(self.stream.read_buf(&mut self.input).await, Ok(1..)) {
                self.is_closed = true;
                return None;
            }
        }
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&mut self) {
        drop(self.stream.shutdown().await);
    }

    async fn take(&mut self) {
        let Some(message) = self.hear().await else {
            return;
        };
        match message.code {
            Code::PING => self.on_ping(message.token).await,
            Code::CSM | Code::RELEASE => {}
            Code::ABORT => panic!("aborted: {message:?}"),
            _ => match self.outstanding.remove(&message.token) {
                Some(purpose) => self.on_response(purpose, message),
                None => self.on_notification(message),
            },
        }
    }

    async fn on_ping(&mut self, token: Token) {
        let newest = self.messages.to_string();
        match self.unanswered.get_mut(&newest) {
            Some(ping @ None) => *ping = Some(token),
            _ => {
                self.tell(&Message::new(Code::PONG).with_token(token)).await;
            }
        }
        self.events.extend(self.change.take());
    }

    fn on_response(&mut self, purpose: Purpose, response: Message) {
        match purpose {
            Purpose::Asked => self.answers.push_back(response),
            purpose => self.events.extend(purpose.event(response)),
        }
    }

    fn on_notification(&mut self, message: Message) {
        if !message.code.is_success() {
            return;
        }
        if message.token == self.desired {
            if let Some(change) = change(message) {
                self.change = Some(change);
            }
            return;
        }
        assert_eq!(message.token, self.commands, "nobody asked for {message:?}");
        let path = texts(&message, option::LOCATION_PATH).join("/");
        match &*path {
            "" => {}
            "c" => {
                self.messages += 1;
                let tag = self.messages.to_string();
                self.unanswered.insert(tag.clone(), None);
                let body = message.payload;
                self.events.push_back(DeviceEvent::Message { tag, body });
            }
            _ => {
                let query = texts(&message, option::LOCATION_QUERY);
                let mut names = query
                    .iter()
                    .filter_map(|part| part.strip_prefix("command="));
                let name = MethodName::new(names.next().unwrap()).unwrap();
                let payload = message.payload;
                let tag = path;
                self.events
                    .push_back(DeviceEvent::Method { tag, name, payload });
            }
        }
    }
}
