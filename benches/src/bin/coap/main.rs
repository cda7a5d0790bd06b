//! Measures what a request costs over CoAP: the downstream, plain and with DTLS, beside bare
//! `coap-lite` on a socket in the same run; what a handshake costs, and the memory a device takes.
//!
//! Each server has a thread of its own and is measured by that thread's processor time. What drives
//! the load runs in other threads of this process.

mod client;
mod load;
mod server;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::process::raise_file_limit;
use benches::report::{Fields, Report};
use benches::{BODY, duration};
use cap::Cap;
use clap::Parser;
use load::{Tally, fleet};
use server::{Kind, Server};

/// The gateway program's own, counted.
#[global_allocator]
static ALLOCATOR: Cap<mimalloc::MiMalloc> = Cap::new(mimalloc::MiMalloc, usize::MAX);

/// Measures requests a second, CPU a request and a handshake, and memory a device.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Sockets of devices, one run for each number; as many sessions over DTLS.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 512, 10_000])]
    sockets: Vec<usize>,
    /// Requests on their way at a time, one of a socket; more would overflow the server's buffer.
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// Rounds, in which the servers take turns, each started anew; the one in the middle by CPU
    /// counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long a round takes.
    #[arg(long, value_parser = duration, default_value = "2s")]
    round: Duration,
    /// Devices that memory is measured with.
    #[arg(long, default_value_t = 2_000)]
    devices: usize,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// A server, its name, and whether its devices have sessions.
type Side = (Kind, &'static str, bool);

/// What is measured side by side.
const SIDES: [Side; 3] = [
    (Kind::Bare, "coap-lite alone", false),
    (Kind::Gateway, "gateway", false),
    (Kind::Gateway, "gateway, DTLS", true),
];

fn main() -> Result<()> {
    let options = Options::parse();
    raise_file_limit()?;
    let conditions = Fields::new()
        .with("in_flight", options.in_flight)
        .with("rounds", options.rounds)
        .with("round_seconds", options.round.as_secs_f64())
        .with("devices", options.devices)
        .with("body", BODY.len());
    let mut report = Report::new(env!("CARGO_BIN_NAME"), conditions);
    let mut handshake = None;
    for &sockets in &options.sockets {
        let mut rounds = SIDES.map(|_| Vec::new());
        for _ in 0..options.rounds {
            for (side, rounds) in SIDES.iter().zip(&mut rounds) {
                rounds.push(Round::drive(side, sockets, &options)?);
            }
        }
        let mut bare = None;
        for ((_, name, is_secure), rounds) in SIDES.iter().zip(rounds) {
            let round = middle(rounds).context("no round")?;
            let bare = *bare.get_or_insert(round.cpu_us());
            report = report.with_row(row(sockets, name, &round, bare));
            if *is_secure {
                // The last number of sockets, the largest one, counts.
                handshake = Some(round.coming_us(sockets));
            }
        }
    }
    let handshake = handshake.context("no session")?;
    let results = Fields::new()
        .with("cpu_us_a_handshake", handshake)
        .with("handshakes_a_second_a_core", 1e6 / handshake)
        .with("bytes_a_device", memory(&options, false)?)
        .with("bytes_a_device_with_session", memory(&options, true)?);
    report.with_results(results).print(options.json);
    Ok(())
}

/// A fleet's time with a server that nobody has used before.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// The server's CPU until every device had sent one request.
    coming: Duration,
    tally: Tally,
    /// The server's CPU meanwhile.
    cpu: Duration,
}

impl Round {
    fn drive(&(kind, name, is_secure): &Side, sockets: usize, options: &Options) -> Result<Self> {
        let server = Server::start(kind)?;
        let mut fleet = fleet(&server, is_secure, sockets, options.in_flight)?;
        let coming = server.cpu()?;
        let tally = fleet.drive(options.round)?;
        let cpu = server.cpu()?.saturating_sub(coming);
        fleet.stop()?;
        server.stop()?;
        ensure!(tally.requests > 0, "{name} answered nothing");
        Ok(Self { coming, tally, cpu })
    }

    /// Microseconds of the server's CPU for a request.
    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.tally.requests as f64
    }

    /// Microseconds of the server's CPU for a device that comes.
    fn coming_us(&self, sockets: usize) -> f64 {
        self.coming.as_secs_f64() * 1e6 / sockets as f64
    }
}

fn row(sockets: usize, name: &str, round: &Round, bare: f64) -> Fields {
    Fields::new()
        .with("server", name)
        .with("sockets", sockets)
        .with("cpu_us_a_request", round.cpu_us())
        .with("requests_a_second_a_core", 1e6 / round.cpu_us())
        .with("requests_a_second", round.tally.a_second())
        .with(
            "server_cpu_share",
            round.cpu.as_secs_f64() / round.tally.wall.as_secs_f64(),
        )
        .with("sent_again", round.tally.sent_again)
        .with("cpu_to_bare", round.cpu_us() / bare)
}

/// The round in the middle, by CPU a request.
fn middle(mut rounds: Vec<Round>) -> Option<Round> {
    rounds.sort_by(|one, other| one.cpu_us().total_cmp(&other.cpu_us()));
    let middle = rounds.len() / 2;
    rounds.into_iter().nth(middle)
}

/// Bytes that the gateway keeps for a device that has sent one message, its session in the core and
/// what is remembered of its message included.
fn memory(options: &Options, is_secure: bool) -> Result<f64> {
    let server = Server::start(Kind::Gateway)?;
    // What one device more does not take again.
    fleet(&server, is_secure, 1, 1)?.stop()?;
    let before = ALLOCATOR.allocated();
    fleet(&server, is_secure, options.devices, options.in_flight)?.stop()?;
    let kept = ALLOCATOR.allocated().saturating_sub(before);
    server.stop()?;
    Ok(kept as f64 / options.devices as f64)
}
