//! Basics Stations.

use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn a_station_finds_its_way_is_heard_and_sends() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let found = Station::discover(network.stations, "::1").await;
    let url = format!("ws://{}/station/0000000000000001", network.stations);
    assert_eq!(found["uri"], url);
    let refused = Station::discover(network.stations, "::99").await;
    assert!(refused["error"].is_string());

    let path = "/station/0000000000000001";
    let mut station = Station::open(network.stations, path).await.unwrap();
    station
        .say(json!({"msgtype": "version", "station": "2.0.6", "protocol": 2}))
        .await;
    assert_eq!(station.hears().await.unwrap()["msgtype"], "router_config");
    station.say(json!({"msgtype": "updf", "odd": true})).await;
    station.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    let command = message(&device, "on");
    let radio = async {
        let asked = station.hears().await.unwrap();
        assert_eq!(
            (&asked["RxDelay"], &asked["RX2DR"]),
            (&json!(15), &json!(0))
        );
        assert_eq!(asked["xtime"], (1_i64 << 54) + 7);
        let hex = asked["pdu"].as_str().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let frame: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        assert_eq!(device.read(&frame).payload, b"on");
        station
            .say(json!({"msgtype": "dntxed", "diid": asked["diid"]}))
            .await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn strangers_keep_no_station_out() {
    let folder = folder();
    let mut config = config(Vec::new());
    config.stations.as_mut().unwrap().max_connections = 2;
    let network = Network::start(config, &folder).await;
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(TcpStream::connect(network.stations).await.unwrap());
    }
    let path = "/station/0000000000000001";
    // A stranger's time is 10 s.
    let greeting = timeout(
        Duration::from_secs(6),
        Station::open(network.stations, path),
    );
    let mut station = greeting.await.expect("strangers make room").unwrap();
    for _ in 0..5 {
        strangers.push(TcpStream::connect(network.stations).await.unwrap());
    }
    let version = json!({"msgtype": "version", "station": "2.0.6", "protocol": 2});
    station.say(version).await;
    assert_eq!(station.hears().await.unwrap()["msgtype"], "router_config");
}

#[tokio::test]
async fn a_station_that_is_not_listed_is_not_heard() {
    let folder = folder();
    let network = Network::start(config(Vec::new()), &folder).await;
    let path = "/station/0000000000000099";
    let mut station = Station::open(network.stations, path).await.unwrap();
    assert_eq!(station.hears().await, None);
    assert!(Station::open(network.stations, "/").await.is_err());
}
