//! More of something than anybody can take.

use std::sync::Arc;
use std::time::Duration;

use hub_simulator::{C2d, HubSimulator};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::command::Flood;

/// Calls of a flood that wait for an answer at a time.
const CALLS: usize = 1000;
/// How long a call of a flood waits for its answer.
const CALL_PATIENCE: Duration = Duration::from_secs(30);

/// Begins a flood that lasts until the tasks are shut down.
pub(super) fn begin(floods: &mut JoinSet<()>, hub: Arc<HubSimulator>, of: Flood, per_second: u32) {
    let mut ticks = interval(Duration::from_secs(1) / per_second.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    floods.spawn(async move {
        let mut calls = JoinSet::new();
        loop {
            ticks.tick().await;
            match &of {
                // A full queue is what a flood comes to.
                Flood::Messages(device) => drop(hub.send_c2d(device, C2d::new("flood"))),
                Flood::Methods(device) => {
                    while calls.try_join_next().is_some() {}
                    if calls.len() < CALLS {
                        let (hub, device) = (hub.clone(), device.clone());
                        calls.spawn(async move {
                            // Unanswered ones are what a flood comes to.
                            let call = hub.call_method(&device, "flood", "{}", CALL_PATIENCE);
                            drop(call.await);
                        });
                    }
                }
                Flood::Fault(fault) => {
                    hub.faults().apply(fault);
                }
            }
        }
    });
}
