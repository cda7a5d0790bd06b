//! Stands between a gateway and its broker, sees whole packets, and does to them what a test says.
//!
//! It reads only what it needs, by itself: neither the adapter's codec nor another's mistakes are
//! here.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
/// Packets that wait for a socket. A test sends fewer.
const QUEUE: usize = 1 << 16;
/// The longest that anything takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// A message from the broker to the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) packet: Bytes,
    id: u16,
    connection: u64,
    pub(crate) acknowledged: bool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// When connections came, all of them.
    pub(crate) connects: Vec<Instant>,
    /// Messages of devices that the broker has acknowledged, whether the gateway was told or not.
    pub(crate) accepted: usize,
    pub(crate) given: Vec<Given>,
    /// What is subscribed to on each connection that is open.
    filters: HashMap<u64, BTreeSet<String>>,
    /// What was unsubscribed from, on whatever connection.
    pub(crate) given_back: BTreeSet<String>,
    asked: HashMap<(u64, u16), Vec<String>>,
    held: Vec<(u64, mpsc::Sender<Bytes>, Bytes)>,
    telemetry: BTreeSet<(u64, u16)>,
    is_holding: bool,
    acks_to_lose: usize,
    messages_to_refuse: usize,
    cut: CancellationToken,
    /// Swallows everything but the opening of a connection.
    is_mute: bool,
    is_closing: bool,
    /// How the topics of messages end that the broker does not get, and what is said to them; without a
    /// word the connection is closed.
    denied: Option<(&'static str, Option<u8>)>,
}

impl Given {
    pub(crate) fn has(&self, text: &str) -> bool {
        find(&self.packet, text.as_bytes())
    }
}

impl State {
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Messages of devices that neither side has settled, held ones among them.
    pub(crate) fn unanswered(&self) -> usize {
        self.telemetry.len()
    }

    pub(crate) fn acks_left(&self) -> usize {
        self.acks_to_lose
    }

    pub(crate) fn is_subscribed(&self, filter: &str) -> bool {
        self.filters
            .values()
            .any(|filters| filters.contains(filter))
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.filters.values().map(BTreeSet::len).sum()
    }

    fn is_denied(&self, packet: &Bytes) -> bool {
        let topic = publish(packet).0;
        self.denied
            .is_some_and(|(end, _)| topic.ends_with(end.as_bytes()))
    }

    fn summary(&self) -> String {
        let State {
            connects,
            accepted,
            given,
            held,
            telemetry,
            acks_to_lose,
            ..
        } = self;
        format!(
            "{} connections came, {accepted} messages were accepted, {} given; {} are held, {} \
             unanswered, {acks_to_lose} acknowledgements still to lose",
            connects.len(),
            given.len(),
            held.len(),
            telemetry.len(),
        )
    }

    /// Messages to the gateway that have this text in them: how many, and whether one was
    /// acknowledged.
    pub(crate) fn given(&self, text: &str) -> (usize, bool) {
        let given: Vec<_> = self.given.iter().filter(|given| given.has(text)).collect();
        (given.len(), given.iter().any(|given| given.acknowledged))
    }
}

fn find(packet: &[u8], text: &[u8]) -> bool {
    packet.windows(text.len()).any(|window| window == text)
}

/// A proxy on a free port. Dropped, it closes everything.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    _task: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(broker: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(watch::Sender::new(State::default()));
        let mut task = JoinSet::new();
        task.spawn(accept(listener, broker, state.clone()));
        Self {
            address,
            state,
            _task: task,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Waits for a state; a state that never comes fails the test and is shown.
    pub(crate) async fn wait(&self, wanted: impl FnMut(&State) -> bool) {
        let mut changes = self.state.subscribe();
        let came = timeout(PATIENCE, changes.wait_for(wanted)).await.is_ok();
        assert!(came, "after {PATIENCE:?}: {}", self.look(State::summary));
    }

    /// Keeps messages of devices from the broker from now on.
    pub(crate) fn hold(&self) {
        self.state.send_modify(|state| state.is_holding = true);
    }

    /// Gives the broker what was kept from it, in order.
    pub(crate) fn release(&self) {
        self.state.send_modify(|state| {
            state.is_holding = false;
            for (_, to, packet) in std::mem::take(&mut state.held) {
                // A connection that is gone needs nothing.
                drop(to.try_send(packet));
            }
        });
    }

    /// Keeps the next acknowledgements of messages from the gateway.
    pub(crate) fn lose_acks(&self, count: usize) {
        self.state.send_modify(|state| state.acks_to_lose = count);
    }

    /// Refuses the next message in the broker's place (MQTT 5: payload format invalid).
    pub(crate) fn refuse_next(&self) {
        self.state
            .send_modify(|state| state.messages_to_refuse += 1);
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| {
            std::mem::take(&mut state.cut).cancel();
            state.held.clear();
            state.filters.clear();
        });
    }

    /// Swallows everything from the gateway but the opening of connections.
    pub(crate) fn mute(&self) {
        self.state.send_modify(|state| state.is_mute = true);
    }

    /// Refuses each message to a topic with this end for this reason, or closes its connection, as
    /// brokers of version 3.1.1 may.
    pub(crate) fn deny(&self, end: &'static str, reason: Option<u8>) {
        self.state
            .send_modify(|state| state.denied = Some((end, reason)));
    }

    /// Closes each connection as soon as the broker has taken it.
    pub(crate) fn close_at_once(&self) {
        self.state.send_modify(|state| state.is_closing = true);
    }
}

async fn accept(listener: TcpListener, broker: u16, state: Arc<watch::Sender<State>>) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let Ok((gateway, _)) = listener.accept().await else {
            return;
        };
        state.send_modify(|state| state.connects.push(Instant::now()));
        connections.spawn(serve(number, gateway, broker, state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(number: u64, gateway: TcpStream, broker: u16, state: Arc<watch::Sender<State>>) {
    let Ok(broker) = TcpStream::connect(("127.0.0.1", broker)).await else {
        return;
    };
    let cut = state.borrow().cut.clone();
    let (mut from_gateway, mut to_gateway) = gateway.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let (up, mut up_queue) = mpsc::channel::<Bytes>(QUEUE);
    let (down, mut down_queue) = mpsc::channel::<Bytes>(QUEUE);
    let connection = Connection {
        number,
        state: state.clone(),
        up,
        down,
    };
    let read_up = async {
        let mut buffer = BytesMut::new();
        while let Ok(1..) = from_gateway.read_buf(&mut buffer).await {
            while let Some(packet) = split(&mut buffer) {
                connection.on_gateway(packet);
            }
        }
        // What the gateway has said reaches the broker before the end.
        pass(&connection.up, Bytes::new());
        std::future::pending::<()>().await;
    };
    let read_down = async {
        let mut buffer = BytesMut::new();
        while let Ok(1..) = from_broker.read_buf(&mut buffer).await {
            while let Some(packet) = split(&mut buffer) {
                connection.on_broker(packet);
            }
        }
        // What the broker has said reaches the gateway before the end.
        pass(&connection.down, Bytes::new());
        std::future::pending::<()>().await;
    };
    let write_up = async {
        while let Some(packet) = up_queue.recv().await {
            if packet.is_empty() {
                // The broker closes once it has read the end; until then it may still give.
                drop(to_broker.shutdown().await);
                std::future::pending::<()>().await;
            }
            if to_broker.write_all(&packet).await.is_err() {
                return;
            }
        }
    };
    let write_down = async {
        while let Some(packet) = down_queue.recv().await {
            if packet.is_empty() || to_gateway.write_all(&packet).await.is_err() {
                return;
            }
            let is_closing = state.borrow().is_closing;
            if is_closing {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => {}
        () = write_up => {}
        () = write_down => {}
        () = read_up => {}
        () = read_down => {}
    }
    // Only now is it known that no more comes of it.
    state.send_modify(|state| {
        state.filters.remove(&number);
        state.held.retain(|(connection, ..)| *connection != number);
        state
            .telemetry
            .retain(|(connection, _)| *connection != number);
    });
}

struct Connection {
    number: u64,
    state: Arc<watch::Sender<State>>,
    up: mpsc::Sender<Bytes>,
    down: mpsc::Sender<Bytes>,
}

impl Connection {
    fn on_gateway(&self, packet: Bytes) {
        self.state.send_modify(|state| {
            let kind = packet[0] >> 4;
            if state.is_mute && kind != 1 {
                return;
            }
            match kind {
                PUBLISH if state.is_denied(&packet) => {
                    let reason = state.denied.and_then(|(_, reason)| reason);
                    let answer = reason.map(|reason| refusal(publish(&packet).1, reason));
                    return pass(&self.down, answer.unwrap_or_default());
                }
                PUBLISH if is_telemetry(&packet) => {
                    let (_, id) = publish(&packet);
                    if state.messages_to_refuse > 0 {
                        state.messages_to_refuse -= 1;
                        return pass(&self.down, refusal(id, 0x99));
                    }
                    state.telemetry.insert((self.number, id));
                    if state.is_holding {
                        return state.held.push((self.number, self.up.clone(), packet));
                    }
                }
                PUBACK => {
                    let id = number(&body(&packet));
                    let mut given = state.given.iter_mut().rev();
                    let given = given.find(|g| g.connection == self.number && g.id == id);
                    if let Some(given) = given {
                        given.acknowledged = true;
                    }
                }
                SUBSCRIBE | UNSUBSCRIBE => {
                    let asked = filters(&packet, kind == SUBSCRIBE);
                    if let Some((id, filters)) = asked {
                        state.asked.insert((self.number, id), filters);
                    }
                }
                _ => {}
            }
            pass(&self.up, packet);
        });
    }

    fn on_broker(&self, packet: Bytes) {
        self.state.send_modify(|state| {
            let kind = packet[0] >> 4;
            match kind {
                PUBLISH => {
                    let (_, id) = publish(&packet);
                    state.given.push(Given {
                        packet: packet.clone(),
                        id,
                        connection: self.number,
                        acknowledged: false,
                    });
                }
                PUBACK => {
                    let body = body(&packet);
                    let is_ours = state.telemetry.remove(&(self.number, number(&body)));
                    let is_good = body.get(2).is_none_or(|reason| *reason < 0x80);
                    if is_ours && is_good {
                        state.accepted += 1;
                        if state.acks_to_lose > 0 {
                            state.acks_to_lose -= 1;
                            return;
                        }
                    }
                }
                SUBACK | UNSUBACK => {
                    let body = body(&packet);
                    let asked = state.asked.remove(&(self.number, number(&body)));
                    let filters = state.filters.entry(self.number).or_default();
                    for filter in asked.unwrap_or_default() {
                        match kind {
                            SUBACK => filters.insert(filter),
                            _ => {
                                filters.remove(&filter);
                                state.given_back.insert(filter)
                            }
                        };
                    }
                }
                _ => {}
            }
            pass(&self.down, packet);
        });
    }
}

fn pass(to: &mpsc::Sender<Bytes>, packet: Bytes) {
    // A connection that is gone needs nothing.
    drop(to.try_send(packet));
}

/// Takes a whole packet: MQTT 5 section 2.1.
fn split(buffer: &mut BytesMut) -> Option<Bytes> {
    let (mut length, mut shift, mut at) = (0_usize, 0, 1);
    loop {
        let byte = *buffer.get(at)?;
        length |= usize::from(byte & 0x7f) << shift;
        (shift, at) = (shift + 7, at + 1);
        if byte & 0x80 == 0 {
            break;
        }
    }
    let end = at + length;
    (buffer.len() >= end).then(|| buffer.split_to(end).freeze())
}

fn body(packet: &Bytes) -> Bytes {
    let header = 1
        + packet[1..]
            .iter()
            .take_while(|byte| **byte & 0x80 != 0)
            .count()
        + 1;
    packet.slice(header..)
}

fn number(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// A PUBACK that refuses (MQTT 5).
fn refusal(id: u16, reason: u8) -> Bytes {
    let [high, low] = id.to_be_bytes();
    Bytes::copy_from_slice(&[PUBACK << 4, 3, high, low, reason])
}

/// Topic and packet identifier of a PUBLISH; 0 at QoS 0.
fn publish(packet: &Bytes) -> (Bytes, u16) {
    let mut body = body(packet);
    let topic = body.split_to(usize::from(number(&body)) + 2).slice(2..);
    let id = if packet[0] & 6 == 0 { 0 } else { number(&body) };
    (topic, id)
}

fn is_telemetry(packet: &Bytes) -> bool {
    publish(packet).0.ends_with(b"/telemetry")
}

/// The filters of a SUBSCRIBE or UNSUBSCRIBE under its packet identifier. Whether there are
/// properties is tried out: MQTT 3.1.1 has none, where MQTT 5 has at least their length, a zero.
fn filters(packet: &Bytes, has_options: bool) -> Option<(u16, Vec<String>)> {
    let mut body = body(packet);
    let id = body.get_u16();
    let read = |mut rest: Bytes| {
        let mut filters = Vec::new();
        while !rest.is_empty() {
            let length = rest.get(..2).map(|bytes| usize::from(number(bytes)))?;
            if length == 0 || rest.len() < 2 + length + usize::from(has_options) {
                return None;
            }
            let text = rest.split_to(2 + length).slice(2..);
            filters.push(String::from_utf8(text.to_vec()).ok()?);
            if has_options {
                rest.advance(1);
            }
        }
        Some(filters)
    };
    let filters = match body.first() {
        Some(0) => read(body.slice(1..)).or_else(|| read(body)),
        _ => read(body),
    };
    Some((id, filters?))
}
