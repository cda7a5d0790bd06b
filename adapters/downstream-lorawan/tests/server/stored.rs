//! What the store has, before a restart and after it.

use super::*;

#[tokio::test]
async fn an_uplink_that_no_hub_had_before_a_restart_arrives_when_it_is_repeated() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let concentrator = network.concentrator(1).await;
    network.hub.hold();
    let frame = device.confirmed(b"1");
    concentrator.hear(&frame).await;
    network.hub.wait_held(1).await;
    drop(network);
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&frame).await;
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn a_restart_loses_no_counter_and_no_nonce() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let devices = || vec![class_c(Device::abp(1).config()), otaa(OTAA)];
    let network = Network::start(config(devices()), &folder).await;
    let concentrator = network.concentrator(1).await;
    let replayed = device.uplink(b"1");
    concentrator.hear(&replayed).await;
    concentrator.hear(&join_request(OTAA, 7)).await;
    let mut joined = Device::joined(OTAA, 7, &concentrator.asked().await.frame());
    let first = joined.uplink(b"2");
    concentrator.hear(&first).await;
    network.data(2).await;
    send_at_once(&network, &concentrator, &mut device, 0).await;
    network.stop().await;

    let network = Network::start(config(devices()), &folder).await;
    let concentrator = network.concentrator(1).await;
    for frame in [replayed, join_request(OTAA, 7), first] {
        concentrator.hear(&frame).await;
    }
    concentrator.hear(&device.uplink(b"3")).await;
    concentrator.hear(&joined.uplink(b"4")).await;
    let mut data = network.data(2).await;
    data.sort_by_key(Value::to_string);
    assert_eq!(
        data,
        ["Mw==", "NA=="],
        "what was said before is not said again"
    );
    send_at_once(&network, &concentrator, &mut device, 1).await;
}

/// Sends a command to a device of class C, which reads it with this counter.
async fn send_at_once(
    network: &Network,
    concentrator: &Forwarder,
    device: &mut Device,
    counter: u32,
) {
    network.listens(device).await;
    let command = message(device, "on");
    let radio = async {
        let asked = concentrator.asked().await;
        assert_eq!(device.read(&asked.frame()).counter, counter);
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn two_servers_do_not_share_a_store() {
    let folder = folder();
    let path = folder.path().join("sessions");
    let first = Arc::new(EmbeddedStore::open(&path).await.unwrap());
    let second = EmbeddedStore::open(&path).await;
    assert!(matches!(second, Err(StoreError::Database(_))));
    let wrong = LorawanServer::builder(ServerConfig::new(RegionName::Eu868));
    let wrong = wrong.with_store(first).bind().await;
    assert!(matches!(wrong, Err(BindError::Config(_))));
}

#[tokio::test]
async fn nothing_is_delivered_before_it_is_stored() {
    let mut device = Device::abp(1);
    let (gate, mut asked, open) = Gate::new(false);
    let network = Network::start_with(config(vec![device.config()]), gate).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    asked.recv().await.unwrap();
    // Long enough for a message that does not wait to be there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(network.hub.accepted().is_empty());
    open.add_permits(1000);
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_done() {
    let mut device = Device::abp(1);
    let (gate, mut asked, _) = Gate::new(true);
    let devices = vec![class_c(device.config()), otaa(OTAA)];
    let network = Network::start_with(config(devices), gate).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&join_request(OTAA, 7)).await;
    asked.recv().await.unwrap();
    concentrator.hear(&device.uplink(b"1")).await;
    asked.recv().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(network.hub.accepted().is_empty());
    assert!(!concentrator.has_been_asked());
}

#[tokio::test]
async fn what_could_not_be_stored_arrives_when_it_is_said_again() {
    let mut device = Device::abp(1);
    let (gate, mut asked, open) = Gate::new(true);
    let fails = gate.fails.clone();
    let mut config = config(vec![device.config()]);
    config.timing.rx_delay = 2;
    let network = Network::start_with(config, gate).await;
    let concentrator = network.concentrator(1).await;
    let frame = device.confirmed(b"1");
    concentrator.push(&frame, 5.0).await;
    asked.recv().await.unwrap();
    fails.store(false, Ordering::SeqCst);
    open.add_permits(1000);
    let answer = async { while asked.recv().await.is_some() {} };
    let read = tokio::select! {
        asked = concentrator.asked() => device.read(&asked.frame()),
        never = says(&concentrator, &frame) => match never {},
        () = answer => unreachable!("the store is there as long as the network"),
    };
    assert!(read.ack);
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn what_could_not_be_stored_is_in_the_next_write() {
    let folder = folder();
    let store = EmbeddedStore::open(folder.path().join("sessions")).await;
    let fails = Arc::new(AtomicBool::new(false));
    let faulty = Faulty {
        store: store.unwrap(),
        fails: fails.clone(),
    };
    let network = Network::start_with(config(vec![otaa(OTAA)]), faulty).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&join_request(OTAA, 7)).await;
    let mut device = Device::joined(OTAA, 7, &concentrator.asked().await.frame());
    let first = device.uplink(b"1");
    fails.store(true, Ordering::SeqCst);
    concentrator.hear(&first).await;
    while fails.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    concentrator.hear(&device.uplink(b"2")).await;
    assert_eq!(network.data(1).await, ["Mg=="]);
    network.stop().await;

    let network = Network::start(config(vec![otaa(OTAA)]), &folder).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&first).await;
    concentrator.hear(&device.uplink(b"3")).await;
    assert_eq!(network.data(1).await, ["Mw=="], "a frame was replayed");
}

#[tokio::test]
async fn a_devices_word_on_a_command_counts_though_its_uplink_could_not_be_stored() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let store = EmbeddedStore::open(folder.path().join("sessions")).await;
    let fails = Arc::new(AtomicBool::new(false));
    let faulty = Faulty {
        store: store.unwrap(),
        fails: fails.clone(),
    };
    let network = Network::start_with(config(vec![device.config()]), faulty).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    let mut command = message(&device, "on");
    command.properties.insert("lorawan-confirmed", "true");
    let radio = async {
        let asked = concentrator.asked().await;
        device.read(&asked.frame());
        concentrator.acknowledge(&asked, "NONE").await;
        fails.store(true, Ordering::SeqCst);
        concentrator.hear(&device.acknowledging(b"2")).await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
    assert!(!fails.load(Ordering::SeqCst));
}

/// A network whose device of class C listens, and whose store takes its time from now on, until it
/// has a permit.
async fn slow_store() -> (Network, Forwarder, Device, Arc<Semaphore>) {
    let mut device = Device::abp(1);
    let (gate, _, open) = Gate::new(false);
    let network = Network::start_with(config(vec![class_c(device.config())]), gate).await;
    let concentrator = network.concentrator(1).await;
    open.add_permits(1);
    concentrator.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    network.data(1).await;
    open.acquire().await.unwrap().forget();
    (network, concentrator, device, open)
}

/// Longer than it is waited until a command is handed over.
const SLOW: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn a_command_that_is_stored_slowly_is_sent_once() {
    let (network, concentrator, device, open) = slow_store().await;
    let radio = async {
        tokio::time::sleep(SLOW).await;
        open.add_permits(1);
        let asked = concentrator.asked().await;
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let settled = network.hub.send_message(message(&device, "on"));
    let (settled, ()) = tokio::join!(settled, radio);
    assert_eq!(settled, Some(Disposition::Complete));
    assert!(!concentrator.has_been_asked());
}

#[tokio::test]
async fn a_command_that_is_stored_when_nobody_waits_for_it_any_more_is_not_sent() {
    let (network, concentrator, mut device, open) = slow_store().await;
    let mut command = message(&device, "on");
    command.deadline = Instant::now() + SLOW;
    let settled = network.hub.send_message(command).await;
    assert_eq!(settled, Some(Disposition::Abandon));
    open.add_permits(1);
    // What comes after is stored after it.
    concentrator.hear(&device.uplink(b"2")).await;
    network.data(2).await;
    assert!(!concentrator.has_been_asked());
}
