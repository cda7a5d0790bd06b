//! A network that loses datagrams and brings them twice, both ways.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// How bad the network is, in datagrams of a hundred.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

/// A seeded die (SplitMix64).
#[derive(Debug)]
struct Dice(Mutex<u64>);

impl Dice {
    fn roll(&self, sides: u64) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % sides
    }

    /// How often a datagram arrives.
    fn copies(&self, weather: Weather) -> usize {
        if self.roll(100) < weather.lost {
            return 0;
        }
        1 + usize::from(self.roll(100) < weather.doubled)
    }
}

/// Stands between clients and a gateway; each client has a port of its own at the gateway's side.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    lost: Arc<AtomicU64>,
    /// Ends when it is dropped.
    _task: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(gateway: SocketAddr, weather: Weather, seed: u64) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let lost = Arc::new(AtomicU64::new(0));
        let mut task = JoinSet::new();
        let dice = Arc::new(Dice(Mutex::new(seed)));
        task.spawn(forward(front, gateway, weather, dice, lost.clone()));
        Self {
            address,
            lost,
            _task: task,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Datagrams that did not arrive.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

async fn forward(
    front: Arc<UdpSocket>,
    gateway: SocketAddr,
    weather: Weather,
    dice: Arc<Dice>,
    lost: Arc<AtomicU64>,
) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut backs = JoinSet::new();
    let mut buffer = vec![0; 65_535];
    loop {
        // What became of a datagram of ours is nobody's business.
        let Ok((length, client)) = front.recv_from(&mut buffer).await else {
            continue;
        };
        let back = match clients.get(&client) {
            Some(back) => back.clone(),
            None => {
                let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                back.connect(gateway).await.unwrap();
                clients.insert(client, back.clone());
                let (front, dice, lost) = (front.clone(), dice.clone(), lost.clone());
                let from = back.clone();
                backs.spawn(async move {
                    let mut buffer = vec![0; 65_535];
                    loop {
                        let Ok(length) = from.recv(&mut buffer).await else {
                            continue;
                        };
                        let copies = dice.copies(weather);
                        lost.fetch_add(u64::from(copies == 0), Relaxed);
                        for _ in 0..copies {
                            drop(front.send_to(&buffer[..length], client).await);
                        }
                    }
                });
                back
            }
        };
        let copies = dice.copies(weather);
        lost.fetch_add(u64::from(copies == 0), Relaxed);
        for _ in 0..copies {
            drop(back.send(&buffer[..length]).await);
        }
    }
}
