//! A gateway in a process of its own that is killed in the middle of its work.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_downstream_lorawan::server::DeviceConfig;
use hub_simulator::{C2d, HubSimulator};
use tokio_util::sync::CancellationToken;

use crate::device::Device;
use crate::forwarder::{Asked, Forwarder};
use crate::site::{Door, config, data, gateway, start_hub};

/// Tells the process that is killed where its hub and its store are.
const HUB: &str = "LORAWAN_TEST_HUB";
const POLICY: &str = "LORAWAN_TEST_POLICY";
const STORE: &str = "LORAWAN_TEST_STORE";
const LISTENING: &str = "Listening on ";

/// Device 1, of class C, so that commands come at any time.
fn devices() -> Vec<DeviceConfig> {
    let mut device = Device::abp(1).config();
    device.profile = Some("c".to_owned());
    vec![device]
}

/// The process that is killed; it is no test of its own.
#[tokio::test]
#[ignore = "another test starts it in a process of its own"]
async fn serves_until_it_is_killed() {
    let address = env::var(HUB).unwrap().parse().unwrap();
    let policy = env::var(POLICY).unwrap();
    let mut config = config(Path::new(&env::var(STORE).unwrap()), devices());
    config.timing.rx_delay = 1;
    config.timing.hold = Duration::from_millis(20);
    let (gateway, forwarders) = gateway(&Door { address, policy }, config).await;
    println!("{LISTENING}{forwarders}");
    gateway.run(CancellationToken::new()).await.unwrap();
}

/// A running gateway, and a concentrator that speaks with it.
struct Running {
    process: Child,
    concentrator: Forwarder,
}

impl Running {
    async fn start(hub: &HubSimulator, folder: &Path) -> Self {
        let door = Door::of(hub);
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "killed::serves_until_it_is_killed"])
            .args(["--ignored", "--nocapture"])
            .env(HUB, door.address.to_string())
            .env(POLICY, door.policy)
            .env(STORE, folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let address = output
            .lines()
            .find_map(|line| Some(line.ok()?.split_once(LISTENING)?.1.to_owned()))
            .unwrap();
        let concentrator = Forwarder::connect(1, address.parse().unwrap()).await;
        Self {
            process,
            concentrator,
        }
    }

    /// SIGKILL: nothing is written any more.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Says a frame until something comes for the device, as one does that wants an
    /// acknowledgement; gives all that came.
    async fn say(&self, frame: &[u8]) -> Asked {
        loop {
            self.concentrator.push(frame, 5.0).await;
            tokio::select! {
                asked = self.concentrator.asked() => {
                    self.concentrator.acknowledge(&asked, "NONE").await;
                    return asked;
                }
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
            }
        }
    }
}

#[tokio::test]
async fn a_gateway_that_is_killed_loses_no_acknowledged_uplink_and_repeats_no_counter() {
    const LIVES: u64 = 3;
    let (hub, folder) = (start_hub().await, tempfile::tempdir().unwrap());
    let mut device = Device::abp(1);
    let name = device.dev_eui.to_string();
    hub.add_device(&name);
    let (mut said, mut frames) = (Vec::new(), Vec::<Vec<u8>>::new());
    for life in 0..LIVES {
        let running = Running::start(&hub, folder.path()).await;
        // What was said before, by whoever recorded it.
        for frame in &frames {
            running.concentrator.push(frame, 5.0).await;
        }
        for part in 0..2 {
            let payload = format!("{life}.{part}");
            let frame = device.confirmed(payload.as_bytes());
            hub.send_c2d(&name, C2d::new(payload.clone())).unwrap();
            // Reading fails if a counter comes again.
            while !device.read(&running.say(&frame).await.frame()).ack {}
            said.push(STANDARD.encode(payload));
            frames.push(frame);
        }
        // One more, and the end comes before it is answered, some time on its way to the hub.
        let payload = format!("{life}.last");
        let last = device.confirmed(payload.as_bytes());
        running.concentrator.push(&last, 5.0).await;
        tokio::time::sleep(Duration::from_millis(10 * life)).await;
        running.kill();
        let running = Running::start(&hub, folder.path()).await;
        while !device.read(&running.say(&last).await.frame()).ack {}
        said.push(STANDARD.encode(payload));
        frames.push(last);
        running.kill();
    }
    let mut arrived = data(&hub);
    // What was on its way when the gateway was killed may come twice, under one id.
    let mut ids: Vec<_> = hub.record().accepted();
    ids.dedup_by(|a, b| a.message_id == b.message_id);
    arrived.dedup();
    assert_eq!(arrived, said);
    assert_eq!(ids.len(), said.len(), "what came twice has two ids");
}
