//! A concentrator with Semtech's packet forwarder (`PROTOCOL.TXT` of Lora-net/packet_forwarder,
//! version 2).

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::air::{DATA_RATE, FREQUENCY, Sent};

const PUSH_DATA: u8 = 0;
const PULL_DATA: u8 = 2;
const PULL_RESP: u8 = 3;
const TX_ACK: u8 = 5;

/// How often it says that it is there.
const PULL_INTERVAL: Duration = Duration::from_secs(5);
/// How long before its time a frame must be there.
const LEAD: Duration = Duration::from_millis(20);
/// When windows open after an uplink: of data, and of a join.
const WINDOWS: [(u64, bool); 4] = [(1, false), (2, true), (5, false), (6, true)];
/// How long it is remembered who spoke.
const REMEMBERED: Duration = Duration::from_secs(7);
const SECOND: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Concentrator {
    eui: u64,
    socket: UdpSocket,
    started: Instant,
    /// Who spoke, by the counter's value; each has its own.
    spoke: Mutex<BTreeMap<u64, mpsc::Sender<Sent>>>,
}

impl Concentrator {
    pub(super) async fn open(eui: u64, gateway: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(gateway).await?;
        socket.writable().await?;
        Ok(Self {
            eui,
            socket,
            started: Instant::now(),
            spoke: Mutex::default(),
        })
    }

    fn spoke(&self) -> MutexGuard<'_, BTreeMap<u64, mpsc::Sender<Sent>>> {
        self.spoke.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a frame on, and remembers who hears answers to it.
    pub(super) fn hear(&self, frame: &[u8], snr: f64, ear: mpsc::Sender<Sent>) {
        let mut count = self.started.elapsed().as_micros() as u64;
        {
            let mut spoke = self.spoke();
            let oldest = count.saturating_sub(REMEMBERED.as_micros() as u64);
            *spoke = spoke.split_off(&oldest);
            while spoke.contains_key(&count) {
                count += 1;
            }
            spoke.insert(count, ear);
        }
        let data = json!({"rxpk": [{
            "tmst": count as u32, "freq": FREQUENCY, "chan": 0, "rfch": 0, "stat": 1,
            "modu": "LORA", "datr": DATA_RATE, "codr": "4/5", "rssi": -60, "lsnr": snr,
            "size": frame.len(), "data": BASE64_STANDARD.encode(frame),
        }]});
        self.say(PUSH_DATA, [0, 0], &data.to_string());
    }

    /// Sends a datagram; one for which there is no room is lost, as others are.
    fn say(&self, kind: u8, token: [u8; 2], json: &str) {
        let mut datagram = vec![2, token[0], token[1], kind];
        datagram.extend(self.eui.to_be_bytes());
        datagram.extend(json.as_bytes());
        self.socket.try_send(&datagram).ok();
    }

    /// Sends what it is asked to, until it is dropped.
    pub(super) async fn serve(&self) {
        let mut pulls = interval(PULL_INTERVAL);
        pulls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = [0; 4096];
        loop {
            let received = tokio::select! {
                received = self.socket.recv(&mut buffer) => received,
                _ = pulls.tick() => {
                    self.say(PULL_DATA, [0, 0], "");
                    continue;
                }
            };
            // Nobody may be there yet, or any more.
            let Ok(length) = received else { continue };
            if let [_, first, second, PULL_RESP, text @ ..] = &buffer[..length]
                && let Ok(mut request) = serde_json::from_slice::<Value>(text)
            {
                let error = match self.transmit(request["txpk"].take()) {
                    Ok(()) => "NONE",
                    Err(error) => error,
                };
                let answer = json!({"txpk_ack": {"error": error}}).to_string();
                self.say(TX_ACK, [*first, *second], &answer);
            }
        }
    }

    /// Sends a frame at its time to who listens then, or names what the protocol has for why not.
    fn transmit(&self, txpk: Value) -> Result<(), &'static str> {
        let now = self.started.elapsed().as_micros() as u64;
        let asked = txpk["tmst"].as_u64().ok_or("TX_FREQ")? as u32;
        // The counter has 32 bits; what is asked for is near.
        let ahead = asked.wrapping_sub(now as u32);
        if ahead > i32::MAX as u32 || u128::from(ahead) < LEAD.as_micros() {
            return Err("TOO_LATE");
        }
        let count = now + u64::from(ahead);
        let data = txpk["data"].as_str().unwrap_or_default();
        let frame = BASE64_STANDARD.decode(data).map_err(|_| "TX_FREQ")?;
        let spoke = self.spoke();
        let listens = WINDOWS.iter().find_map(|(seconds, is_second)| {
            let ear = spoke.get(&count.checked_sub(seconds * SECOND)?)?;
            Some((ear, *is_second))
        });
        if let Some((ear, is_second_window)) = listens {
            let sent = Sent {
                at: self.started + Duration::from_micros(count),
                is_second_window,
                txpk,
                frame,
            };
            // It may have heard enough.
            ear.try_send(sent).ok();
        }
        Ok(())
    }
}
