//! What a protocol of one's own can rely on.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use gateway_core::{
    CloudMessage, Delivered, DeviceId, Downlink, Downstream as _, ErrorKind, Interest, MessageId,
    Settlement, Uplink,
};
use gateway_downstream_tcp::TcpDownstream;
use gateway_downstream_tcp::proto::{
    Actions, CloseReason, Command, Confirmation, FrameCodec, FrameError, Framing, Login, Peer,
    Proof, Protocol, Refusal,
};
use support::{Running, config, device};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Words in lines: `I am <id>`, `as <id> <id of message>` sends, `on <id> <id of message>` goes on with
/// the next message after each verdict, `last <id> <id of message>` does so and says goodbye,
/// `got <tag>`, `panic`.
struct Words {
    codec: FrameCodec,
    expired: Arc<AtomicU64>,
    confirms: bool,
    goes_on: Option<DeviceId>,
}

impl Words {
    fn say(actions: &mut Actions, text: impl AsRef<str>) {
        actions.output().put_slice(text.as_ref().as_bytes());
        actions.output().put_u8(b'\n');
    }

    fn send(actions: &mut Actions, device: DeviceId, token: u64) {
        let id = MessageId::new(token.to_string()).unwrap();
        actions.uplink(token, Uplink::new(device, id, "x"));
    }
}

impl Protocol for Words {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        self.codec.decode(input)
    }

    fn on_frame(&mut self, frame: Bytes, actions: &mut Actions) {
        let text = String::from_utf8(frame.to_vec()).unwrap();
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["I", "am", id] => actions.identify(Login::new(device(id), Proof::None)),
            [how @ ("as" | "on" | "last"), id, message] => {
                self.goes_on = (how != "as").then(|| device(id));
                if how == "last" {
                    actions.close();
                }
                Self::send(actions, device(id), message.parse().unwrap());
            }
            ["got", tag] => actions.done(tag.parse().unwrap(), Ok(Delivered::Acknowledged)),
            ["panic"] => panic!("as asked"),
            _ => actions.close(),
        }
    }

    fn on_login(&mut self, verdict: Result<&DeviceId, &Refusal>, actions: &mut Actions) {
        Self::say(actions, if verdict.is_ok() { "in" } else { "out" });
    }

    fn on_settled(&mut self, token: u64, settlement: Settlement, actions: &mut Actions) {
        Self::say(actions, format!("{token} {settlement:?}"));
        // Not for ever, so that a connection which lets it go on shows.
        if let Some(device) = self.goes_on.clone().filter(|_| token < 9) {
            Self::send(actions, device, token + 1);
        }
    }

    fn on_command(
        &mut self,
        command: Command<'_>,
        actions: &mut Actions,
    ) -> Result<Confirmation, ErrorKind> {
        if !matches!(command.downlink, Downlink::Message(_)) {
            return Err(ErrorKind::Unsupported);
        }
        Self::say(actions, format!("do {}", command.tag));
        Ok(if self.confirms {
            Confirmation::Awaited
        } else {
            Confirmation::Never
        })
    }

    fn on_command_expired(&mut self, _tag: u64) {
        self.expired.fetch_add(1, Relaxed);
    }

    fn heartbeat(&self) -> Option<Duration> {
        Some(Duration::from_millis(50))
    }

    fn on_heartbeat(&mut self, actions: &mut Actions) {
        if self.expired.load(Relaxed) > 0 {
            Self::say(actions, "too late");
            self.expired.store(0, Relaxed);
        }
    }

    fn on_close(&mut self, reason: CloseReason, actions: &mut Actions) {
        Self::say(actions, format!("bye {}", reason.as_str()));
    }
}

async fn start(confirms: bool) -> Running {
    let mut config = config(&[]);
    config.identity.trust_any_id = true;
    config.timeouts.command = Duration::from_millis(if confirms { 1_000 } else { 60_000 });
    let expired = Arc::new(AtomicU64::new(0));
    let words = move |_: &Peer| Words {
        codec: FrameCodec::new(Framing::Line, 100),
        expired: expired.clone(),
        confirms,
        goes_on: None,
    };
    Running::start_with(TcpDownstream::builder(config).with_protocol(words), |_| {}).await
}

struct Talk(BufReader<TcpStream>);

impl Talk {
    async fn new(running: &Running) -> Self {
        Self(BufReader::new(
            TcpStream::connect(running.address()).await.unwrap(),
        ))
    }

    async fn say(&mut self, text: &str) {
        self.0
            .write_all(format!("{text}\n").as_bytes())
            .await
            .unwrap();
    }

    /// The next line; empty at the end.
    async fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }
}

#[tokio::test]
async fn a_protocol_that_panics_where_there_are_too_many_connections_ends_none_of_them() {
    let mut config = config(&[]);
    config.identity.trust_any_id = true;
    config.limits.max_connections = 1;
    let made = AtomicU64::new(0);
    let words = move |_: &Peer| {
        assert_eq!(made.fetch_add(1, Relaxed), 0, "one at most");
        Words {
            codec: FrameCodec::new(Framing::Line, 100),
            expired: Arc::default(),
            confirms: false,
            goes_on: None,
        }
    };
    let builder = TcpDownstream::builder(config).with_protocol(words);
    let running = Running::start_with(builder, |_| {}).await;
    let mut talk = Talk::new(&running).await;
    talk.say("I am dev1").await;
    assert_eq!(talk.hear().await, "in");
    assert_eq!(Talk::new(&running).await.hear().await, "");
    talk.say("as dev1 1").await;
    assert_eq!(talk.hear().await, "1 Accepted");
    drop(talk);
    running.end().await;
}

#[tokio::test]
async fn an_uplink_of_nobody_or_somebody_else_never_reaches_the_hub() {
    let running = start(true).await;
    let mut talk = Talk::new(&running).await;
    talk.say("as dev1 1").await;
    assert_eq!(talk.hear().await, "1 Rejected(Unauthorized)");
    talk.say("I am dev1").await;
    assert_eq!(talk.hear().await, "in");
    talk.say("as dev2 2").await;
    assert_eq!(talk.hear().await, "2 Rejected(Unauthorized)");
    talk.say("as dev1 3").await;
    assert_eq!(talk.hear().await, "3 Accepted");
    let accepted: Vec<_> = running
        .hub
        .accepted()
        .into_iter()
        .map(|uplink| uplink.id)
        .collect();
    assert_eq!(accepted, [MessageId::new("3").unwrap()]);
    drop(talk);
    running.end().await;
}

#[tokio::test]
async fn a_connection_is_of_one_device() {
    let running = start(true).await;
    let mut talk = Talk::new(&running).await;
    for expected in ["in", "in"] {
        talk.say("I am dev1").await;
        assert_eq!(talk.hear().await, expected);
    }
    talk.say("I am dev2").await;
    assert_eq!(talk.hear().await, "out");
    assert_eq!(talk.hear().await, "bye rejected");
    assert_eq!(talk.hear().await, "");
    drop(talk);
    running.end().await;
}

fn message(running: &Running) -> impl Future<Output = Result<Delivered, ErrorKind>> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let message = Downlink::Message(CloudMessage::new(device("dev1"), "1", deadline));
    let tcp = running.tcp.clone();
    async move { tcp.send(message).await.map_err(|error| error.kind()) }
}

async fn connected(running: &Running) -> Talk {
    let mut talk = Talk::new(running).await;
    talk.say("I am dev1").await;
    assert_eq!(talk.hear().await, "in");
    running
        .hub
        .wait_listening(&device("dev1"), Interest::COMMANDS)
        .await;
    talk
}

#[tokio::test]
async fn a_command_that_nobody_confirms_counts_as_sent_and_never_as_acknowledged() {
    let running = start(false).await;
    let mut talk = connected(&running).await;
    assert_eq!(message(&running).await, Ok(Delivered::Sent));
    assert_eq!(talk.hear().await, "do 1");
    drop(talk);
    running.end().await;
}

#[tokio::test]
async fn a_protocol_is_told_when_nobody_waits_any_more() {
    let running = start(true).await;
    let mut talk = connected(&running).await;
    assert_eq!(message(&running).await, Err(ErrorKind::TimedOut));
    assert_eq!(talk.hear().await, "do 1");
    // The heartbeat tells what the hook saw.
    assert_eq!(talk.hear().await, "too late");
    // Invented and late answers find nobody.
    talk.say("got 1").await;
    talk.say("got 77").await;
    talk.say("as dev1 5").await;
    assert_eq!(talk.hear().await, "5 Accepted");
    drop(talk);
    running.end().await;
}

#[tokio::test]
async fn what_is_handed_in_while_a_connection_is_stopped_is_given_back_once() {
    let running = start(true).await;
    let mut talk = connected(&running).await;
    running.hub.hold();
    talk.say("on dev1 1").await;
    running.hub.wait_held(1).await;
    // A newer connection of the device stops this one, whose message is still in flight.
    let newer = connected(&running).await;
    running.hub.release();
    assert_eq!(talk.hear().await, "1 Accepted");
    assert!(talk.hear().await.starts_with("2 RetryLater("));
    assert_eq!(talk.hear().await, "bye replaced");
    drop((talk, newer));
    running.end().await;
}

#[tokio::test]
async fn what_is_handed_in_behind_an_orderly_end_is_given_back_once() {
    let running = start(true).await;
    let mut talk = connected(&running).await;
    talk.say("last dev1 1").await;
    assert!(talk.hear().await.starts_with("1 RetryLater("));
    assert_eq!(talk.hear().await, "bye closed");
    drop(talk);
    running.end().await;
}

#[tokio::test]
async fn a_panic_in_a_protocol_ends_its_own_connection_only() {
    let running = start(true).await;
    let mut bystander = connected(&running).await;
    let mut talk = Talk::new(&running).await;
    talk.say("I am dev2").await;
    assert_eq!(talk.hear().await, "in");
    talk.say("panic").await;
    assert_eq!(talk.hear().await, "");
    bystander.say("as dev1 1").await;
    assert_eq!(bystander.hear().await, "1 Accepted");
    running.hub.wait_deaf(&device("dev2")).await;
    assert_eq!(running.tcp.devices(), 1);
    drop(bystander);
    running.end().await;
}
