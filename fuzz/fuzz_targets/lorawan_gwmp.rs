//! Packet forwarder datagrams: what is read can be answered, and holds nothing that is too long.
#![no_main]

use gateway_downstream_lorawan::proto::Eui64;
use gateway_downstream_lorawan::proto::gwmp::{Body, Datagram};
use gateway_downstream_lorawan::proto::mac::{Region, RegionName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(datagram) = Datagram::decode(bytes) else {
        return;
    };
    let answer = datagram.acknowledgement();
    assert_eq!(answer.is_none(), matches!(datagram.body, Body::TxAck(_)));
    assert!(answer.is_none_or(|answer| answer[..3] == bytes[..3]));
    let Body::PushData(data) = datagram.body else {
        return;
    };
    // Every packet takes more than a byte of JSON.
    assert!(data.packets.len() + data.odd.len() <= bytes.len());
    let region = Region::new(RegionName::Eu868);
    for packet in data.packets {
        assert!((1..=255).contains(&packet.frame.len()));
        if let Some(reception) = packet.reception(Eui64::new(1), &region) {
            assert!(reception.data_rate < 16);
        }
    }
});
