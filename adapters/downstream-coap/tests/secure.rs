//! Devices with DTLS sessions, by libcoap's clients where they are installed.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::process::{Command, Stdio};

use gateway_downstream_coap::dtls::{PskEntry, PskKey, StaticPskStore};
use gateway_downstream_coap::{CoapConfig, CoapDownstream, SecureConfig};
use support::{Running, device};

const CLIENTS: [&str; 2] = ["coap-client-openssl", "coap-client-gnutls"];

/// Posts to a path with an identity and a key; `None` if the client is not installed.
async fn post(client: &str, identity: &str, key: &str, url: String) -> Option<String> {
    let client = Command::new(client)
        .args([
            "-B", "5", "-u", identity, "-k", key, "-m", "post", "-e", "1", &url,
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let output = tokio::task::spawn_blocking(|| client.wait_with_output());
    let output = output.await.unwrap().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_says_who_speaks_whatever_the_query_says() {
    let mut config = CoapConfig::default();
    let mut dtls = SecureConfig::default();
    dtls.listen = "127.0.0.1:0".parse().unwrap();
    config.dtls = Some(dtls);
    config.listen.set_port(0);
    let entry = PskEntry::new(device("dev1"), PskKey::new("secret").unwrap());
    let store = StaticPskStore::new().with("sensor@factory", entry);
    let builder = CoapDownstream::builder(config).with_psk_store(store);
    let running = Running::start_with(builder).await;
    let address = running.coap.secure_addr().unwrap();
    let url = format!("coaps://{address}/t?$.id=dev2");
    let mut count = 0;
    for client in CLIENTS {
        let Some(seen) = post(client, "sensor@factory", "secret", url.clone()).await else {
            println!("{client} is not installed");
            continue;
        };
        count += 1;
        let accepted = running.hub.accepted();
        assert_eq!(accepted.len(), count, "{seen}");
        assert_eq!(accepted[count - 1].device, device("dev1"));
        post(client, "sensor@factory", "guessed", url.clone()).await;
        assert_eq!(running.hub.accepted().len(), count);
    }
    running.end().await;
}
