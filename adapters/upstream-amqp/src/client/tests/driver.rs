//! The driver, over a stream that ends in the test's hands.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fe2o3_amqp::frames::sasl;
use fe2o3_amqp_types::definitions::{AmqpError, Error as WireError};
use fe2o3_amqp_types::performatives::{ChannelMax, Close, MaxFrameSize, Open, Performative};
use fe2o3_amqp_types::primitives::{Array, Symbol};
use fe2o3_amqp_types::sasl::{SaslCode, SaslMechanisms, SaslOutcome};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::hub::{APART, accepted, attach_answer, begin_answer, link_flow, spec};
use crate::client::driver::{Connection, Driver, Options};
use crate::client::error::{ClientError, OpenError};
use crate::client::frame::{self, Frame};
use crate::client::link::FIRST;
use crate::client::session::Outcome;
use crate::env::lock;

const IDLE: Duration = Duration::from_secs(60);
const HEARTBEAT: Duration = Duration::from_secs(20);
const ROOM: usize = 4096;

const SASL: &[u8] = b"AMQP\x03\x01\x00\x00";
const AMQP: &[u8] = b"AMQP\x00\x01\x00\x00";

fn options() -> Options {
    Options {
        container: "test".to_owned(),
        host: "hub".to_owned(),
        idle_timeout: IDLE,
        heartbeat: HEARTBEAT,
        buffer: ROOM,
    }
}

fn open() -> Open {
    Open {
        container_id: "hub".to_owned(),
        hostname: None,
        max_frame_size: MaxFrameSize(65_536),
        channel_max: ChannelMax(10),
        idle_time_out: None,
        outgoing_locales: None,
        incoming_locales: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

/// All that a hub says to let a client in.
fn greeting(mechanism: &str, code: SaslCode, open: &Open) -> BytesMut {
    let mut bytes = BytesMut::from(SASL);
    let mechanisms = SaslMechanisms {
        sasl_server_mechanisms: Array(vec![Symbol::from(mechanism)]),
    };
    frame::put_sasl(&mut bytes, &sasl::Frame::Mechanisms(mechanisms));
    let outcome = SaslOutcome {
        code,
        additional_data: None,
    };
    frame::put_sasl(&mut bytes, &sasl::Frame::Outcome(outcome));
    bytes.extend_from_slice(AMQP);
    frame::put(&mut bytes, 0, open);
    bytes
}

/// The hub's end.
struct Peer {
    stream: DuplexStream,
    buffer: BytesMut,
}

impl Peer {
    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn say(&mut self, channel: u16, performative: &impl serde::Serialize) {
        let mut bytes = BytesMut::new();
        frame::put(&mut bytes, channel, performative);
        self.write(&bytes).await;
    }

    /// Passes over the client's side of the greeting, whose last frame is its open.
    async fn hear_greeting(&mut self) -> Frame {
        let mut last = None;
        for header in [SASL, AMQP] {
            while self.buffer.len() < header.len() {
                assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0);
            }
            assert_eq!(self.buffer.split_to(header.len()), header);
            last = self.frame().await;
        }
        last.expect("an open")
    }

    /// The next frame, or none at the end of the stream.
    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::split(&mut self.buffer, 65_536).unwrap() {
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// What the next frame says; none for a heartbeat.
    async fn hear(&mut self) -> Option<Performative> {
        let frame = self.frame().await.expect("a frame");
        frame.performative().unwrap().map(|(heard, _)| heard)
    }

    /// The next frame that is none of the heartbeats.
    async fn hear_word(&mut self) -> Performative {
        loop {
            if let Some(heard) = self.hear().await {
                return heard;
            }
        }
    }
}

async fn connect(size: usize, open: &Open) -> (Connection, Driver<DuplexStream>, Peer) {
    let (ours, theirs) = duplex(size);
    let mut peer = Peer {
        stream: theirs,
        buffer: BytesMut::new(),
    };
    let greeting = greeting("ANONYMOUS", SaslCode::Ok, open);
    let (opened, ()) = tokio::join!(Connection::open(ours, options()), async {
        tokio::join!(async {
            peer.write(&greeting).await;
            peer.hear_greeting().await;
        });
    });
    let (connection, driver) = opened.unwrap();
    (connection, driver, peer)
}

/// A connection with its driver running.
struct Running {
    connection: Connection,
    peer: Peer,
    driver: JoinSet<ClientError>,
    close: CancellationToken,
}

async fn run(size: usize, open: &Open) -> Running {
    let (connection, driver, peer) = connect(size, open).await;
    let (mut tasks, close) = (JoinSet::new(), CancellationToken::new());
    tasks.spawn(driver.run(close.clone()));
    Running {
        connection,
        peer,
        driver: tasks,
        close,
    }
}

impl Running {
    async fn ended(&mut self) -> ClientError {
        let ended = timeout(100 * IDLE, self.driver.join_next()).await;
        ended.expect("it ends").unwrap().unwrap()
    }

    /// A sender on a session, both open.
    async fn sender(&mut self, credit: u32) -> crate::client::Sender {
        let Self {
            connection, peer, ..
        } = self;
        let attach = async {
            let session = connection.begin().await.unwrap();
            let sender = session.attach_sender(spec("sender")).await.unwrap();
            (session, sender)
        };
        let answer = async {
            peer.hear_word().await;
            peer.say(APART, &begin_answer(0, 10_000)).await;
            let Performative::Attach(asked) = peer.hear_word().await else {
                panic!("no attach");
            };
            peer.say(APART, &attach_answer(asked)).await;
            peer.say(APART, &link_flow(0, FIRST, credit)).await;
        };
        let ((session, sender), ()) = tokio::join!(attach, answer);
        while session.credit(sender.id()) == 0 {
            yield_now().await;
        }
        sender
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_hub_is_given_up_after_the_idle_time() {
    let mut running = run(4096, &open()).await;
    let start = Instant::now();
    assert_eq!(running.ended().await, ClientError::Down);
    assert_eq!(start.elapsed(), IDLE);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_only_beats_is_kept_and_is_beaten_to() {
    let mut running = run(4096, &open()).await;
    let mut last = Instant::now();
    for _ in 0..10 {
        assert!(running.peer.hear().await.is_none());
        assert_eq!(last.elapsed(), HEARTBEAT);
        last = Instant::now();
        let mut beat = BytesMut::new();
        frame::put_empty(&mut beat);
        running.peer.write(&beat).await;
    }
    assert!(running.driver.try_join_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_takes_all_the_time_that_it_is_told_is_kept() {
    let (ours, theirs) = duplex(4096);
    let mut peer = Peer {
        stream: theirs,
        buffer: BytesMut::new(),
    };
    let greeting = greeting("ANONYMOUS", SaslCode::Ok, &open());
    peer.write(&greeting).await;
    let (opened, said) = tokio::join!(Connection::open(ours, options()), peer.hear_greeting());
    let Some((Performative::Open(said), _)) = said.performative().unwrap() else {
        panic!("no open");
    };
    let told = said.idle_time_out.expect("it says how long it waits");
    let told = Duration::from_millis(told.into());
    let (_connection, driver) = opened.unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(driver.run(CancellationToken::new()));
    for _ in 0..10 {
        // As late as a slow line makes it.
        sleep(told + told / 2).await;
        let mut beat = BytesMut::new();
        frame::put_empty(&mut beat);
        peer.write(&beat).await;
    }
    assert!(driving.try_join_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_hub_hears_from_us_in_half_the_time_that_it_waits() {
    let asks = Open {
        idle_time_out: Some(10_000),
        ..open()
    };
    let mut running = run(4096, &asks).await;
    let start = Instant::now();
    for beats in 1..4 {
        assert!(running.peer.hear().await.is_none());
        assert_eq!(start.elapsed(), beats * Duration::from_secs(5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_asks_for_a_beat_without_end_gets_ten_a_second() {
    let asks = Open {
        idle_time_out: Some(1),
        ..open()
    };
    let mut running = run(4096, &asks).await;
    let start = Instant::now();
    for _ in 0..20 {
        assert!(running.peer.hear().await.is_none());
    }
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_beats_and_never_reads_is_given_up_and_holds_little() {
    let mut running = run(1024, &open()).await;
    let mut sender = running.sender(10_000).await;
    let shared = running.connection.shared.clone();
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        loop {
            let sent = sender.send(Bytes::from(vec![0; 1000]), 0).await;
            if let Err(error) = sent.map(drop) {
                return error;
            }
            assert!(lock(&shared.state).out.peek().len() <= ROOM + 2000);
        }
    });
    let mut peer = running.peer.stream;
    let mut beating = JoinSet::new();
    beating.spawn(async move {
        let mut beat = BytesMut::new();
        frame::put_empty(&mut beat);
        while peer.write_all(&beat).await.is_ok() {
            sleep(Duration::from_secs(5)).await;
        }
    });
    let ended = timeout(3 * IDLE, running.driver.join_next()).await;
    assert_eq!(
        ended.expect("given up").unwrap().unwrap(),
        ClientError::Down
    );
    let failed = sending.join_next().await.unwrap().unwrap();
    assert_eq!(failed, ClientError::Down);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_asks_and_never_reads_is_given_up() {
    let mut running = run(1024, &open()).await;
    let sender = running.sender(1).await;
    let asks = fe2o3_amqp_types::performatives::Flow {
        echo: true,
        ..link_flow(0, FIRST, 1)
    };
    let mut bytes = BytesMut::new();
    while bytes.len() < 64 * 1024 {
        frame::put(&mut bytes, APART, &asks);
    }
    let mut peer = running.peer.stream;
    let mut asking = JoinSet::new();
    asking.spawn(async move { while peer.write_all(&bytes).await.is_ok() {} });
    let ended = timeout(IDLE, running.driver.join_next()).await;
    let ended = ended.expect("given up").unwrap().unwrap();
    assert!(matches!(ended, ClientError::Malformed(_)), "{ended}");
    assert!(sender.end().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_close_of_the_hub_is_told_as_it_is_loses_what_was_on_it_and_is_answered() {
    let mut running = run(4096, &open()).await;
    let mut sender = running.sender(10).await;
    let delivery = sender.send(Bytes::from_static(b"m"), 0).await.unwrap();
    running.peer.hear_word().await;
    let error = WireError::new(AmqpError::ResourceLimitExceeded, "full".to_owned(), None);
    running.peer.say(0, &Close { error: Some(error) }).await;
    let why = ClientError::Refused {
        condition: "amqp:resource-limit-exceeded".to_owned(),
        description: "full".to_owned(),
    };
    assert_eq!(delivery.await.unwrap_err(), ClientError::Down);
    assert_eq!(sender.end(), Some(ClientError::Down));
    assert!(matches!(
        running.peer.hear_word().await,
        Performative::Close(_)
    ));
    assert_eq!(running.ended().await, why);
    assert!(running.peer.frame().await.is_none(), "nothing after it");
    let begun = running.connection.begin().await;
    assert_eq!(begun.unwrap_err(), ClientError::Down);
}

#[tokio::test(start_paused = true)]
async fn a_cut_in_the_middle_of_a_frame_fails_what_is_on_its_way() {
    let mut running = run(4096, &open()).await;
    let mut sender = running.sender(10).await;
    let delivery = sender.send(Bytes::from_static(b"m"), 0).await.unwrap();
    let mut verdict = BytesMut::new();
    frame::put(&mut verdict, APART, &accepted(FIRST, None, true));
    running.peer.write(&verdict[..verdict.len() - 1]).await;
    drop(running.peer.stream);
    assert_eq!(delivery.await, Err(ClientError::Down));
    let ended = running.driver.join_next().await.unwrap().unwrap();
    assert_eq!(ended, ClientError::Down);
}

#[tokio::test(start_paused = true)]
async fn a_close_of_ours_waits_for_the_hubs() {
    let mut running = run(4096, &open()).await;
    running.close.cancel();
    assert!(matches!(
        running.peer.hear_word().await,
        Performative::Close(_)
    ));
    assert!(running.driver.try_join_next().is_none());
    running.peer.say(0, &Close { error: None }).await;
    assert_eq!(running.ended().await, ClientError::Down);
    assert!(running.peer.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_close_of_ours_that_is_not_answered_ends_all_the_same() {
    let mut running = run(4096, &open()).await;
    let mut sender = running.sender(10).await;
    let delivery = sender.send(Bytes::from_static(b"m"), 0).await.unwrap();
    running.close.cancel();
    let start = Instant::now();
    assert_eq!(delivery.await, Err(ClientError::Down));
    assert_eq!(running.ended().await, ClientError::Down);
    assert!(start.elapsed() < HEARTBEAT);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_dropped_fails_all_that_it_served() {
    let mut running = run(4096, &open()).await;
    let mut sender = running.sender(10).await;
    let delivery = sender.send(Bytes::from_static(b"m"), 0).await.unwrap();
    running.driver.shutdown().await;
    let failed = timeout(IDLE, delivery).await.expect("it fails");
    assert_eq!(failed, Err(ClientError::Down));
    assert!(running.connection.begin().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_never_ran_fails_all_that_it_was_to_serve() {
    let (connection, driver, _peer) = connect(4096, &open()).await;
    let mut beginning = JoinSet::new();
    beginning.spawn(async move { connection.begin().await.map(drop) });
    yield_now().await;
    drop(driver);
    assert_eq!(
        beginning.join_next().await.unwrap().unwrap(),
        Err(ClientError::Down)
    );
}

#[tokio::test(start_paused = true)]
async fn a_hub_whose_words_come_byte_by_byte_is_understood() {
    let (ours, theirs) = duplex(1 << 20);
    let mut peer = Peer {
        stream: theirs,
        buffer: BytesMut::new(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (connection, driver) = Connection::open(ours, options()).await.unwrap();
        let (mut driving, close) = (JoinSet::new(), CancellationToken::new());
        driving.spawn(driver.run(close.clone()));
        let session = connection.begin().await.unwrap();
        let mut sender = session.attach_sender(spec("sender")).await.unwrap();
        let delivery = sender.send(Bytes::from_static(b"m"), 0).await.unwrap();
        assert_eq!(delivery.await, Ok(Outcome::Accepted));
    });
    async fn drip(peer: &mut Peer, bytes: &[u8]) {
        for byte in bytes {
            peer.write(&[*byte]).await;
            yield_now().await;
        }
    }
    let encoded = |put: &dyn Fn(&mut BytesMut)| {
        let mut bytes = BytesMut::new();
        put(&mut bytes);
        bytes
    };
    drip(&mut peer, &greeting("ANONYMOUS", SaslCode::Ok, &open())).await;
    peer.hear_greeting().await;
    peer.hear_word().await;
    drip(
        &mut peer,
        &encoded(&|out| frame::put(out, APART, &begin_answer(0, 10))),
    )
    .await;
    let Performative::Attach(asked) = peer.hear_word().await else {
        panic!("no attach");
    };
    let answer = attach_answer(asked);
    drip(&mut peer, &encoded(&|out| frame::put(out, APART, &answer))).await;
    drip(
        &mut peer,
        &encoded(&|out| frame::put(out, APART, &link_flow(0, FIRST, 1))),
    )
    .await;
    assert!(matches!(peer.hear_word().await, Performative::Transfer(_)));
    let verdict = accepted(FIRST, None, true);
    drip(&mut peer, &encoded(&|out| frame::put(out, APART, &verdict))).await;
    tasks.join_next().await.unwrap().unwrap();
}

/// What comes of a hub that says this and then nothing more.
async fn opened(bytes: &[u8]) -> Result<(), OpenError> {
    let (ours, mut theirs) = duplex(1 << 20);
    theirs.write_all(bytes).await.unwrap();
    theirs.shutdown().await.unwrap();
    let opened = timeout(IDLE, Connection::open(ours, options())).await;
    opened.expect("it does not wait").map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_does_not_let_us_in_is_told_from_one_that_cannot_speak() {
    let greet = |mechanism: &str, code, open: &Open| greeting(mechanism, code, open);
    let good = greet("ANONYMOUS", SaslCode::Ok, &open());
    assert!(opened(&good).await.is_ok());
    let plain = opened(&greet("PLAIN", SaslCode::Ok, &open())).await;
    assert!(matches!(plain, Err(OpenError::Sasl)));
    let denied = opened(&greet("ANONYMOUS", SaslCode::Auth, &open())).await;
    assert!(matches!(denied, Err(OpenError::Sasl)));
    let tiny = Open {
        max_frame_size: MaxFrameSize(511),
        ..open()
    };
    let tiny = opened(&greet("ANONYMOUS", SaslCode::Ok, &tiny)).await;
    assert!(matches!(
        tiny,
        Err(OpenError::Client(ClientError::Malformed(_)))
    ));
    for cut in 0..good.len() {
        let cut = opened(&good[..cut]).await;
        assert!(matches!(cut, Err(OpenError::Io(_))));
    }
    let others: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"AMQP\x00\x00\x09\x01",
        b"AMQP\x00\x01\x00\x00",
        b"\x15\x03\x01\x00\x02\x02\x28\x00",
        b"AMQP\x03\x01\x00\x00\xff\xff\xff\xff\x02\x01\x00\x00",
        b"AMQP\x03\x01\x00\x00\x00\x00\x00\x08\x02\x00\x00\x00",
    ];
    for other in others {
        let other = opened(other).await;
        assert!(matches!(
            other,
            Err(OpenError::Client(ClientError::Malformed(_)))
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_closes_in_place_of_opening_says_why() {
    let mut bytes = greeting("ANONYMOUS", SaslCode::Ok, &open());
    let mut opening = BytesMut::new();
    frame::put(&mut opening, 0, &open());
    bytes.truncate(bytes.len() - opening.len());
    let error = WireError::new(AmqpError::NotAllowed, "no".to_owned(), None);
    frame::put(&mut bytes, 0, &Close { error: Some(error) });
    let why = opened(&bytes).await.unwrap_err();
    assert!(
        matches!(why, OpenError::Client(ClientError::Refused { condition, .. })
        if condition == "amqp:not-allowed")
    );
}

proptest! {
    #[test]
    fn no_garbage_in_the_greeting_panics_or_is_waited_for(
        at in 0..400_usize, garbage in proptest::collection::vec(any::<u8>(), 1..100),
    ) {
        let mut bytes = greeting("ANONYMOUS", SaslCode::Ok, &open());
        bytes.truncate(at);
        bytes.extend_from_slice(&garbage);
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
        drop(runtime.block_on(opened(&bytes)));
    }
}
