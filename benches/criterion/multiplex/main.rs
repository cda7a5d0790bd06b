//! Settled throughput and CPU of the embedded path over TLS, the hub in a process of its own: from a
//! base of 995 devices on one connection, one thing at a time is varied.

mod cpu_time;

use std::cell::OnceCell;
use std::time::Duration;

use anyhow::{Result, ensure};
use benches::device_name;
use benches::embedded::{Embedded, Keys, OnlySpeaking, deliver};
use benches::hub::{HubAccess, HubProcess, HubSetup, be_the_hub_if_asked};
use bytes::Bytes;
use criterion::measurement::{Measurement, WallTime};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use gateway_core::{DeviceId, MessageId, Uplink};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use cpu_time::CpuTime;

/// A message is many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Who sends what over which connections.
#[derive(Debug, Clone, Copy)]
struct Shape {
    devices: usize,
    devices_per_connection: usize,
    lanes: usize,
    body: usize,
    /// Messages of a device at a time.
    in_flight: usize,
}

/// Messages of a device behind each other in an iteration: so many that beginning hardly counts, however many
/// devices there are.
const MESSAGES: u64 = 10;

const BASE: Shape = Shape {
    devices: 995,
    devices_per_connection: 995,
    lanes: 16,
    body: 100,
    in_flight: 1,
};

fn shapes() -> Vec<(BenchmarkId, Shape)> {
    let vary = |what: &str, values: &[usize], set: fn(&mut Shape, usize)| {
        let of = |&value: &usize| {
            let mut shape = BASE;
            set(&mut shape, value);
            (BenchmarkId::new(what, value), shape)
        };
        values.iter().map(of).collect::<Vec<_>>()
    };
    [
        // One connection up to 995, then six and twenty-one. 995 is the base.
        vary(
            "devices",
            &[1, 100, 995, 5_000, 20_000],
            |shape, devices| {
                shape.devices = devices;
            },
        ),
        vary("connections", &[5, 21], |shape, connections| {
            shape.devices_per_connection = shape.devices.div_ceil(connections);
        }),
        // The last is a lane for each device.
        vary("lanes", &[1, 8, 995], |shape, lanes| shape.lanes = lanes),
        vary("body", &[1024], |shape, body| shape.body = body),
        vary("in_flight", &[8], |shape, in_flight| {
            shape.in_flight = in_flight;
        }),
    ]
    .concat()
}

/// A gateway and its devices.
struct Site {
    gateway: Embedded,
    uplinks: Vec<Uplink>,
    in_flight: usize,
}

impl Site {
    async fn start(access: &HubAccess, shape: Shape) -> Result<Self> {
        let mut config = access.amqp();
        config.pool.devices_per_policy_connection = shape.devices_per_connection;
        config.pool.lanes = shape.lanes;
        let (devices, in_flight) = (shape.devices, shape.in_flight);
        let credentials = Keys::Policy.credentials(access)?;
        let gateway = Embedded::start(config, credentials, devices * in_flight, OnlySpeaking)?;
        let body = Bytes::from(vec![b'x'; shape.body]);
        let uplink = |number| {
            let device = DeviceId::new(device_name(number))?;
            anyhow::Ok(Uplink::new(device, MessageId::new("0")?, body.clone()))
        };
        let site = Self {
            gateway,
            uplinks: (0..devices).map(uplink).collect::<Result<_>>()?,
            in_flight,
        };
        // The first message attaches the device.
        site.send(1).await?;
        Ok(site)
    }

    /// Sends so many times what is to be in flight of each device.
    async fn send(&self, times: u64) -> Result<()> {
        let mut sending = JoinSet::new();
        for uplink in &self.uplinks {
            for _ in 0..self.in_flight {
                let (ingress, mut uplink) = (self.gateway.ingress.clone(), uplink.clone());
                sending.spawn(async move {
                    let mut again = 0;
                    for number in 0..times {
                        uplink.id = MessageId::new(number.to_string())?;
                        again += deliver(&ingress, &uplink).await?;
                    }
                    anyhow::Ok(again)
                });
            }
        }
        while let Some(sent) = sending.join_next().await {
            ensure!(sent?? == 0, "a message was given back");
        }
        Ok(())
    }
}

/// A shape and its site, which is started when a benchmark asks for it.
struct Bench<'a> {
    runtime: &'a Runtime,
    hub: &'a OnceCell<HubProcess>,
    id: BenchmarkId,
    shape: Shape,
    site: OnceCell<Site>,
}

impl Bench<'_> {
    fn site(&self) -> &Site {
        self.site.get_or_init(|| {
            let hub = self.hub.get_or_init(|| {
                let hub = self
                    .runtime
                    .block_on(HubProcess::start(&HubSetup::default()));
                hub.expect("a hub")
            });
            let site = self.runtime.block_on(Site::start(&hub.access, self.shape));
            site.expect("a gateway with its devices")
        })
    }

    /// Measures messages of every device, as many in flight as its shape says.
    fn measure<M>(&self, group: &mut BenchmarkGroup<'_, M>, measurement: &M)
    where
        M: Measurement,
    {
        let messages = (self.shape.devices * self.shape.in_flight) as u64 * MESSAGES;
        group.sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(messages));
        group.bench_function(self.id.clone(), |bencher| {
            let site = self.site();
            bencher.iter_custom(|times| {
                let started = measurement.start();
                let sent = self.runtime.block_on(site.send(times * MESSAGES));
                sent.expect("accepted");
                measurement.end(started)
            });
        });
    }

    fn stop(self) -> Result<()> {
        match self.site.into_inner() {
            Some(site) => self.runtime.block_on(site.gateway.stop()),
            None => Ok(()),
        }
    }
}

fn main() -> Result<()> {
    let runtime = Runtime::new()?;
    if runtime.block_on(be_the_hub_if_asked())? {
        return Ok(());
    }
    let settings = || {
        Criterion::default()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(2))
    };
    let mut clock = settings().configure_from_args();
    let mut processor = settings().with_measurement(CpuTime).configure_from_args();
    let mut throughput = clock.benchmark_group("multiplex");
    let mut cpu = processor.benchmark_group("multiplex_cpu");
    let hub = OnceCell::new();
    for (id, shape) in shapes() {
        let bench = Bench {
            runtime: &runtime,
            hub: &hub,
            id,
            shape,
            site: OnceCell::new(),
        };
        bench.measure(&mut throughput, &WallTime);
        bench.measure(&mut cpu, &CpuTime);
        bench.stop()?;
    }
    throughput.finish();
    cpu.finish();
    clock.final_summary();
    Ok(())
}
