//! The sections of LoRaWAN devices.

use gateway_core::credential::Secret;
use gateway_downstream_lorawan::chirpstack::ChirpStackConfig;
use gateway_downstream_lorawan::cloud::{HttpConfig, MqttConfig, PostConfig};
use gateway_downstream_lorawan::embed::{DeviceIdCase, LorawanConfig};
use gateway_downstream_lorawan::proto::mac::RegionName;
use gateway_downstream_lorawan::server::{ConcentratorConfig, ForwarderConfig, ServerConfig};
use gateway_downstream_lorawan::tts::{TtsConfig, TtsWebhookConfig};

use super::shown::{GATEWAY, shown};
use super::*;
use crate::settings::lorawan::Lorawan;

const SERVER: &str = r#"
[downstream.lorawan]
devices_file = 'devices.csv'
[downstream.lorawan.server]
region = "EU868"
store = "lorawan.redb"
forwarders = { listen = "127.0.0.1:0" }
"#;

/// Without devices that speak anything else.
fn with(text: &str) -> String {
    MINIMAL.replace("[downstream.tcp]\n", "") + text
}

fn lorawan(text: &str) -> Lorawan {
    read(&with(text)).unwrap().devices.lorawan.unwrap()
}

/// The same environment for the secrets that the file shows.
fn shown_with_secrets(section: &str) -> String {
    let text = shown(section);
    ["WEBHOOK_TOKEN", "TTS_API_KEY"]
        .into_iter()
        .fold(text, |text, name| text.replace(name, "HUB"))
}

#[test]
fn the_section_that_the_file_shows_is_valid_and_says_the_defaults() {
    let text = shown("downstream.lorawan").replace("lorawan-devices.csv", "meters.csv");
    let shown = lorawan(&text);
    assert_eq!(shown.device_id_case, DeviceIdCase::default());
    assert_eq!(shown.messages, LorawanConfig::default());
    let server = shown.ways.server.unwrap();
    let mut expected = ServerConfig::new(RegionName::Eu868);
    expected.forwarders = Some(ForwarderConfig::default());
    expected.concentrators = vec![ConcentratorConfig::new("b827ebfffe010203".parse().unwrap())];
    expected.concentrators[0].source = Some("192.0.2.7".parse().unwrap());
    expected.profiles.insert("meter".into(), Default::default());
    assert!(server.store.as_ref().is_some_and(|path| path.is_absolute()));
    expected.store = server.store.clone();
    expected.devices = server.devices.clone();
    assert_eq!(server, expected);
}

#[test]
fn the_other_ways_that_the_file_shows_are_valid_and_say_the_defaults() {
    let chirpstack = lorawan(&shown_with_secrets("downstream.lorawan.chirpstack"));
    let expected = ChirpStackConfig::default();
    assert_eq!(chirpstack.ways.chirpstack, Some(expected));
    let secret = || Secret::new(CONNECTION);
    let http = lorawan(&shown_with_secrets("downstream.lorawan.chirpstack_http"));
    let expected = HttpConfig::new(secret());
    assert_eq!(http.ways.chirpstack_http, Some(expected.clone()));
    let tts = lorawan(&shown_with_secrets("downstream.lorawan.tts"));
    let mut mqtt = MqttConfig::default();
    mqtt.host = "eu1.cloud.thethings.network".into();
    mqtt.tls = true;
    mqtt.password = Some(secret());
    assert_eq!(tts.ways.tts, Some(TtsConfig::new("app@ttn", mqtt)));
    let webhook = lorawan(&shown_with_secrets("downstream.lorawan.tts_webhook"));
    let mut expected = TtsWebhookConfig::new("gateway", expected);
    let url = "https://eu1.cloud.thethings.network";
    expected.downlinks = Some(PostConfig::new(url, secret()));
    assert_eq!(webhook.ways.tts_webhook, Some(expected));
}

#[test]
fn listed_devices_have_their_keys_names_and_profiles() {
    let text = SERVER.replace(
        "[downstream.lorawan.server]",
        "device_id_case = 'upper'\nprofile = 'plain'\n[downstream.lorawan.profiles.plain]\n\
         [downstream.lorawan.profiles.valve]\nclass = 'C'\ncodec = { kind = 'cayenne_lpp' }\n\
         [downstream.lorawan.server]",
    );
    let server = lorawan(&text).ways.server.unwrap();
    let listed = server.devices.iter().map(|device| {
        (
            device.id.as_deref().unwrap(),
            device.profile.as_deref().unwrap(),
        )
    });
    let expected = [("70B3D57ED0000001", "plain"), ("valve-2", "valve")];
    assert_eq!(listed.collect::<Vec<_>>(), expected);
    assert!(server.devices.iter().all(|device| device.otaa.is_some()));
}

#[test]
fn a_profile_with_a_dot_in_its_name_is_a_mistake() {
    let found = mistakes(&with(
        &(SERVER.to_owned()
            + "[downstream.lorawan.profiles.valve]\n[downstream.lorawan.profiles.'meter.v2']\n"),
    ));
    assert_eq!(found.len(), 1, "{found:#?}");
    let expected =
        "`downstream.lorawan.profiles` has a profile \"meter.v2\"; allowed: names without";
    assert!(found[0].contains(expected), "{found:?}");
}

#[test]
fn what_is_wrong_in_the_list_is_named_with_its_line_and_no_key_is() {
    for (file, expected) in [
        ("wrong.csv", "wrong.csv: line 3: app_key is wrong"),
        ("foreign.csv", "names \"valve\", which is no profile"),
        (
            "devices.csv",
            "lists 70b3d57ed0000002, which names \"valve\", which is no profile",
        ),
        ("nowhere.csv", "nowhere.csv, which cannot be read"),
    ] {
        let found = mistakes(&with(&SERVER.replace("devices.csv", file)));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(
            found[0].starts_with("line 8: `downstream.lorawan.devices_file` "),
            "{found:?}"
        );
        assert!(found[0].contains(expected), "{expected} in {found:?}");
        assert!(!found[0].contains("00112233"), "{found:?}");
    }
    let profile = "[downstream.lorawan.profiles.valve]\n";
    let elsewhere = "[downstream.lorawan]\ndevices_file = 'devices.csv'\n\
                     [downstream.lorawan.chirpstack]\n";
    let found = mistakes(&with(&format!("{elsewhere}{profile}")));
    assert!(
        found[0].contains("has keys, but the network server is elsewhere"),
        "{found:?}"
    );
    let text = SERVER.replace("devices.csv", "foreign.csv") + profile;
    let found = mistakes(&with(&text));
    assert!(
        found[0].contains("lists 70b3d57ed0000003, which has no keys"),
        "{found:?}"
    );
    let both = text + "[downstream.lorawan.chirpstack]\n";
    assert!(lorawan(&both).ways.server.unwrap().devices.is_empty());
}

#[test]
fn every_mistake_of_lorawan_is_named_with_its_key_and_what_is_allowed() {
    let text = with(
        r#"
[downstream.lorawan]
device_id_case = "camel"
profile = "metre"
devices = []
[downstream.lorawan.messages]
windows = "1s"
max_tasks = 0
[downstream.lorawan.profiles.meter]
class = "B"
port = 300
codec = { kind = "javascript", file = "nowhere.js" }
[downstream.lorawan.profiles.valve]
port = 224
codec = { kind = "java" }
[downstream.lorawan.profiles.pump]
codec = { kind = "javascript", file = "key", settings = { max_waiting = 0 } }
[downstream.lorawan.server]
region = "EU"
devices = [{ dev_eui = "70b3d57ed0000001", otaa = { app_key = "00112233445566778899aabbccddeeff" } }]
profiles = {}
[downstream.lorawan.chirpstack]
formats = "json"
event_topic = "{{odd}}"
mqtt = { keep_alive = "2h", password = "hidden" }
[downstream.lorawan.chirpstack_http]
[downstream.lorawan.tts]
application = "app"
mqtt = { ca_file = "nowhere.pem", password = { env = "NOWHERE" } }
[downstream.lorawan.tts_webhook]
webhook = "w"
http = { token = { file = "key" } }
downlinks = { url = "https://example", api_key = "hidden" }
"#,
    );
    let found = mistakes(&text);
    let expected = [
        "`downstream.lorawan.device_id_case` has an unknown variant `camel`",
        "`downstream.lorawan.profile` names \"metre\", which is no profile",
        "`downstream.lorawan.devices` is not known; allowed: device_id_case",
        "`downstream.lorawan.messages.windows` is not known; allowed: `window`",
        "`downstream.lorawan.messages.max_tasks` is 0; allowed: 1 to 100000",
        "`downstream.lorawan.profiles.meter.class` has an unknown variant `B`",
        "`downstream.lorawan.profiles.meter.port` ",
        "`downstream.lorawan.profiles.meter.codec.file` names ",
        "`downstream.lorawan.profiles.pump.codec.settings.max_waiting` is 0; allowed: 1 to 100000",
        "`downstream.lorawan.profiles.valve.port` is 224; allowed: 1 to 223",
        "`downstream.lorawan.profiles.valve.codec.kind` has an unknown variant `java`",
        "`downstream.lorawan.server.region` ",
        "`downstream.lorawan.server.devices` does not stand here; allowed: \
         `downstream.lorawan.devices_file`",
        "`downstream.lorawan.server.profiles` does not stand here",
        "`downstream.lorawan.server.store` is missing",
        "`downstream.lorawan.chirpstack.formats` is not known",
        "`downstream.lorawan.chirpstack.event_topic` ",
        "`downstream.lorawan.chirpstack.mqtt.keep_alive` is 2h; allowed: 1s to 1h",
        "`downstream.lorawan.chirpstack.mqtt.password` is wrong: a secret must not stand in this",
        "`downstream.lorawan.chirpstack_http.token` is missing",
        "`downstream.lorawan.tts.mqtt.ca_file` names ",
        "`downstream.lorawan.tts.mqtt.password` names the environment variable NOWHERE",
        "`downstream.lorawan.tts_webhook.http.token` is too short; allowed: 16 bytes or more",
        "`downstream.lorawan.tts_webhook.downlinks.api_key` is wrong: a secret must not stand",
    ];
    for expected in expected {
        let is_named = |mistake: &&String| mistake.contains(&format!(": {expected}"));
        assert_eq!(
            found.iter().filter(is_named).count(),
            1,
            "{expected}\nin {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for secret in ["hidden", "00112233", "c2VjcmV0"] {
        assert!(!found.concat().contains(secret), "{found:#?}");
    }
}

#[test]
fn a_section_without_a_network_server_says_which_there_are() {
    let found = mistakes(&with("[downstream.lorawan]\n"));
    let expected = "`downstream.lorawan` names no network server; allowed: server, chirpstack,";
    assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
}

#[tokio::test]
async fn a_codec_that_does_not_run_is_named_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("codec.js");
    let shown = GATEWAY
        .lines()
        .map(|line| line.trim_start_matches(['#', ' ']));
    let shown: Vec<_> = shown.filter(|line| line.starts_with("codec")).collect();
    // A busy machine takes longer.
    let shown = shown
        .join("\n")
        .replace("meter.js", &path.display().to_string())
        .replace("100ms", "10s");
    let codec = |script: &str| {
        fs::write(&path, script).unwrap();
        lorawan(&format!(
            "{SERVER}[downstream.lorawan.profiles.valve]\n{shown}\n"
        ))
    };
    let runs = "function decodeUplink(input) { return { data: {} } }";
    codec(runs).try_out().await.unwrap();
    let refused = codec("function(").try_out().await.unwrap_err();
    let error = format!("{refused:#}");
    assert!(error.contains("profiles.valve.codec"), "{error}");
    assert!(error.contains("the script does not run"), "{error}");
}
