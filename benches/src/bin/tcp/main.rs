//! Measures what a message costs over TCP, from the device's frame to its acknowledgement: the
//! gateway before the simulated hub and before one that costs nothing, beside a bare server that
//! answers each line, plain and with TLS, in the same run.
//!
//! Each server has a runtime of its own and is measured by the processor time of its threads. The
//! devices are in another thread of this process, the hub in a process of its own.

mod client;
mod load;
mod pki;
mod server;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::BODY;
use benches::hub::{HubProcess, HubSetup, be_the_hub_if_asked};
use benches::process::raise_file_limit;
use benches::report::{Fields, Report};
use clap::Parser;
use load::fleet;
use pki::Pki;
use server::{Cpu, Kind, Server, Surroundings};

/// The gateway program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures CPU an acknowledged message, in the kernel and outside of it.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Devices, each on a connection of its own; one run for each number.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1000])]
    devices: Vec<usize>,
    /// Messages of a device on their way at a time; one run for each number.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    in_flight: Vec<u64>,
    /// Messages of all devices in a round.
    #[arg(long, default_value_t = 100_000)]
    messages: u64,
    /// Rounds, in which the servers take turns, each started anew; the one in the middle by CPU
    /// counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads of a server. Default: as many as there are cores.
    #[arg(long)]
    workers: Option<usize>,
    /// What is measured: `echo`, `core`, `hub`, each with `+tls` or without. Default: all.
    #[arg(long, value_delimiter = ',', value_parser = side)]
    sides: Vec<Side>,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is measured beside others.
#[derive(Debug, Clone, Copy)]
struct Side {
    name: &'static str,
    kind: Kind,
    is_secure: bool,
}

const SIDES: [Side; 6] = [
    Side::new("echo", Kind::Echo, false),
    Side::new("core", Kind::TakesAll, false),
    Side::new("hub", Kind::Amqp, false),
    Side::new("echo+tls", Kind::Echo, true),
    Side::new("core+tls", Kind::TakesAll, true),
    Side::new("hub+tls", Kind::Amqp, true),
];

impl Side {
    const fn new(name: &'static str, kind: Kind, is_secure: bool) -> Self {
        Self {
            name,
            kind,
            is_secure,
        }
    }
}

fn side(name: &str) -> Result<Side> {
    let side = SIDES.into_iter().find(|side| side.name == name);
    side.context("allowed: echo, core, hub, echo+tls, core+tls, hub+tls")
}

fn main() -> Result<()> {
    let main = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if main.block_on(be_the_hub_if_asked())? {
        return Ok(());
    }
    let mut options = Options::parse();
    if options.sides.is_empty() {
        options.sides = SIDES.to_vec();
    }
    raise_file_limit()?;
    let cores = std::thread::available_parallelism()?.get();
    let hub = main.block_on(HubProcess::start(&HubSetup::default()))?;
    let around = Surroundings {
        pki: Pki::new()?,
        hub: hub.access.clone(),
        workers: options.workers.unwrap_or(cores),
    };
    let conditions = Fields::new()
        .with("messages", options.messages)
        .with("rounds", options.rounds)
        .with("workers", around.workers)
        .with("body", BODY.len());
    let mut report = Report::new(env!("CARGO_BIN_NAME"), conditions);
    for &devices in &options.devices {
        for &in_flight in &options.in_flight {
            let load = Load {
                devices,
                in_flight,
                messages: options.messages.div_ceil(devices as u64),
            };
            for row in load.measure(&options, &around)? {
                report = report.with_row(row);
            }
        }
    }
    report.print(options.json);
    Ok(())
}

/// What the devices do in a round.
#[derive(Debug, Clone, Copy)]
struct Load {
    devices: usize,
    in_flight: u64,
    /// Of each device.
    messages: u64,
}

impl Load {
    /// A row for each side.
    fn measure(&self, options: &Options, around: &Surroundings) -> Result<Vec<Fields>> {
        let mut rounds = vec![Vec::new(); options.sides.len()];
        for _ in 0..options.rounds {
            for (side, rounds) in options.sides.iter().zip(&mut rounds) {
                rounds.push(self.drive(side, around)?);
            }
        }
        let mut rows = Vec::new();
        let mut floors = Vec::new();
        for (side, mut rounds) in options.sides.iter().zip(rounds) {
            rounds.sort_by_key(|round| round.cpu.all);
            let round = rounds.get(rounds.len() / 2).context("no round")?;
            if side.kind == Kind::Echo {
                floors.push((side.is_secure, round.cpu.all));
            }
            let floor = floors.iter().find(|floor| floor.0 == side.is_secure);
            rows.push(self.row(side.name, round, floor.map(|floor| floor.1)));
        }
        Ok(rows)
    }

    fn drive(&self, side: &Side, around: &Surroundings) -> Result<Round> {
        let Self {
            devices, in_flight, ..
        } = *self;
        let is_secure = side.is_secure;
        let server = Server::start(side.kind, around, is_secure, devices, in_flight)?;
        let connector = is_secure.then(|| around.pki.connector()).transpose()?;
        let mut fleet = fleet(&server, connector, devices, in_flight)?;
        let before = server.cpu()?;
        let wall = fleet.drive(self.messages)?;
        let after = server.cpu()?;
        fleet.stop()?;
        server.stop()?;
        let cpu = Cpu {
            all: after.all - before.all,
            kernel: after.kernel - before.kernel,
        };
        ensure!(!cpu.all.is_zero(), "the system tells no time of threads");
        Ok(Round { cpu, wall })
    }

    fn row(&self, name: &str, round: &Round, floor: Option<Duration>) -> Fields {
        let messages = (self.messages * self.devices as u64) as f64;
        let us_each = |time: Duration| time.as_secs_f64() * 1e6 / messages;
        let Cpu { all, kernel } = round.cpu;
        let to_floor = floor.map(|floor| all.as_secs_f64() / floor.as_secs_f64());
        Fields::new()
            .with("server", name)
            .with("devices", self.devices)
            .with("in_flight", self.in_flight)
            .with("cpu_us_a_message", us_each(all))
            .with("of_that_kernel_us", us_each(kernel))
            .with("messages_a_second", messages / round.wall.as_secs_f64())
            .with("cpu_to_echo", to_floor)
    }
}

/// What a server used while the devices sent.
#[derive(Debug, Clone, Copy)]
struct Round {
    cpu: Cpu,
    wall: Duration,
}
