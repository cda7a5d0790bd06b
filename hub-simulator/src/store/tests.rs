//! What is left when the simulator is killed between two commits.

use std::fs;
use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::together::{Pass, Step};
use crate::HubSimulator;
use crate::hub::keys::KeyPair;
use crate::hub::sas::sign;
use crate::hub::state::Now;
use crate::provisioning::Proof;

const HOSTS: [&str; 2] = ["one.test", "two.test"];

async fn hubs_in(directory: &Path) -> [HubSimulator; 2] {
    let stored = |host: &str| {
        let builder = HubSimulator::builder().with_tls(false).with_host(host);
        builder.with_state(directory.join(host))
    };
    let first = stored(HOSTS[0]).start().await.unwrap();
    let second = stored(HOSTS[1]).beside(&first);
    let second = second.start().await.unwrap();
    [first, second]
}

/// Has the device `d` assigned to a hub.
fn assign(hubs: &[HubSimulator; 2], to: usize) {
    let (provisioning, cloud) = (hubs[0].provisioning(), hubs[0].cloud());
    for (at, host) in HOSTS.iter().enumerate() {
        provisioning.set_weight(host, u32::from(at == to));
    }
    let (scope, now) = (provisioning.id_scope(), Now::read());
    let group = BASE64.decode(provisioning.group_key()).unwrap();
    let key = KeyPair::derived(&group, "d");
    let resource = format!("{scope}/registrations/d");
    let token = sign(&resource, key.primary(), u64::MAX / 2, Some("registration"));
    let proof = Proof::Token(&token);
    let login = cloud.dps.log_in(&scope, "d", proof, now).unwrap();
    cloud.dps.register(&cloud, &login, b"", now).unwrap();
}

/// Changes the hubs, commits only so many steps of that, and copies what is stored then. Returns how
/// many steps there are.
fn kill_after(
    committed: usize,
    hubs: &[HubSimulator; 2],
    change: impl FnOnce(),
    from: &Path,
    to: &Path,
) -> usize {
    let cloud = hubs[0].cloud();
    // Nobody else commits meanwhile.
    let stored = cloud.stores.lock();
    change();
    let pass = Pass::take(&stored, &cloud.dps);
    let steps: Vec<Step<'_>> = pass.steps().collect();
    for step in steps.iter().take(committed) {
        step.commit().unwrap();
    }
    for host in HOSTS {
        fs::create_dir(to.join(host)).unwrap();
        let database = format!("{host}/hub.redb");
        fs::copy(from.join(&database), to.join(&database)).unwrap();
    }
    steps.len()
}

#[tokio::test]
async fn a_device_is_in_the_hub_that_it_was_told_whichever_commit_was_the_last() {
    for (from, to) in [(None, 0), (None, 1), (Some(0), 1), (Some(1), 0)] {
        for committed in 0.. {
            let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (directory, copy) = (directory.path(), copy.path());
            let hubs = hubs_in(directory).await;
            if let Some(from) = from {
                assign(&hubs, from);
                let desired = json!({ "rate": 5 });
                hubs[from].patch_desired("d", &desired).unwrap();
            }
            hubs[0].save().unwrap();
            let steps = kill_after(committed, &hubs, || assign(&hubs, to), directory, copy);
            assert!(steps > 0);
            let restarted = hubs_in(copy).await;
            let twins = restarted.each_ref().map(|hub| hub.twin("d"));
            if let Some(registered) = restarted[0].provisioning().registered("d") {
                let at = HOSTS
                    .iter()
                    .position(|host| registered.hub.as_deref() == Some(host));
                let twin = &twins[at.unwrap()];
                assert_ne!(*twin, Value::Null, "{from:?} {to} {committed}");
                assert!(from.is_none() || twin["desired"]["rate"] == 5);
            } else {
                assert_eq!((from, committed < steps), (None, true));
            }
            if committed >= steps {
                let held = twins.map(|twin| twin != Value::Null);
                assert_eq!(held, [to == 0, to == 1]);
                break;
            }
        }
    }
}
