//! The Things Stack's messages: what is read is about one device, whose commands go nowhere else.
#![no_main]

use gateway_downstream_lorawan::cloud::Route;
use gateway_downstream_lorawan::event::{Event, Uplink};
use gateway_downstream_lorawan::tts::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let Ok(told) = decode(body) else {
        return;
    };
    let route = Route::new(&told.route.application, &told.route.device);
    assert_eq!(route.expect("it was checked"), told.route);
    for event in told.events {
        assert_eq!(event.dev_eui(), told.dev_eui);
        if let Event::Uplink(uplink) = event {
            assert!(uplink.payload.len() <= body.len());
            assert!(uplink.receptions.len() <= Uplink::MAX_RECEPTIONS);
        }
    }
});
