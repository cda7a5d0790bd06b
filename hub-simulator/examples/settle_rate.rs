//! Measures the hub alone: memory a connection, and settled telemetry from a sender that batches.
//!
//! `cargo run --release -p hub-simulator --example settle_rate [links] [messages]`
#![expect(clippy::print_stdout, reason = "a measurement is there to be read")]
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that fails may as well panic"
)]

use std::fs;

use hub_simulator::{ConnectionString, HubSimulator, RecordMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Messages written at once, before their settlements are awaited.
const WINDOW: usize = 4000;
/// Connections that the memory of one is taken from.
const CONNECTIONS: usize = 10;
/// Nanoseconds of a clock tick of `/proc` (100 a second).
const TICK_NS: f64 = 1e7;

fn frame(channel: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32 + 8).to_be_bytes().to_vec();
    frame.extend([2, 0]);
    frame.extend(channel.to_be_bytes());
    frame.extend(body);
    frame
}

fn described(code: u8, fields: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0x53, code, 0xd0];
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(u32::from(fields).to_be_bytes());
    out.extend(body);
    out
}

fn text(constructor: u8, text: &str) -> Vec<u8> {
    let mut out = vec![constructor];
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
    out
}

fn uint(value: u32) -> Vec<u8> {
    [&[0x70][..], &value.to_be_bytes()].concat()
}

fn attach(name: &str, handle: u32, receives: bool, address: &str) -> Vec<u8> {
    let terminus = |code, address: &str| described(code, 1, &text(0xb1, address));
    let role = [if receives { 0x41 } else { 0x42 }];
    let nothing = [0x40];
    let fields = [
        text(0xb1, name),
        uint(handle),
        role.to_vec(),
        nothing.repeat(2),
        terminus(0x28, address),
        terminus(0x29, address),
        nothing.repeat(2),
        uint(0),
    ];
    frame(0, &described(0x12, 10, &fields.concat()))
}

fn transfer(handle: u32, id: u32, message: &[u8]) -> Vec<u8> {
    let fields = [
        uint(handle),
        uint(id),
        vec![0xa0, 4, 1, 2, 3, 4],
        uint(0),
        vec![0x42, 0x42],
    ];
    frame(
        0,
        &[&described(0x14, 6, &fields.concat())[..], message].concat(),
    )
}

fn put_token(name: &str, token: &str) -> Vec<u8> {
    let mut id = [0x40; 13].to_vec();
    id[0] = 0x43;
    let mut pairs = Vec::new();
    for (key, value) in [
        ("operation", "put-token"),
        ("type", "servicebus.windows.net:sastoken"),
        ("name", name),
    ] {
        pairs.extend(text(0xb1, key));
        pairs.extend(text(0xb1, value));
    }
    let mut application = described(0x74, 6, &pairs);
    application[3] = 0xd1;
    [
        described(0x73, 13, &id),
        application,
        vec![0, 0x53, 0x77],
        text(0xb1, token),
    ]
    .concat()
}

/// User and system time of this process's threads whose name starts with `prefix`, in clock ticks.
fn cpu_ticks(prefix: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .filter(|stat| stat.contains(&format!("({prefix}")))
        .map(|stat| {
            let fields: Vec<&str> = stat
                .rsplit(')')
                .next()
                .unwrap()
                .split_whitespace()
                .collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
        .sum()
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads frames until `count` deliveries are settled.
async fn await_settled(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: usize) {
    let mut settled = 0;
    loop {
        let mut at = 0;
        while let Some(size) = buffer.get(at..at + 4) {
            let size = u32::from_be_bytes(size.try_into().unwrap()) as usize;
            let Some(frame) = buffer.get(at..at + size) else {
                break;
            };
            at += size;
            if frame[8..11] == [0, 0x53, 0x15] {
                let mut fields = &frame[8 + 3 + 9 + 1..];
                let first = next_uint(&mut fields).unwrap();
                settled += (next_uint(&mut fields).unwrap_or(first) - first + 1) as usize;
            }
        }
        buffer.drain(..at);
        if settled >= count {
            return;
        }
        stream.read_buf(buffer).await.unwrap();
    }
}

fn next_uint(fields: &mut &[u8]) -> Option<u32> {
    let (value, used) = match fields[0] {
        0x43 => (Some(0), 1),
        0x52 => (Some(fields[1].into()), 2),
        0x70 => (
            Some(u32::from_be_bytes(fields[1..5].try_into().unwrap())),
            5,
        ),
        _ => (None, 1),
    };
    *fields = &fields[used..];
    value
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<usize>().unwrap());
    let links = arguments.next().unwrap_or(1000);
    let messages = arguments.next().unwrap_or(2_000_000);
    let server = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("hub")
        .enable_all()
        .build()
        .unwrap();
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let hub = server
        .block_on(server.spawn(async {
            HubSimulator::builder()
                .with_tls(false)
                .with_auto_register(true)
                .with_record(RecordMode::Count)
                .start()
                .await
        }))
        .unwrap()
        .unwrap();
    client.block_on(run(&hub, links, messages));
}

/// Opens a connection with a link for each of `links` devices, from number `first` on.
async fn connect(hub: &HubSimulator, first: usize, links: usize) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(hub.addr()).await.unwrap();
    let string = ConnectionString::parse(&hub.policy_connection_string("device")).unwrap();
    let mut hello = b"AMQP\x00\x01\x00\x00".to_vec();
    hello.extend(frame(0, &described(0x10, 1, &text(0xb1, "bench"))));
    let begin = [&[0x40][..], &uint(0), &uint(1 << 30), &uint(1 << 30)].concat();
    hello.extend(frame(0, &described(0x11, 4, &begin)));
    hello.extend(attach("cbs-s", 0, false, "$cbs"));
    hello.extend(attach("cbs-r", 1, true, "$cbs"));
    hello.extend(transfer(
        0,
        0,
        &put_token("bench", &string.sign(4_000_000_000)),
    ));
    for n in 0..links {
        let name = device(first + n);
        hello.extend(attach(
            &name,
            n as u32 + 2,
            false,
            &format!("/devices/{name}/messages/events"),
        ));
    }
    let mut buffer = Vec::with_capacity(1 << 20);
    let (mut reader, mut writer) = stream.split();
    let (written, ()) = tokio::join!(writer.write_all(&hello), async {
        while hub
            .connections()
            .get(first / links)
            .is_none_or(|connection| connection.links < links + 2)
        {
            reader.read_buf(&mut buffer).await.unwrap();
        }
    });
    written.unwrap();
    // Behind the protocol header; the token itself was settled too.
    while buffer.len() < 8 {
        stream.read_buf(&mut buffer).await.unwrap();
    }
    buffer.drain(..8);
    await_settled(&mut stream, &mut buffer, 1).await;
    (stream, buffer)
}

fn device(number: usize) -> String {
    format!("d{number}")
}

async fn run(hub: &HubSimulator, links: usize, messages: usize) {
    hub.add_devices((0..(CONNECTIONS + 1) * links).map(device));
    let (mut stream, mut buffer) = connect(hub, 0, links).await;
    // What the first connection needed for a moment serves the others, too.
    let before = resident_kib();
    let mut others = Vec::new();
    for number in 1..=CONNECTIONS {
        others.push(connect(hub, number * links, links).await.0);
    }
    println!(
        "{} KiB for a connection with {links} devices",
        (resident_kib() - before) / CONNECTIONS as u64
    );
    drop(others);

    let body = [&[0, 0x53, 0x75, 0xa0, 100][..], &[b'x'; 100]].concat();
    let (start, ticks) = (Instant::now(), cpu_ticks("hub"));
    let mut sent = 0;
    while sent < messages {
        let mut out = Vec::with_capacity(WINDOW * 160);
        for n in sent..sent + WINDOW {
            out.extend(transfer((n % links) as u32 + 2, n as u32 + 1, &body));
        }
        stream.write_all(&out).await.unwrap();
        await_settled(&mut stream, &mut buffer, WINDOW).await;
        sent += WINDOW;
    }
    let (elapsed, ticks) = (start.elapsed(), cpu_ticks("hub") - ticks);
    let nanos = ticks as f64 * TICK_NS / sent as f64;
    println!("{sent} messages settled in {elapsed:.1?}, {nanos:.0} ns of the hub's CPU a message");
    assert_eq!(hub.record().count(), sent as u64);
}
