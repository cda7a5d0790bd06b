//! What devices' and clouds' bytes cost to read and to write, by adapter; AMQP's are in `convert`.

mod coap;
mod lorawan;
mod mqtt;
mod tcp;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! {
    name = benches;
    config = settings();
    targets = tcp::codecs, coap::codecs, lorawan::codecs, mqtt::codecs
}
criterion_main!(benches);
