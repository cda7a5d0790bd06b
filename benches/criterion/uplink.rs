//! From a TCP device's frames to their acknowledgements, before a hub that takes everything at once.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use benches::embedded::Embedded;
use benches::takes_all::TakesAll;
use benches::{BODY, device_name};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gateway_core::credential::VouchedCredentials;
use gateway_downstream_tcp::{TcpConfig, TcpDownstream};

async fn start() -> Result<(SocketAddr, Embedded)> {
    let mut config = TcpConfig::default();
    config.listen.set_port(0);
    config.identity.trust_any_id = true;
    let tcp = TcpDownstream::bind(config).await?;
    let address = tcp.local_addr();
    let gateway = Embedded::over(TakesAll, VouchedCredentials, 1, tcp)?;
    Ok((address, gateway))
}

/// A device that sends the same frames again and again.
struct Device {
    reader: BufReader<TcpStream>,
    line: String,
    frames: Vec<u8>,
    count: usize,
}

impl Device {
    fn connect(gateway: SocketAddr, in_flight: usize) -> Result<Self> {
        let stream = TcpStream::connect(gateway)?;
        stream.set_nodelay(true)?;
        let body = str::from_utf8(&BODY[2..])?;
        let frame = format!("{{\"type\":\"telemetry\",\"id\":\"m\",\"body\":\"{body}\"}}\n");
        let mut device = Self {
            reader: BufReader::new(stream),
            line: String::new(),
            frames: frame.repeat(in_flight).into_bytes(),
            count: in_flight,
        };
        let hello = format!(
            "{{\"type\":\"hello\",\"id\":\"{}\"}}\n",
            device_name(in_flight)
        );
        device.reader.get_mut().write_all(hello.as_bytes())?;
        device.hear("welcome")?;
        Ok(device)
    }

    fn exchange(&mut self) -> Result<()> {
        self.reader.get_mut().write_all(&self.frames)?;
        (0..self.count).try_for_each(|_| self.hear("ack"))
    }

    fn hear(&mut self, kind: &str) -> Result<()> {
        self.line.clear();
        self.reader.read_line(&mut self.line)?;
        ensure!(self.line.contains(kind), "told {:?}", self.line);
        Ok(())
    }
}

fn uplink(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (address, _gateway) = runtime.block_on(start()).expect("a gateway");
    let mut group = criterion.benchmark_group("uplink");
    for in_flight in [1, 8] {
        let mut device = Device::connect(address, in_flight).expect("a device");
        group.throughput(Throughput::Elements(in_flight as u64));
        group.bench_function(BenchmarkId::new("tcp_in_flight", in_flight), |bencher| {
            bencher.iter(|| device.exchange().expect("acknowledged"));
        });
    }
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
}

criterion_group! { name = benches; config = settings(); targets = uplink }
criterion_main!(benches);
