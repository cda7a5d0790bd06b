//! The concentrators and what they hear, in a thread of their own, whose CPU is not the gateway's.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use benches::process::{ThreadClock, machine_time};
use gateway_core::Gateway;
use gateway_downstream_lorawan::proto::Eui64;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval, sleep, timeout};

use crate::device;
use crate::settled::Departures;

/// Concentrators that take turns.
pub(crate) const CONCENTRATORS: usize = 16;
/// How long the last uplinks of a round may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be heard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// Uplinks a device.
    pub(crate) uplinks: usize,
    /// Uplinks a second; as many as the server takes without it.
    pub(crate) per_second: Option<u32>,
}

type Order = (Round, oneshot::Sender<Started>, oneshot::Sender<()>);

/// Says that a round's datagrams are made and begin to go.
#[derive(Debug)]
struct Started;

/// The radio's side of a network server.
#[derive(Debug)]
pub(crate) struct Air {
    orders: mpsc::Sender<Order>,
    clock: ThreadClock,
    thread: JoinHandle<Result<()>>,
}

/// The EUI of the n-th concentrator.
pub(crate) fn concentrator(number: usize) -> Eui64 {
    Eui64::new(0x0016_c001_0000_0000 + number as u64)
}

impl Air {
    /// Starts a thread that hears so many devices, and lets at most so many uplinks wait to be
    /// settled.
    pub(crate) fn start(
        server: SocketAddr,
        gateway: Gateway,
        devices: usize,
        in_flight: usize,
        departures: Arc<Departures>,
    ) -> Result<Self> {
        let (orders, mut ordered) = mpsc::channel::<Order>(1);
        let (ready, is_ready) = oneshot::channel();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut sky = Sky::open(server, gateway, devices, in_flight, departures).await?;
                let told = ready.send(ThreadClock::of_this_thread());
                told.ok().context("nobody measures")?;
                while let Some((round, started, ended)) = ordered.recv().await {
                    let datagrams = sky.datagrams(round.uplinks)?;
                    started.send(Started).ok().context("nobody measures")?;
                    sky.send(&datagrams, round.per_second).await?;
                    ended.send(()).ok().context("nobody measures")?;
                }
                Ok(())
            })
        };
        let builder = std::thread::Builder::new().name("air".to_owned());
        let thread = builder.spawn(work).context("no thread")?;
        match is_ready.blocking_recv() {
            Ok(clock) => Ok(Self {
                orders,
                clock,
                thread,
            }),
            Err(_) => Err(join(thread).err().context("it ended without a word")?),
        }
    }

    /// Has a round's datagrams made. The uplinks go at once then; the receiver ends when all are
    /// settled.
    pub(crate) async fn begin(&self, round: Round) -> Result<oneshot::Receiver<()>> {
        let (started, is_started) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let ordered = self.orders.send((round, started, ended)).await;
        ordered.ok().context("the air is gone")?;
        is_started.await.context("the air gave up")?;
        Ok(end)
    }

    /// The processor time that the thread has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.clock.read()
    }

    pub(crate) fn stop(self) -> Result<()> {
        drop(self.orders);
        join(self.thread)
    }
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// A device's uplink on its way to the server.
type Heard = (usize, Vec<u8>);

struct Sky {
    sockets: Vec<UdpSocket>,
    gateway: Gateway,
    devices: usize,
    in_flight: u64,
    next_counter: u32,
    departures: Arc<Departures>,
    sent: AtomicU64,
}

impl Sky {
    async fn open(
        server: SocketAddr,
        gateway: Gateway,
        devices: usize,
        in_flight: usize,
        departures: Arc<Departures>,
    ) -> Result<Self> {
        let mut sockets = Vec::new();
        for number in 0..CONCENTRATORS {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            socket.connect(server).await?;
            // The way back is open.
            socket.send(&datagram(number, 2, "")).await?;
            acknowledged(&socket).await?;
            sockets.push(socket);
        }
        Ok(Self {
            sockets,
            gateway,
            devices,
            in_flight: in_flight as u64,
            next_counter: 0,
            departures,
            sent: AtomicU64::new(0),
        })
    }

    /// Makes so many uplinks of each device, one after the other.
    fn datagrams(&mut self, uplinks: usize) -> Result<Vec<Heard>> {
        let mut datagrams = Vec::with_capacity(self.devices * uplinks);
        for _ in 0..uplinks {
            for number in 0..self.devices {
                let frame = device::frame(number, self.next_counter)?;
                let json = format!(
                    r#"{{"rxpk":[{{"tmst":{},"time":"2026-01-01T00:00:00.000000Z","tmms":1451606400000,"chan":2,"rfch":0,"freq":868.100000,"stat":1,"modu":"LORA","datr":"SF7BW125","codr":"4/5","lsnr":9.5,"rssi":-48,"size":{},"data":"{}"}}]}}"#,
                    self.next_counter.wrapping_mul(10_000_000),
                    frame.len(),
                    BASE64_STANDARD.encode(&frame),
                );
                datagrams.push((number, datagram(number % CONCENTRATORS, 0, &json)));
            }
            self.next_counter += 1;
        }
        Ok(datagrams)
    }

    /// Sends them, each concentrator one after the other as the server acknowledges them, and waits
    /// until all are settled.
    async fn send(&self, datagrams: &[Heard], per_second: Option<u32>) -> Result<()> {
        // Sixteen go in one tick: timers are no finer than a millisecond.
        let period = per_second.map(|rate| Duration::from_secs(1) * CONCENTRATORS as u32 / rate);
        let mut ticks = period.map(interval);
        let began = (machine_time(), Instant::now());
        for turn in datagrams.chunks(CONCENTRATORS) {
            // A tick that was missed is told at once, and is due when it was due.
            let due = match &mut ticks {
                Some(ticks) => Some(began.0 + (ticks.tick().await - began.1)),
                None => None,
            };
            while self.sent.load(Relaxed) - self.settled() > self.in_flight {
                sleep(Duration::from_millis(1)).await;
            }
            for ((number, datagram), socket) in turn.iter().zip(&self.sockets) {
                if let Some(due) = due {
                    self.departures.leave(*number, due);
                }
                socket.send(datagram).await?;
            }
            for (_, socket) in turn.iter().zip(&self.sockets) {
                acknowledged(socket).await?;
            }
            self.sent.fetch_add(turn.len() as u64, Relaxed);
        }
        let deadline = Instant::now() + PATIENCE;
        while self.settled() < self.sent.load(Relaxed) {
            let lost = self.sent.load(Relaxed) - self.settled();
            ensure!(Instant::now() < deadline, "{lost} uplinks were not settled");
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn settled(&self) -> u64 {
        self.gateway.stats().accepted
    }
}

/// PROTOCOL.TXT of Lora-net/packet_forwarder: version, token, kind, EUI, JSON.
fn datagram(concentrator_number: usize, kind: u8, json: &str) -> Vec<u8> {
    let eui = concentrator(concentrator_number).get().to_be_bytes();
    [&[2, 0, 1, kind][..], &eui, json.as_bytes()].concat()
}

async fn acknowledged(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 64];
    let answer = timeout(PATIENCE, socket.recv(&mut buffer)).await;
    answer.context("a datagram was not acknowledged")??;
    Ok(())
}
