//! What a client says to the hub, as bytes in pieces, and what it is answered.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, poll};
use serde_json::json;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use crate::amqp::codec::frame;
use crate::amqp::connection::Connection;
use crate::clock::unix_seconds;
use crate::cloud::{Addresses, Caller, Cloud};
use crate::http;
use crate::hub::Hub;
use crate::hub::message::{C2d, MethodError, MethodResponse};
use crate::hub::peer::Peer;
use crate::hub::record::{Record, RecordMode};
use crate::hub::registry::Registry;
use crate::hub::sas::sign;
use crate::hub::state::Now;
use crate::limits::Limits;
use crate::line::Line;
use crate::mqtt::{self, codec};
use crate::provisioning::{Dps, ProvisioningOptions};
use crate::shell::Engine;

/// Bits of [`Between::Turn`]: a message, a call and a change of desired properties for each device, and
/// [`STEP`] of time.
const C2D: u8 = 1;
const METHOD: u8 = 2;
const DESIRED: u8 = 4;
const TIME: u8 = 8;
/// Time that passes at once: a message's lock lapses in two.
const STEP: Duration = Duration::from_secs(30);
/// Devices that the cloud acts on.
const DEVICES: usize = 4;
/// How long a call may wait for its answer: longer than any conversation.
const WITHIN: Duration = Duration::from_secs(3600);

/// What happens between two pieces of what a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// Nothing: however it is cut, the hub takes it in one turn.
    Nothing,
    /// The cloud acts on its devices, as the bits say, and time passes; then the hub has its turn.
    Turn {
        /// A bit each: a message, a call, a change of desired properties, time.
        deeds: u8,
    },
}

impl Between {
    /// Reads the lower five bits of a byte: if none is set, nothing happens.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 0b1_1111 {
            0 => Self::Nothing,
            deeds => Self::Turn { deeds },
        }
    }
}

/// Feeds an AMQP connection with bytes, in pieces of `piece`; returns what it answers.
///
/// # Panics
/// Panics if the answer is anything but protocol headers and whole frames.
#[must_use]
pub fn feed_amqp(input: &[u8], piece: usize, between: Between) -> Vec<u8> {
    let caller = stranger();
    let hub = Arc::clone(&caller.hub);
    let peer = hub.join();
    let mut connection = Connection::new(caller, Arc::clone(&peer), Now::read());
    let answered = feed(&mut connection, &peer, &hub, input, piece, between);
    let mut rest = &answered[..];
    while !rest.is_empty() {
        let len = match rest.starts_with(b"AMQP") {
            true => frame::HEADER_LEN,
            false => frame::split(rest, u32::MAX).map_or(0, |frame| frame.map_or(0, |it| it.len)),
        };
        assert!(len > 0, "{rest:02x?} is no frame");
        rest = &rest[len..];
    }
    answered
}

/// Feeds an MQTT connection with bytes, in pieces of `piece`, after a CONNECT of `dev1` if it is to be
/// `connected`; returns what it answers.
///
/// # Panics
/// Panics if the CONNECT is not accepted, and if the answer is anything but whole packets.
#[must_use]
pub fn feed_mqtt(input: &[u8], piece: usize, between: Between, connected: bool) -> Vec<u8> {
    let caller = stranger();
    let hub = Arc::clone(&caller.hub);
    let peer = hub.join();
    let mut connection = mqtt::connection::Connection::new(caller, Arc::clone(&peer), Now::read());
    let mut feed =
        |bytes: &[u8], piece, between| feed(&mut connection, &peer, &hub, bytes, piece, between);
    if connected {
        let key = hub.state().registry.add("dev1").keys().cloned();
        let key = key.unwrap_or_default();
        let token = sign("localhost/devices/dev1", key.primary(), u64::MAX, None);
        let mut connect = codec::Connect::new("dev1");
        connect.set_login("localhost/dev1/?api-version=2021-04-12", token);
        // It may be silent for as long as the hub allows.
        connect.keep_alive = 0;
        let mut bytes = BytesMut::new();
        codec::write(&codec::Packet::Connect(connect), &mut bytes);
        let answer = feed(&bytes, bytes.len(), Between::Nothing);
        // A CONNACK: accepted, and no session was there.
        assert_eq!(answer, [0x20, 2, 0, 0]);
    }
    let answered = feed(input, piece, between);
    let mut rest = BytesMut::from(&answered[..]);
    while let Some(_packet) = codec::read(&mut rest, usize::MAX).expect("the hub says packets") {}
    assert!(rest.is_empty(), "{rest:02x?} is no packet");
    answered
}

fn feed(
    engine: &mut impl Engine,
    peer: &Peer,
    hub: &Arc<Hub>,
    input: &[u8],
    piece: usize,
    between: Between,
) -> Vec<u8> {
    let runtime = runtime();
    let _clock = runtime.enter();
    let mut others = Others::new(hub);
    let (mut now, mut buffer, mut answered) = (full_second(), BytesMut::new(), Vec::new());
    for part in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        engine.input(&mut buffer, now);
        if let Between::Turn { deeds } = between {
            if deeds & TIME != 0 {
                now.instant += STEP;
                now.system += STEP;
                hub.state().tick(now);
            }
            others.act(deeds, now);
            answered.extend_from_slice(&turn(engine, peer, now));
        }
    }
    answered.extend_from_slice(&turn(engine, peer, now));
    answered
}

/// A time that is as long as any other when it is written, since it has no fraction.
fn full_second() -> Now {
    let mut now = Now::read();
    now.system = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds(now.system));
    now
}

/// What a connection's task does once it has read.
fn turn(engine: &mut impl Engine, peer: &Peer, now: Now) -> BytesMut {
    for notice in peer.collect() {
        engine.notice(notice, now);
    }
    if engine.next_deadline() <= now.instant {
        engine.on_time(now);
    }
    engine.resume(now);
    engine.end_turn();
    engine.take_output()
}

type Call = BoxFuture<'static, Result<MethodResponse, MethodError>>;

/// Whoever is at the hub's other side.
struct Others {
    hub: Arc<Hub>,
    /// Calls that wait for their answers.
    calls: Vec<Call>,
    acts: u64,
}

impl Others {
    fn new(hub: &Arc<Hub>) -> Self {
        Self {
            hub: Arc::clone(hub),
            calls: Vec::new(),
            acts: 0,
        }
    }

    /// Acts on the devices that there are; what is refused is none of their business.
    fn act(&mut self, deeds: u8, now: Now) {
        let devices: Vec<Arc<str>> = {
            let state = self.hub.state();
            let devices = state.registry.after(None).take(DEVICES);
            devices.map(|(id, _)| Arc::clone(id)).collect()
        };
        for id in devices {
            self.acts += 1;
            if deeds & C2D != 0 {
                let message = C2d::new(self.acts.to_string()).with_property("a", "b");
                drop(self.hub.state().enqueue(&id, message, now));
            }
            if deeds & DESIRED != 0 {
                let change = json!({ "a": self.acts });
                drop(self.hub.state().patch_desired(&id, &change));
            }
            if deeds & METHOD != 0 {
                let hub = Arc::clone(&self.hub);
                let payload = Bytes::from_static(b"{}");
                let call = async move { hub.call_method(&id, "act", payload, WITHIN).await };
                let mut call = call.boxed();
                if (&mut call).now_or_never().is_none() {
                    self.calls.push(call);
                }
            }
        }
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without IO needs nothing")
}

/// Feeds an HTTPS connection with bytes, in pieces of `piece`; returns what it answers. No time passes.
#[must_use]
pub fn feed_http(input: &[u8], piece: usize, between: Between) -> Vec<u8> {
    runtime().block_on(converse(stranger(), input, piece, between))
}

/// Says all of the input, and hears what is answered until nothing more comes: what waits for the
/// clock is given up.
async fn converse(caller: Caller, input: &[u8], piece: usize, between: Between) -> Vec<u8> {
    /// Looks that nothing came of before it is given up.
    const PATIENCE: usize = 8;
    let mut others = Others::new(&caller.hub);
    let (mut near, far) = duplex(input.len().max(64 * 1024));
    let mut serving = pin!(http::serve(Wire(far), caller));
    let mut parts = input.chunks(piece.max(1));
    let mut answered = Vec::new();
    let mut idle = 0;
    while idle < PATIENCE && poll!(serving.as_mut()).is_pending() {
        idle += 1;
        // There is room for all of it.
        if let Some(part) = parts.next()
            && let Some(Ok(())) = near.write_all(part).now_or_never()
        {
            idle = 0;
            if let Between::Turn { deeds } = between {
                others.act(deeds, Now::read());
            }
        }
        while let Some(Ok(1..)) = near.read_buf(&mut answered).now_or_never() {
            idle = 0;
        }
        yield_now().await;
    }
    while let Some(Ok(1..)) = near.read_buf(&mut answered).now_or_never() {}
    answered
}

/// A stream in memory, which nothing resets.
struct Wire(DuplexStream);

impl Line for Wire {
    fn reset_on_drop(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Somebody who calls on a hub named `localhost`, as that of tests is, which takes any token that it
/// can read, as does its provisioning service: what tests have said, they understand.
fn stranger() -> Caller {
    let caller = caller_on("localhost");
    let mut state = caller.hub.state();
    state.registry.checks.signature = false;
    state.registry.checks.expiry = false;
    drop(state);
    caller.cloud.dps.state().lenient = true;
    caller
}

/// Somebody who calls on a hub of one device.
#[cfg(test)]
pub(crate) fn caller() -> Caller {
    caller_on("hub.test")
}

fn caller_on(host: &str) -> Caller {
    let mut registry = Registry::new(host, true);
    registry.add("dev1");
    let hub = Arc::new(Hub::new(
        registry,
        Limits::default(),
        Record::new(RecordMode::Full),
    ));
    let nowhere = ([127, 0, 0, 1], 0).into();
    let addresses = Addresses {
        amqps: nowhere,
        mqtts: nowhere,
        https: nowhere,
        control: None,
    };
    let dps = Dps::new(
        &ProvisioningOptions::default().with_id_scope("0ne00000001"),
        &hub.host,
        None,
        &[0; 32],
        Now::read(),
    );
    let cloud = Arc::new(Cloud::new(addresses, None, dps, hub));
    Caller::new(cloud, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: &str = "SharedAccessSignature sr=elsewhere&sig=AA%3D%3D&se=1";

    fn has(answered: &[u8], text: &str) -> bool {
        let mut places = answered.windows(text.len());
        places.any(|place| place == text.as_bytes())
    }

    #[test]
    fn what_tests_have_said_passes_the_provisioning_service_under_any_token() {
        let scope = "0ne0BADCAFE/registrations/d";
        for (request, status) in [
            (format!("PUT /{scope}/register"), "HTTP/1.1 202"),
            ("GET /enrollmentGroups/default".to_owned(), "HTTP/1.1 200"),
        ] {
            let request = format!(
                "{request}?api-version=2021-06-01 HTTP/1.1\r\nHost: localhost\r\n\
                 Authorization: {STALE}\r\nContent-Length: 0\r\n\r\n"
            );
            let answered = feed_http(request.as_bytes(), 7, Between::Nothing);
            assert!(has(&answered, status), "{}", answered.escape_ascii());
        }
        let mut connect = codec::Connect::new("d");
        connect.set_login(format!("{scope}/api-version=2019-03-31"), STALE);
        let mut bytes = BytesMut::new();
        codec::write(&codec::Packet::Connect(connect), &mut bytes);
        let answered = feed_mqtt(&bytes, 7, Between::Nothing, false);
        assert_eq!(answered, [0x20, 2, 0, 0]);
    }

    /// What the answers to the seeds of a target have said.
    fn answers(target: &str, feed: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let seeds = format!("{}/../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let seeds = std::fs::read_dir(seeds).unwrap();
        let seeds = seeds.map(|seed| std::fs::read(seed.unwrap().path()).unwrap());
        seeds.flat_map(|seed| feed(&seed)).collect()
    }

    #[test]
    fn seeds_register_devices_over_each_protocol() {
        let nothing = Between::Nothing;
        for answers in [
            answers("amqp_connection", |seed| {
                feed_amqp(&seed[1..], 255, nothing)
            }),
            answers("mqtt_connection", |seed| {
                feed_mqtt(&seed[2..], 255, nothing, false)
            }),
            answers("hub_http", |seed| feed_http(&seed[1..], 255, nothing)),
        ] {
            assert!(has(&answers, r#""status":"assigning""#));
        }
    }

    #[test]
    fn the_cloud_acts_and_time_passes_between_pieces() {
        let mut bytes = BytesMut::new();
        let filters = [
            "devices/dev1/messages/devicebound/#",
            "$iothub/methods/POST/#",
        ];
        for (pkid, filter) in (1..).zip(filters) {
            let mut subscribe = codec::Subscribe::new(filter, codec::QoS::AtLeastOnce);
            subscribe.pkid = pkid;
            codec::write(&codec::Packet::Subscribe(subscribe), &mut bytes);
        }
        let piece = bytes.len().div_ceil(2);
        let answered = feed_mqtt(
            &bytes,
            piece,
            Between::Turn {
                deeds: C2D | METHOD,
            },
            true,
        );
        assert!(has(&answered, "devices/dev1/messages/devicebound/%24"));
        assert!(has(&answered, "$iothub/methods/POST/act/?$rid="));
        // A message that is not acknowledged comes again when its lock has lapsed.
        let piece = bytes.len();
        bytes.extend([0xC0, 0].repeat(2 * piece));
        let turns = Between::Turn { deeds: C2D | TIME };
        let answered = feed_mqtt(&bytes, piece, turns, true);
        let mut rest = BytesMut::from(&answered[..]);
        let mut packets = std::iter::from_fn(|| codec::read(&mut rest, usize::MAX).unwrap());
        let is_again = |packet| matches!(packet, codec::Packet::Publish(publish) if publish.dup);
        assert!(packets.any(is_again));
    }
}
