//! A network server that embeds the gateway, as far as it hands in uplinks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use benches::embedded::{Embedded, Keys};
use benches::hub::HubAccess;
use clap::ValueEnum;
use gateway_core::Settlement;
use gateway_downstream_lorawan::embed::{
    EuiDirectory, ListenPolicy, LorawanConfig, LorawanDownstream, NetworkEvents, NetworkServer,
    Profile, ProfileConfig,
};
use gateway_downstream_lorawan::event::{
    DevEui, Downlink, DownlinkId, FailureReason, Reception, Uplink,
};
use gateway_downstream_lorawan::payload::telemetry::TelemetryForm;
use gateway_downstream_lorawan::payload::{CayenneLpp, JavaScriptCodec, JavaScriptConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::device::{self, PAYLOAD, SCRIPT};

/// What becomes of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// The payload is the message.
    Raw,
    /// The library's JSON, without a codec.
    Json,
    /// The same with what Cayenne's codec reads.
    Cayenne,
    /// The same with what a script reads.
    JavaScript,
}

impl Form {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Json => "JSON",
            Self::Cayenne => "JSON, Cayenne LPP",
            Self::JavaScript => "JSON, JavaScript",
        }
    }

    /// The profile of devices, of which so many speak at a time.
    async fn profile(self, listen: ListenPolicy, devices: usize) -> Result<Profile> {
        let mut config = ProfileConfig::default();
        config.listen = Some(listen);
        if self == Self::Raw {
            config.telemetry = TelemetryForm::Raw;
        }
        let profile = Profile::new(config)?;
        Ok(match self {
            Self::Raw | Self::Json => profile,
            Self::Cayenne => profile.with_codec(CayenneLpp::new()),
            Self::JavaScript => {
                let mut config = JavaScriptConfig::default();
                config.max_waiting = devices;
                profile.with_codec(JavaScriptCodec::load(SCRIPT, config).await?)
            }
        })
    }
}

/// A network server that sends nothing: no command comes here.
#[derive(Debug)]
struct Silent;

#[async_trait]
impl NetworkServer for Silent {
    async fn send(&self, _: Downlink) -> Result<(), FailureReason> {
        Err(FailureReason::Refused)
    }

    async fn withdraw(&self, _: DevEui, _: &DownlinkId) {}
}

/// A gateway in a network server's process.
#[derive(Debug)]
pub(crate) struct Site {
    gateway: Embedded,
    downstream: Arc<LorawanDownstream>,
    events: NetworkEvents,
    devices: usize,
    next_counter: u32,
}

impl Site {
    pub(crate) async fn start(
        access: &HubAccess,
        devices: usize,
        form: Form,
        listen: ListenPolicy,
    ) -> Result<Self> {
        let directory = EuiDirectory::new(form.profile(listen, devices).await?);
        let mut config = LorawanConfig::default();
        config.max_tasks = 4096;
        let builder = LorawanDownstream::builder(config).with_directory(directory);
        let downstream = Arc::new(builder.build(Silent)?);
        let events = downstream.events();
        let credentials = Keys::Policy.credentials(access)?;
        let gateway = Embedded::start(access.amqp(), credentials, devices, downstream.clone())?;
        Ok(Self {
            gateway,
            downstream,
            events,
            devices,
            next_counter: 0,
        })
    }

    /// Hands in so many uplinks of each device, one of a device at a time.
    pub(crate) async fn hand_in(&mut self, uplinks: usize) -> Result<()> {
        let counters = self.next_counter..self.next_counter + uplinks as u32;
        self.next_counter = counters.end;
        let mut devices = JoinSet::new();
        for number in 0..self.devices {
            let (events, counters) = (self.events.clone(), counters.clone());
            devices.spawn(async move {
                for counter in counters {
                    hand_in(&events, number, counter).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = devices.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Hands in one uplink of each device, so many a second, and waits until no device listens that
    /// is not to listen always.
    pub(crate) async fn hand_in_slowly(
        &mut self,
        per_second: u32,
        listen: ListenPolicy,
    ) -> Result<()> {
        const TICK: Duration = Duration::from_millis(10);
        let counter = self.next_counter;
        self.next_counter += 1;
        let mut ticks = interval(TICK);
        let mut uplinks = JoinSet::new();
        let mut due = 0.0;
        let mut numbers = 0..self.devices;
        while !numbers.is_empty() {
            ticks.tick().await;
            due += f64::from(per_second) * TICK.as_secs_f64();
            while due >= 1.0 {
                due -= 1.0;
                let Some(number) = numbers.next() else { break };
                let events = self.events.clone();
                uplinks.spawn(async move { hand_in(&events, number, counter).await });
            }
            while let Some(ended) = uplinks.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = uplinks.join_next().await {
            ended??;
        }
        let listening = match listen {
            ListenPolicy::Always => self.devices,
            _ => 0,
        };
        settled_down(&self.downstream, listening).await
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.gateway.stop().await
    }
}

/// Waits until so many devices listen.
pub(crate) async fn settled_down(downstream: &LorawanDownstream, listening: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while downstream.listening() != listening {
        ensure!(
            Instant::now() < deadline,
            "the devices do not stop listening"
        );
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn hand_in(events: &NetworkEvents, number: usize, counter: u32) -> Result<()> {
    let uplink = Uplink::new(device::dev_eui(number), counter, 1, &PAYLOAD[..])
        .with_dev_addr(device::dev_addr(number))
        .with_reception(Reception::new("0016c00100000000", -48, Some(9.5)));
    let settlement = events.uplink(uplink).await;
    ensure!(
        settlement == Settlement::Accepted,
        "an uplink was {settlement:?}"
    );
    Ok(())
}
