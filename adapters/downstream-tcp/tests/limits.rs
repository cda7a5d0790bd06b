//! What a wrong, slow or hostile device costs: itself, and nobody else.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::time::Duration;

use gateway_core::Interest;
use gateway_downstream_tcp::proto::Framing;
use serde_json::{Value, json};
use support::{Device, Running, config, device};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn whoever_says_nothing_is_sent_away() {
    let mut config = config(&["dev1"]);
    config.timeouts.hello = Duration::from_millis(100);
    let running = Running::start(config).await;
    let mut silent = running.dial().await;
    silent.hears_last("error", "hello_timeout").await;
    // A hello that never ends is none.
    let mut slow = running.dial().await;
    slow.write(b"{\"type\":").await;
    slow.hears_last("error", "hello_timeout").await;
    running.end().await;
}

#[tokio::test]
async fn a_frame_that_never_ends_ends_the_connection() {
    let mut config = config(&["dev1", "dev2"]);
    config.timeouts.frame = Duration::from_millis(300);
    config.limits.max_frame = 256;
    let running = Running::start(config).await;
    let mut dev1 = running.connect("dev1").await;
    let mut dev2 = running.connect("dev2").await;
    // Within the limit and above it.
    dev1.write(b"{\"type\":").await;
    dev2.write(&[b'x'; 1000]).await;
    dev1.hears_last("error", "frame_timeout").await;
    dev2.hears_last("error", "frame_timeout").await;
    running.end().await;
}

#[tokio::test]
async fn a_frame_of_which_only_the_length_comes_right_behind_another_ends_the_connection() {
    let mut config = config(&["dev1"]);
    config.timeouts.frame = Duration::from_millis(300);
    config.json_lines.framing = Framing::LengthPrefixed {
        bytes: 2,
        endian: Default::default(),
        includes_header: false,
    };
    let running = Running::start(config).await;
    let mut stream = TcpStream::connect(running.address()).await.unwrap();
    let hello = json!({"type": "hello", "id": "dev1", "secret": support::SECRET}).to_string();
    let length = u8::try_from(hello.len()).unwrap();
    let bytes = [&[0, length], hello.as_bytes(), &[0, 50]].concat();
    stream.write_all(&bytes).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert!(heard.contains("frame_timeout"), "{heard}");
    running.end().await;
}

#[tokio::test]
async fn a_silent_device_is_told_goodbye() {
    let mut config = config(&["dev1"]);
    config.timeouts.idle = Duration::from_millis(100);
    let running = Running::start(config).await;
    let mut dev1 = running.connect("dev1").await;
    dev1.hears_last("bye", "idle_timeout").await;
    running.end().await;
}

#[tokio::test]
async fn a_device_that_waits_for_the_hub_is_not_silent() {
    let mut config = config(&["dev1"]);
    config.timeouts.idle = Duration::from_secs(2);
    config.timeouts.frame = Duration::from_secs(2);
    config.limits.window = 1;
    let running = Running::start(config).await;
    let mut dev1 = running.connect("dev1").await;
    running.hub.hold();
    let first = json!({"type": "telemetry", "id": "a", "body": 1});
    // The beginning of the next frame waits in the gateway meanwhile.
    dev1.write(format!("{first}\n{{\"type\":").as_bytes()).await;
    running.hub.wait_held(1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    dev1.write(b"\"ping\"}\n").await;
    running.hub.release();
    assert_eq!(dev1.hear().await, json!({"type": "ack", "id": "a"}));
    assert_eq!(dev1.hear().await, json!({"type": "pong"}));
    running.end().await;
}

#[tokio::test]
async fn a_line_too_long_is_told_and_skipped() {
    let mut config = config(&["dev1"]);
    config.limits.max_frame = 256;
    let running = Running::start(config).await;
    let mut dev1 = running.connect("dev1").await;
    dev1.say(json!({"type": "telemetry", "id": "long", "body": "x".repeat(100_000)}))
        .await;
    assert_eq!(dev1.hear().await["reason"], "frame_too_long");
    dev1.works("short").await;
    assert_eq!(running.hub.accepted().len(), 1);
    running.end().await;
}

#[tokio::test]
async fn a_length_too_long_is_told_and_ends_the_connection() {
    let mut config = config(&["dev1"]);
    config.json_lines.framing = Framing::LengthPrefixed {
        bytes: 4,
        endian: Default::default(),
        includes_header: false,
    };
    let running = Running::start(config).await;
    let mut stream = TcpStream::connect(running.address()).await.unwrap();
    let hello = json!({"type": "hello", "id": "dev1", "secret": support::SECRET}).to_string();
    stream.write_u32(hello.len() as u32).await.unwrap();
    stream.write_all(hello.as_bytes()).await.unwrap();
    async fn hear(stream: &mut TcpStream) -> Value {
        let mut frame = vec![0; stream.read_u32().await.unwrap() as usize];
        stream.read_exact(&mut frame).await.unwrap();
        serde_json::from_slice(&frame).unwrap()
    }
    assert_eq!(hear(&mut stream).await["type"], "welcome");
    stream.write_u32(u32::MAX).await.unwrap();
    assert_eq!(hear(&mut stream).await["reason"], "frame_too_long");
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    running.end().await;
}

#[tokio::test]
async fn garbage_after_the_hello_is_told_and_forgiven() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.connect("dev1").await;
    dev1.write(b"\xff\xfe{}[\n").await;
    assert_eq!(dev1.hear().await["reason"], "malformed");
    dev1.works("m").await;
    running.end().await;
}

#[tokio::test]
async fn a_device_that_does_not_read_is_cut_off() {
    let mut config = config(&["deaf", "dev1"]);
    config.timeouts.write = Duration::from_millis(300);
    let running = Running::start(config).await;
    let mut deaf = running.connect("deaf").await;
    let mut dev1 = running.connect("dev1").await;
    let name = device("deaf");
    running.hub.wait_listening(&name, Interest::COMMANDS).await;
    // Every line is answered with a hundred bytes, until the gateway stops to read.
    let flood = async { while deaf.write(&[b'x', b'\n'].repeat(10_000)).await {} };
    tokio::join!(flood, running.hub.wait_deaf(&name));
    dev1.works("m").await;
    running.end().await;
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_has_room_later() {
    let mut config = config(&["dev1", "dev2", "dev3"]);
    config.limits.max_connections = 2;
    let running = Running::start(config).await;
    let mut dev1 = running.connect("dev1").await;
    let dev2 = running.connect("dev2").await;
    running
        .dial()
        .await
        .hears_last("bye", "too_many_connections")
        .await;
    dev1.works("m").await;
    drop(dev2);
    let mut dev3 = loop {
        let mut client = running.dial().await;
        client
            .say(json!({"type": "hello", "id": "dev3", "secret": support::SECRET}))
            .await;
        // The reset may overtake the goodbye: the hello is never read.
        if client
            .try_hear()
            .await
            .is_some_and(|message| message["type"] == "welcome")
        {
            break client;
        }
    };
    dev3.works("n").await;
    running.end().await;
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let mut config = config(&["dev1", "dev2"]);
    config.limits.max_connections_per_address = 1;
    config.listen = "0.0.0.0:0".parse().unwrap();
    let running = Running::start(config).await;
    let port = running.address().port();
    let dial =
        async |address: &str| Device::new(TcpStream::connect((address, port)).await.unwrap());
    let mut first = dial("127.0.0.1").await;
    first.hello("dev1").await;
    dial("127.0.0.1")
        .await
        .hears_last("bye", "too_many_connections")
        .await;
    first.works("m").await;
    running.end().await;
}
