//! JSON lines: whatever a device and its hub say in any order, each frame of the device has at most one
//! consequence, each request one answer, under its own id, and whatever goes out is lines of JSON objects.
//!
//! A line is the device's, unless it begins with one of these. The hub says: `!` desired properties,
//! `#` a message, `$` a method, `%` what ends the connection. `@` answers: the next byte tells what, the
//! one behind it how. Before the first `@`, each request is accepted at once.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::{
    CloudMessage, CorrelationId, DesiredPatch, DeviceId, Downlink, ErrorKind, MessageId, MethodCall, MethodName,
    Settlement, TwinReply, TwinRequest,
};
use gateway_downstream_tcp::proto::json_lines::JsonLines;
use gateway_downstream_tcp::proto::{
    Actions, CloseReason, Command, FrameError, Framing, Protocol, Refusal, Request,
};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use tokio::time::Instant;

/// As many requests as a connection has open at once.
const WINDOW: usize = 8;
const PATIENCE: Duration = Duration::from_secs(1);

/// A JSON object by its grammar: what others wrote may have numbers beyond any type.
type Object = BTreeMap<String, Box<RawValue>>;

/// What was written since the last look, line by line.
fn lines(actions: &mut Actions) -> Vec<Object> {
    let text = actions.output().split();
    let Some(text) = text.strip_suffix(b"\n") else {
        assert!(text.is_empty(), "every frame ends its line");
        return Vec::new();
    };
    text.split(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).expect("an object a line"))
        .inspect(|frame: &Object| assert!(frame.contains_key("type")))
        .collect()
}

/// A text of a frame; none if the frame has no such field.
fn text(frame: &Object, key: &str) -> Option<String> {
    frame.get(key).map(|value| serde_json::from_str(value.get()).expect("a text"))
}

struct World {
    device: DeviceId,
    known: JsonLines,
    waiting: Vec<Request>,
    is_held: bool,
    /// How many commands there were.
    tag: u64,
}

impl World {
    fn say(&mut self, line: Bytes) {
        let mut actions = Actions::new();
        self.known.on_frame(line, &mut actions);
        let requests = actions.take_requests();
        assert!(requests.len() + lines(&mut actions).len() <= 1);
        self.waiting.extend(requests);
        let most = if self.is_held { WINDOW } else { 0 };
        while self.waiting.len() > most {
            let oldest = self.waiting.remove(0);
            self.answer(oldest, 0);
        }
    }

    /// Answers a request, which then has its answer for good.
    fn answer(&mut self, request: Request, how: u8) {
        let mut actions = Actions::new();
        match &request {
            Request::Identify(_) => {
                let refusal = Refusal::new(ErrorKind::Unauthorized);
                let verdict = if how % 2 == 0 { Ok(&self.device) } else { Err(&refusal) };
                self.known.on_login(verdict, &mut actions);
                assert_eq!(lines(&mut actions).len(), 1);
                return;
            }
            Request::Uplink { token, .. } => {
                let settlement = match how % 3 {
                    0 => Settlement::Accepted,
                    1 => Settlement::Rejected(ErrorKind::TooLarge),
                    _ => Settlement::RetryLater(PATIENCE),
                };
                self.known.on_settled(*token, settlement, &mut actions);
                // A second word on it is nobody's.
                self.known.on_settled(*token, Settlement::Accepted, &mut actions);
            }
            Request::Twin { token, request } => {
                let body = match request {
                    TwinRequest::PatchReported(patch) => {
                        serde_json::from_slice::<Object>(patch).expect("a patch is a JSON object");
                        ""
                    }
                    _ => "{\"desired\":{},\r\n\"reported\":{}}",
                };
                let reply = match how % 3 {
                    0 => Ok(TwinReply::new(body, Some(1))),
                    1 => Err(Refusal::new(ErrorKind::Rejected)),
                    _ => Err(Refusal::new(ErrorKind::Throttled)),
                };
                self.known.on_twin(*token, reply, &mut actions);
                self.known.on_twin(*token, Ok(TwinReply::new(body, None)), &mut actions);
            }
            _ => return,
        }
        let answers = lines(&mut actions);
        let [answer] = &answers[..] else {
            panic!("{} answers to {request:?}", answers.len());
        };
        self.check(&request, how, answer);
    }

    fn check(&self, request: &Request, how: u8, answer: &Object) {
        let kind = text(answer, "type");
        let expected = match (request, how % 3) {
            (Request::Uplink { .. }, 0) => "ack",
            (Request::Twin { request: TwinRequest::PatchReported(_), .. }, 0) => "twin_patched",
            (_, 0) => "twin",
            _ => "nack",
        };
        assert_eq!(kind.as_deref(), Some(expected));
        assert_eq!(answer.contains_key("retry_after_ms"), how % 3 == 2);
        if let Request::Uplink { uplink, .. } = request {
            assert_eq!(text(answer, "id").as_deref(), Some(uplink.id.as_str()));
        }
    }

    fn command(&mut self, downlink: &Downlink) {
        self.tag += 1;
        let mut actions = Actions::new();
        let told = self.known.on_command(Command::new(self.tag, downlink, PATIENCE), &mut actions).is_ok();
        assert_eq!(lines(&mut actions).len(), usize::from(told));
        assert!(actions.take_requests().is_empty());
    }

    fn message(&self, bytes: &Bytes) -> CloudMessage {
        let mut message = CloudMessage::new(self.device.clone(), bytes.clone(), Instant::now() + PATIENCE);
        let text = String::from_utf8_lossy(bytes);
        message.system.content_type = bytes.last().is_some_and(|byte| byte % 2 == 1).then(|| text.to_string());
        message.system.correlation_id = bytes.first().is_some_and(|byte| byte % 2 == 1).then(|| text.to_string());
        message.id = message.system.content_type.clone();
        message.properties.insert(text.to_string(), text);
        message
    }

    /// The name is what stands before the first space.
    fn method(&self, bytes: &Bytes) -> Option<MethodCall> {
        let at = bytes.iter().position(|byte| *byte == b' ')?;
        let name = MethodName::new(String::from_utf8_lossy(&bytes[..at])).ok()?;
        let id = CorrelationId::new("call").expect("a valid id");
        let deadline = Instant::now() + PATIENCE;
        Some(MethodCall::new(self.device.clone(), id, name, bytes.slice(at + 1..), deadline))
    }

    /// What a device is told at the end of its connection.
    fn end(&mut self, how: u8) {
        let mut actions = Actions::new();
        let refusal = Refusal::new(ErrorKind::Unauthorized);
        let (reason, said) = match how % 6 {
            0 => (CloseReason::Protocol, 0),
            1 => (CloseReason::FrameTimeout, 1),
            2 => (CloseReason::Refused(refusal), 1),
            3 => (CloseReason::Ended { reason: ErrorKind::Displaced, detail: Some("by another") }, 1),
            4 => (CloseReason::Shutdown, 1),
            _ => {
                self.known.on_frame_error(&FrameError::fatal("bad_frame"), &mut actions);
                (CloseReason::BadFrame, 1)
            }
        };
        self.known.on_close(reason, &mut actions);
        assert_eq!(lines(&mut actions).len(), said);
    }
}

fuzz_target!(|input: &[u8]| {
    let input = Bytes::copy_from_slice(input);
    let device = DeviceId::new("dev1").expect("a valid id");
    let prefix = MessageId::new("made").expect("a valid id");
    let make = || JsonLines::new(Framing::Line, 1024, prefix.clone());
    let (mut stranger, mut known) = (make(), make());
    known.on_login(Ok(&device), &mut Actions::new());
    let mut world = World { device, known, waiting: Vec::new(), is_held: false, tag: 0 };
    for line in input.split(|byte| *byte == b'\n').map(|line| input.slice_ref(line)) {
        let rest = || line.slice(1..);
        match line.first() {
            Some(b'!') => {
                let patch = DesiredPatch::new(world.device.clone(), world.tag + 1, rest());
                world.command(&Downlink::Desired(patch));
            }
            Some(b'#') => world.command(&Downlink::Message(world.message(&rest()))),
            Some(b'$') => {
                if let Some(call) = world.method(&rest()) {
                    world.command(&Downlink::Method(call));
                }
            }
            Some(b'%') => world.end(line.get(1).copied().unwrap_or(0)),
            Some(b'@') => {
                world.is_held = true;
                if let ([_, which, how, ..], false) = (&line[..], world.waiting.is_empty()) {
                    let request = world.waiting.remove(usize::from(*which) % world.waiting.len());
                    world.answer(request, *how);
                }
            }
            _ => {
                let mut actions = Actions::new();
                stranger.on_frame(line.clone(), &mut actions);
                let is_harmless = |request: &Request| matches!(request, Request::Identify(_) | Request::Close);
                assert!(actions.take_requests().iter().all(is_harmless));
                lines(&mut actions);
                world.say(line);
            }
        }
    }
    for request in std::mem::take(&mut world.waiting) {
        world.answer(request, 0);
    }
});
