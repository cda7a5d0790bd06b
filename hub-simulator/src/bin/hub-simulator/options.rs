//! The command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use hub_simulator::{
    Builder, Checks, HubSimulator, Limits, ProvisioningOptions, RecordMode, Size, Tier,
};

/// Latest telemetry messages that the control line can show.
const KEPT_MESSAGES: usize = 1000;

/// Azure IoT Hub on this machine.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Options {
    /// Host name of the hub, as it stands in connection strings and in the certificate.
    #[arg(long, default_value = "localhost")]
    pub(crate) host: String,
    /// One more hub behind the same ports, by its host name; may be given many times.
    #[arg(long = "hub", value_name = "HOST")]
    pub(crate) hubs: Vec<String>,
    /// Address to listen on.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST.into())]
    bind: IpAddr,
    /// Port for AMQP over TLS; 0 takes a free one.
    #[arg(long, default_value_t = 5671)]
    amqps_port: u16,
    /// Port for MQTT over TLS; 0 takes a free one.
    #[arg(long, default_value_t = 8883)]
    mqtts_port: u16,
    /// Port for HTTPS and WebSockets; 0 takes a free one.
    #[arg(long, default_value_t = 443)]
    https_port: u16,
    /// Port on 127.0.0.1 for the control endpoint, plain HTTP; without it there is none.
    #[arg(long)]
    control_port: Option<u16>,
    /// File with a plan of faults, in JSON, that is followed from the start.
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// Directory for certificates and the state of the hub, kept over restarts; without it the state
    /// is gone when the program ends.
    #[arg(long)]
    pub(crate) state: Option<PathBuf>,
    /// File to write shell variables to once the hub listens.
    #[arg(long)]
    pub(crate) env_file: Option<PathBuf>,
    /// Device to register; may be given many times.
    #[arg(long = "device", value_name = "ID", default_value = "device-1")]
    pub(crate) devices: Vec<String>,
    /// Key of the default enrolment group, in base64; made at random if it is not given.
    #[arg(long, value_name = "KEY")]
    group_key: Option<String>,
    /// Host name of the provisioning service; the hub's by default.
    #[arg(long, value_name = "HOST")]
    dps_host: Option<String>,
    /// Id scope of the provisioning service; made at random if it is not given.
    #[arg(long, value_name = "SCOPE")]
    id_scope: Option<String>,
    /// Register every device at first sight, with a key derived from the group key.
    #[arg(long)]
    auto_register: bool,
    /// Consumer group for readers of telemetry besides `$Default`; may be given many times.
    #[arg(long = "consumer-group", value_name = "NAME")]
    consumer_groups: Vec<String>,
    /// Rule about who may do what that is not enforced; may be given many times.
    #[arg(long, value_enum, value_name = "RULE")]
    lenient: Vec<Rule>,
    /// Enforce the throttles and the daily quota of this tier, and provisioning's rate limits.
    #[arg(long, value_enum)]
    tier: Option<TierName>,
    /// Units of the tier.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=200))]
    units: u32,
    /// Print nothing but the answers to commands.
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TierName {
    S1,
    S2,
    S3,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rule {
    Signature,
    Expiry,
    Scope,
    Disabled,
    LinkSteal,
}

impl Options {
    /// The first hub, not started yet.
    pub(crate) fn builder(&self) -> Builder {
        let at = |port| SocketAddr::new(self.bind, port);
        let mut builder = self
            .hub(&self.host)
            .with_address(at(self.amqps_port))
            .with_mqtts_address(at(self.mqtts_port))
            .with_https_address(at(self.https_port))
            .with_provisioning(self.provisioning());
        if let Some(directory) = &self.state {
            builder = builder.with_state(directory);
        }
        if let Some(port) = self.control_port {
            builder = builder.with_control((Ipv4Addr::LOCALHOST, port).into());
        }
        builder
    }

    fn provisioning(&self) -> ProvisioningOptions {
        let mut options = ProvisioningOptions::default().with_throttled(self.tier.is_some());
        options.host.clone_from(&self.dps_host);
        options.id_scope.clone_from(&self.id_scope);
        options
    }

    /// One more hub, not started yet.
    pub(crate) fn another(&self, host: &str) -> Builder {
        let builder = self.hub(host);
        match &self.state {
            Some(directory) => builder.with_state(directory.join(host)),
            None => builder,
        }
    }

    fn checks(&self) -> Checks {
        let mut checks = Checks::default();
        for rule in &self.lenient {
            match rule {
                Rule::Signature => checks.signature = false,
                Rule::Expiry => checks.expiry = false,
                Rule::Scope => checks.scope = false,
                Rule::Disabled => checks.disabled = false,
                Rule::LinkSteal => checks.link_steal = false,
            }
        }
        checks
    }

    fn hub(&self, host: &str) -> Builder {
        let size = self.tier.map(|tier| {
            let tier = match tier {
                TierName::S1 => Tier::S1,
                TierName::S2 => Tier::S2,
                TierName::S3 => Tier::S3,
            };
            Size::new(tier, self.units)
        });
        let mut builder = HubSimulator::builder()
            .with_host(host)
            .with_limits(Limits::default().with_size(size).with_checks(self.checks()))
            .with_auto_register(self.auto_register)
            .with_record(RecordMode::Recent(KEPT_MESSAGES));
        for group in &self.consumer_groups {
            builder = builder.with_consumer_group(group);
        }
        match &self.group_key {
            Some(key) => builder.with_group_key(key),
            None => builder,
        }
    }
}
