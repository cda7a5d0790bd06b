//! The hub simulator as a program: fixed port, state in a directory, a readable log.

mod control;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;
use hub_simulator::{HubSimulator, RecordMode};
use tracing_subscriber::EnvFilter;

/// Latest telemetry messages that the control line can show.
const KEPT_MESSAGES: usize = 1000;

/// Azure IoT Hub on this machine.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// Host name of the hub, as it stands in connection strings and in the certificate.
    #[arg(long, default_value = "localhost")]
    host: String,
    /// Address to listen on.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST.into())]
    bind: IpAddr,
    /// Port for AMQP over TLS; 0 takes a free one.
    #[arg(long, default_value_t = 5671)]
    amqps_port: u16,
    /// Directory for certificates, keys and devices, kept over restarts.
    #[arg(long, default_value = "hub-state")]
    state: PathBuf,
    /// File to write shell variables to once the hub listens.
    #[arg(long)]
    env_file: Option<PathBuf>,
    /// Device to register; may be given many times.
    #[arg(long = "device", value_name = "ID", default_value = "device-1")]
    devices: Vec<String>,
    /// Print nothing but the answers to commands.
    #[arg(long)]
    quiet: bool,
    /// Register every device at first sight, with a key derived from the group key.
    #[arg(long)]
    auto_register: bool,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    let result = runtime.block_on(run());
    // A read of standard input cannot be called off: do not wait for it.
    runtime.shutdown_background();
    result
}

async fn run() -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("hub_simulator=debug"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let options = Options::parse();
    let hub = HubSimulator::builder()
        .with_host(&options.host)
        .with_address(SocketAddr::new(options.bind, options.amqps_port))
        .with_state(&options.state)
        .with_auto_register(options.auto_register)
        .with_record(RecordMode::Recent(KEPT_MESSAGES))
        .start()
        .await
        .context("the hub cannot start")?;
    hub.add_devices(&options.devices);
    hub.save().context("the registry cannot be stored")?;
    let variables = Variables::of(&hub, &options)?;
    if let Some(path) = &options.env_file {
        variables.write(path)?;
    }
    if !options.quiet {
        variables.print(&hub, &options);
    }

    tokio::select! {
        signal = stop_signal() => signal.context("signals cannot be awaited")?,
        never = control::serve(&hub) => match never {},
    }
    hub.save().context("the registry cannot be stored")?;
    tracing::info!("Hub stops");
    Ok(())
}

/// What a client needs to know, as shell variables.
struct Variables(Vec<(&'static str, String)>);

impl Variables {
    fn of(hub: &HubSimulator, options: &Options) -> anyhow::Result<Self> {
        let ca = std::path::absolute(options.state.join("ca.pem")).context("no such directory")?;
        let device = options.devices.first().map_or("device-1", String::as_str);
        Ok(Self(vec![
            ("HUB_HOST", hub.host().to_owned()),
            ("HUB_AMQPS_PORT", hub.addr().port().to_string()),
            ("HUB_CA", ca.display().to_string()),
            (
                "HUB_SERVICE_CS",
                hub.policy_connection_string("iothubowner"),
            ),
            ("HUB_DEVICE_CS", hub.device_connection_string(device)),
        ]))
    }

    /// Writes `export NAME='value'` lines.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let quoted = |value: &str| value.replace('\'', r"'\''");
        let lines: String = self
            .0
            .iter()
            .map(|(name, value)| format!("export {name}='{}'\n", quoted(value)))
            .collect();
        hub_simulator::write_atomically(path, &lines).context("the variables cannot be written")
    }

    #[expect(
        clippy::print_stdout,
        reason = "a program tells its user how to connect"
    )]
    fn print(&self, hub: &HubSimulator, options: &Options) {
        println!(
            "The hub {} listens on {} (AMQP over TLS).",
            hub.host(),
            hub.addr()
        );
        println!("Trust:   {}", self.0[2].1);
        for id in &options.devices {
            println!("Device:  {}", hub.device_connection_string(id));
        }
        for policy in ["device", "service", "iothubowner"] {
            println!("Policy:  {}", hub.policy_connection_string(policy));
        }
        println!("Type 'help' for what can be done from here.");
    }
}

/// Waits for Ctrl-C, or for SIGTERM where there is one.
async fn stop_signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
