//! JSON lines: whatever a device says, each frame has at most one consequence, each request one
//! answer, and whatever goes out is lines of JSON objects. A line that begins with `!` is the hub's
//! and changes the desired properties.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::{
    DesiredPatch, DeviceId, Downlink, MessageId, Settlement, TwinReply, TwinRequest,
};
use gateway_downstream_tcp::proto::json_lines::JsonLines;
use gateway_downstream_tcp::proto::{Actions, Command, Framing, Protocol, Request};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

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

/// Answers a request as a hub would, and gives the answer's type.
fn answer(protocol: &mut JsonLines, request: Request, actions: &mut Actions) -> Option<String> {
    match request {
        Request::Uplink { token, .. } => protocol.on_settled(token, Settlement::Accepted, actions),
        Request::Twin { token, request } => {
            let body = match request {
                TwinRequest::PatchReported(patch) => {
                    serde_json::from_slice::<Object>(&patch).expect("a patch is a JSON object");
                    ""
                }
                _ => "{\"desired\":{},\r\n\"reported\":{}}",
            };
            protocol.on_twin(token, Ok(TwinReply::new(body, Some(1))), actions);
        }
        _ => return None,
    }
    let answers = lines(actions);
    assert_eq!(answers.len(), 1);
    serde_json::from_str(answers[0]["type"].get()).ok()
}

fuzz_target!(|input: &[u8]| {
    let input = Bytes::copy_from_slice(input);
    let device = DeviceId::new("dev1").expect("a valid id");
    let prefix = MessageId::new("made").expect("a valid id");
    let make = || JsonLines::new(Framing::Line, 1024, prefix.clone());
    let (mut stranger, mut known) = (make(), make());
    known.on_login(Ok(&device), &mut Actions::new());
    let mut version = 0;
    for line in input.split(|byte| *byte == b'\n').map(|line| input.slice_ref(line)) {
        let mut actions = Actions::new();
        if line.starts_with(b"!") {
            version += 1;
            let patch = DesiredPatch::new(device.clone(), version, line.slice(1..));
            let patch = Downlink::Desired(patch);
            let command = Command::new(version, &patch, Duration::from_secs(1));
            let told = known.on_command(command, &mut actions).is_ok();
            assert_eq!(lines(&mut actions).len(), usize::from(told));
            continue;
        }
        stranger.on_frame(line.clone(), &mut actions);
        let is_harmless = |request: &Request| matches!(request, Request::Identify(_) | Request::Close);
        assert!(actions.take_requests().iter().all(is_harmless));
        lines(&mut actions);

        known.on_frame(line, &mut actions);
        let requests = actions.take_requests();
        assert!(requests.len() + lines(&mut actions).len() <= 1);
        for request in requests {
            let kind = answer(&mut known, request, &mut actions);
            assert!(kind.is_none_or(|kind| ["ack", "twin", "twin_patched"].contains(&&*kind)));
        }
    }
});
