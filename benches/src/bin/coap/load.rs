//! The devices and what they do.

use std::time::Duration;

use anyhow::{Context, Result};
use benches::fleet::Fleet;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Client;
use crate::server::Server;

/// What came of a round.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) sent_again: u64,
    pub(crate) wall: Duration,
}

impl Tally {
    pub(crate) fn a_second(&self) -> f64 {
        self.requests as f64 / self.wall.as_secs_f64()
    }
}

/// Brings up the devices, each of which sends one request. An order is how long each worker sends.
pub(crate) fn fleet(
    server: &Server,
    is_secure: bool,
    sockets: usize,
    in_flight: usize,
) -> Result<Fleet<Duration, Tally>> {
    let address = match is_secure {
        true => server.open.secure.context("the server has no DTLS")?,
        false => server.open.plain,
    };
    let bring_up = async move || {
        let workers = in_flight.clamp(1, sockets);
        let mut crews = JoinSet::new();
        for worker in 0..workers {
            let numbers = (worker..sockets).step_by(workers);
            crews.spawn(async move {
                let mut crew = Vec::new();
                for number in numbers {
                    crew.push(Client::start(address, is_secure, number).await?);
                }
                anyhow::Ok(crew)
            });
        }
        finish(crews).await
    };
    Fleet::start(bring_up, drive)
}

/// The devices of a worker, which take turns.
type Crew = Vec<Client>;

async fn drive(crews: Vec<Crew>, length: Duration) -> Result<(Vec<Crew>, Tally)> {
    let started = Instant::now();
    let end = started + length;
    let mut working = JoinSet::new();
    for mut crew in crews {
        working.spawn(async move {
            let mut tally = Tally::default();
            'round: loop {
                for client in &mut crew {
                    tally.sent_again += client.post().await?;
                    tally.requests += 1;
                    if Instant::now() >= end {
                        break 'round;
                    }
                }
            }
            anyhow::Ok((crew, tally))
        });
    }
    let mut all = Tally::default();
    let mut crews = Vec::new();
    for (crew, tally) in finish(working).await? {
        crews.push(crew);
        all.requests += tally.requests;
        all.sent_again += tally.sent_again;
    }
    all.wall = started.elapsed();
    Ok((crews, all))
}

async fn finish<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.push(ended??);
    }
    Ok(all)
}
