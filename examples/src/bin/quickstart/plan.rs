//! What a run does, decided before it starts.

use anyhow::bail;

use crate::args::{Args, Downstream, Upstream};
use crate::device::lorawan::concentrators;

/// Files that the process needs beside a device's: pipes, the runtime's, and some to spare.
const OTHER_FILES: u64 = 48;
/// Devices that the gateway puts on one connection to the hub: its own default.
const DEVICES_PER_CONNECTION: u32 = 995;
/// Connections at a time from one address to one port. Linux has 28,232 ports for them
/// (`net.ipv4.ip_local_port_range`), other systems fewer.
const PORTS: u32 = if cfg!(target_os = "linux") {
    27_000
} else {
    15_000
};

/// How many devices do how much, and which of them get commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What the devices speak.
    pub(crate) downstream: Downstream,
    pub(crate) devices: u32,
    /// Messages of one device.
    pub(crate) messages: u32,
    /// Messages a second of the fleet, if they are paced.
    pub(crate) rate: Option<u32>,
    /// Devices that are connected at a time; the others take turns.
    pub(crate) places: u32,
    pub(crate) commands: u32,
    /// The devices that get commands, each once or in turn.
    targets: Vec<u32>,
    /// Whether the hub's connections are cut in the middle.
    pub(crate) cut: bool,
}

impl Plan {
    /// Fits what was asked for into the number of files that this process, and the gateway as
    /// well, may have open.
    pub(crate) fn new(args: &Args, file_limit: Option<u64>) -> anyhow::Result<Self> {
        // Over the air a device needs no file; there is one for fifty of them.
        let (air, own) = match args.downstream {
            Downstream::Tcp | Downstream::Coap => (0, 1),
            Downstream::Lorawan => (concentrators(args.devices).count() as u32, 0),
        };
        let (shared, each) = match args.upstream {
            Upstream::Amqp => (air + args.devices.div_ceil(DEVICES_PER_CONNECTION), own),
            Upstream::Mqtt => (air, own + 1),
        };
        let other = OTHER_FILES + u64::from(shared);
        let files = file_limit.map_or(u64::from(u32::MAX), |limit| limit.saturating_sub(other));
        let room = match (files, each) {
            (0, _) => 0,
            (_, 0) => u64::MAX,
            (files, each) => files / each,
        };
        if room == 0 {
            bail!(
                "this process may have {} files open, but {other} are needed before the first \
                 device connects; raise the limit, for instance with `ulimit -n 4096`",
                file_limit.unwrap_or_default()
            );
        }
        let is_on_air = args.downstream == Downstream::Lorawan;
        if is_on_air && room < u64::from(args.devices) {
            bail!(
                "LoRaWAN devices do not take turns, but this process may have files open for {room} \
                 of {}; raise the limit with `ulimit -n`",
                args.devices
            );
        }
        let ports = if is_on_air { args.devices } else { PORTS };
        let places = u64::from(args.devices.min(ports)).min(room) as u32;
        let commands = args.commands();
        // Who gets commands stays connected; where places are short, some must be left for others.
        let eligible = if places < args.devices {
            places / 2
        } else {
            places
        };
        let count = commands.min(eligible);
        let at = |nth: u32| (u64::from(nth) * u64::from(eligible) / u64::from(count)) as u32;
        Ok(Self {
            downstream: args.downstream,
            devices: args.devices,
            messages: args.messages,
            rate: (args.rate > 0).then_some(args.rate),
            places,
            commands: if count == 0 { 0 } else { commands },
            targets: (0..count).map(at).collect(),
            cut: args.cut,
        })
    }

    /// The messages of all devices.
    pub(crate) fn total(&self) -> u64 {
        u64::from(self.devices) * u64::from(self.messages)
    }

    pub(crate) fn takes_turns(&self) -> bool {
        self.places < self.devices
    }

    /// Whether a device stays connected when it has sent everything.
    pub(crate) fn stays(&self, device: u32) -> bool {
        !self.takes_turns() || self.targets.binary_search(&device).is_ok()
    }

    /// Whether devices listen to commands.
    pub(crate) fn listens(&self) -> bool {
        self.commands > 0
    }

    /// Whether devices make themselves known before they send: over CoAP they do if they listen.
    pub(crate) fn greets(&self) -> bool {
        self.downstream != Downstream::Coap || self.listens()
    }

    /// The devices that get commands.
    pub(crate) fn targets(&self) -> &[u32] {
        &self.targets
    }

    /// The device that gets the nth command.
    pub(crate) fn target(&self, nth: u32) -> u32 {
        self.targets[nth as usize % self.targets.len()]
    }

    /// How many messages are settled when the nth command goes out, so that they are spread over
    /// the run.
    pub(crate) fn moment(&self, nth: u32) -> u64 {
        (u128::from(self.total()) * u128::from(nth) / u128::from(self.commands)) as u64
    }
}

/// The identity of a device at the hub.
pub(crate) fn device_id(device: u32) -> String {
    format!("device-{device:05}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn plan(args: &[&str], file_limit: Option<u64>) -> anyhow::Result<Plan> {
        Plan::new(
            &Args::parse_from([&["quickstart"], args].concat()),
            file_limit,
        )
    }

    #[test]
    fn commands_are_spread_over_devices_and_over_the_run() {
        let plan = plan(
            &["--devices", "10", "--messages", "4", "--commands", "5"],
            None,
        )
        .unwrap();
        let targets: Vec<u32> = (0..5).map(|nth| plan.target(nth)).collect();
        let moments: Vec<u64> = (0..5).map(|nth| plan.moment(nth)).collect();
        assert_eq!(
            (targets, moments),
            (vec![0, 2, 4, 6, 8], vec![0, 8, 16, 24, 32])
        );
        assert_eq!(plan.target(6), 2);
    }

    #[test]
    fn devices_take_turns_where_files_are_short() {
        let plan = plan(&["--devices", "2000"], Some(1024)).unwrap();
        assert_eq!(plan.places, 1024 - 48 - 3);
        assert!(plan.takes_turns());
        let staying = (0..2000).filter(|device| plan.stays(*device)).count();
        assert_eq!(staying, 100);
    }

    #[test]
    fn over_the_air_devices_need_no_files_and_take_no_turns() {
        let air = ["--downstream", "lorawan", "--devices", "30000"];
        assert_eq!(plan(&air, Some(1024)).unwrap().places, 30_000);
        let each_has_a_connection = [&air[..], &["--upstream", "mqtt"]].concat();
        let error = plan(&each_has_a_connection, Some(1024)).unwrap_err();
        assert!(
            error.to_string().contains("files open for 376 of 30000"),
            "{error}"
        );
    }

    #[test]
    fn a_hopeless_file_limit_is_named() {
        let error = plan(&[], Some(32)).unwrap_err().to_string();
        assert!(
            error.contains("32 files") && error.contains("ulimit -n"),
            "{error}"
        );
    }

    #[test]
    fn without_commands_nobody_listens() {
        let plan = plan(&["--commands", "0"], None).unwrap();
        assert!(!plan.listens() && plan.stays(0) && plan.places == 1000);
    }
}
