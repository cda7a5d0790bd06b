mod files;
mod lorawan;
mod shown;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use gateway_core::Credential;
use gateway_downstream_coap::{CoapConfig, SecureConfig, UdpConfig};
use gateway_downstream_tcp::TcpConfig;
use gateway_upstream_amqp::AmqpConfig;
use gateway_upstream_mqtt::{MqttHubConfig, MqttPoolConfig};

use super::*;

const CONNECTION: &str = "HostName=hub.example;SharedAccessKeyName=device;SharedAccessKey=c2VjcmV0";
const MINIMAL: &str = r#"
[upstream.amqp]
connection_string = { env = "HUB" }
[credentials]
kind = "policy"
[downstream.tcp]
"#;

const DEVICES: &str = "\
DevEUI,AppKey,id,profile
70B3D57ED0000001,00112233445566778899AABBCCDDEEFF,,
70B3D57ED0000002,00112233445566778899AABBCCDDEEFF,valve-2,valve
";

/// A certificate, its key, and another one.
static PEM: OnceLock<[String; 3]> = OnceLock::new();

/// Reads a text in a directory with a file `key` and an environment with `HUB`.
fn read(text: &str) -> Result<Settings, Vec<String>> {
    fuzz_seeds::keep("settings", text.as_bytes());
    let directory = tempfile::tempdir().unwrap();
    let [certificate, its_key, other_key] = PEM.get_or_init(|| {
        let pair = rcgen::generate_simple_self_signed(["gateway".to_owned()]).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let key = pair.signing_key.serialize_pem();
        [pair.cert.pem(), key, other.serialize_pem()]
    });
    for (name, content) in [
        ("key", "c2VjcmV0\n"),
        ("ca.pem", certificate),
        ("key.pem", its_key),
        ("other.pem", other_key),
        ("secrets.json", r#"{"d1": "hidden"}"#),
        ("psks.json", r#"{"d1": {"key": "hidden"}}"#),
        ("keys.json", r#"{"d1": "?"}"#),
        (
            "pairs.json",
            r#"{"d0": "b25l", "d1": {"primary": "b25l", "secondary": "dHdv"}}"#,
        ),
        ("devices.csv", DEVICES),
        (
            "meters.csv",
            "dev_eui,app_key\n70b3d57ed0000001,00112233445566778899aabbccddeeff\n",
        ),
        (
            "wrong.csv",
            "dev_eui,app_key\n70b3d57ed0000001,00112233445566778899aabbccddeeff\n70b3d57ed0000002,00112233\n",
        ),
        ("foreign.csv", "dev_eui,profile\n70b3d57ed0000003,valve\n"),
    ] {
        fs::write(directory.path().join(name), content).unwrap();
    }
    let variable = |name: &str| (name == "HUB").then(|| CONNECTION.to_owned());
    let around = Surroundings {
        directory: directory.path(),
        variable: &variable,
    };
    Settings::read(text, &around)
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

fn amqp(settings: Settings) -> AmqpConfig {
    match settings.hub {
        Hub::Amqp(config) => config,
        other => panic!("{other:?}"),
    }
}

fn mistakes(text: &str) -> Vec<String> {
    read(text).unwrap_err()
}

#[test]
fn a_line_that_is_wrong_twice_in_one_way_is_told_once() {
    let found = mistakes("[a\u{17}b\"\n");
    let told: std::collections::HashSet<_> = found.iter().collect();
    assert_eq!(told.len(), found.len(), "{found:#?}");
}

#[test]
fn a_minimal_file_gives_the_defaults_and_the_host_of_the_connection_string() {
    let settings = read(MINIMAL).unwrap();
    assert_eq!(settings.hub, Hub::Amqp(AmqpConfig::new("hub.example")));
    assert_eq!(settings.gateway, GatewayConfig::default());
    assert_eq!(settings.log, LogConfig::default());
}

#[test]
fn coap_alone_is_enough_and_its_secrets_are_in_files() {
    let coap = MINIMAL.replace("downstream.tcp", "downstream.coap");
    let found = mistakes(&coap);
    assert!(
        found[0].contains("`downstream.coap.udp` is missing"),
        "{found:#?}"
    );
    let coap = format!("{coap}udp = {{}}\n");
    let devices = read(&coap).unwrap().devices;
    assert!(devices.tcp.is_none() && devices.coap.is_some());
    let files = "dtls = { keys_file = 'psks.json' }\nidentity = { tokens_file = 'secrets.json' }\n\
                 tls = { certificate = 'ca.pem', key = 'key.pem' }";
    let coap_with_files = read(&format!("{coap}{files}"))
        .unwrap()
        .devices
        .coap
        .unwrap();
    let keys = coap_with_files.dtls.unwrap().keys_file.unwrap();
    let tokens = coap_with_files.identity.tokens_file.unwrap();
    let tls = coap_with_files.tls.unwrap();
    for path in [keys, tokens, tls.certificate, tls.key] {
        assert!(path.is_absolute(), "{path:?}");
    }

    let wrong = "identity = { tokens = { d1 = 'hidden' } }\ndtls = { keys_file = 'nowhere' }\n\
                 [downstream.coap.endpoint.blocks]\nsize = 100\n";
    let found = mistakes(&format!("{coap}{wrong}"));
    let expected = [
        "line 8: `downstream.coap.identity.tokens` must not stand in this file; allowed: \
         `tokens_file`",
        "line 9: `downstream.coap.dtls.keys_file` names ",
        "line 11: `downstream.coap.endpoint.blocks.size` is 100; allowed: 16, 32,",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}");
    }
    assert!(!found.concat().contains("hidden"));
}

#[test]
fn a_broker_asks_for_no_proof_of_devices_and_a_hub_does() {
    let broker = "[upstream.mqtt.pooled]\nhost = 'broker'\ninstance = 'one'\nuser_name = 'me'\n\
                  password = { file = 'key' }\n\
                  [credentials]\nkind = 'vouched'\n[downstream.tcp]\nidentity.token = false\n";
    let Hub::Pooled(config) = read(broker).unwrap().hub else {
        panic!("no broker");
    };
    assert!(config.password.is_some());
    let found = mistakes(&broker.replace("vouched", "device_tokens"));
    let expected = "line 7: `credentials.kind` is device_tokens, but a broker asks for no such proof; \
                    allowed: vouched";
    assert_eq!(found, [expected]);
    let found = mistakes(&MINIMAL.replace("policy", "vouched"));
    assert!(
        found[0].contains("a hub wants proof of each device"),
        "{found:?}"
    );
    let found = mistakes(&broker.replace("{ file = 'key' }", "'hidden'"));
    assert!(
        found[0].contains("must not stand in this file"),
        "{found:?}"
    );
    assert!(!found[0].contains("hidden"), "{found:?}");
}

#[test]
fn no_device_gets_in_by_a_token_that_a_broker_would_have_to_judge() {
    let broker = "[upstream.mqtt.pooled]\nhost = 'broker'\ninstance = 'one'\n\
                  [credentials]\nkind = 'vouched'\n[downstream.tcp]\n";
    for (line, identity) in [(6, ""), (7, "identity.token = true\n")] {
        let expected = format!(
            "line {line}: `downstream.tcp.identity.token` is true, also where it is not set, but a \
             broker judges no token of a device; allowed: false"
        );
        assert_eq!(mistakes(&format!("{broker}{identity}")), [expected]);
    }
    read(&format!("{broker}identity.token = false\n")).unwrap();
}

#[test]
fn a_gateway_has_one_hub() {
    let found = mistakes(&format!(
        "{MINIMAL}\n[upstream.mqtt.hub]\nhost = 'hub.example'\n"
    ));
    assert_eq!(
        found,
        ["line 8: `upstream.mqtt.hub` is a second hub; allowed: one"]
    );
    let found = mistakes(&MINIMAL.replace("upstream.amqp", "upstream.mqtt.hubs"));
    assert!(
        found
            .iter()
            .any(|mistake| mistake.contains("is missing; a gateway needs a hub"))
    );
    assert!(
        found
            .iter()
            .any(|mistake| mistake.contains("`upstream.mqtt.hubs` is not known")),
        "{found:?}"
    );
}

#[test]
fn every_mistake_is_named_with_its_line_its_key_and_what_is_allowed() {
    let text = r#"
[gateway]
max_inflight = 3
max_in_flight = 0
max_queued_per_device = "many"
[gateway.sessions]
capacity = 0
idle_ttl = "soon"
[gateway.retry]
backoff = { least = "2s", most = "1s" }

[upstream.amqp]
host = "hub.example"
port = 0
ca_file = "nowhere.pem"
[upstream.amqp.pool]
devices_per_connection = 1001
lanes = 0
[upstream.http]

[credentials]
kind = "group_key"
key = "c2VjcmV0"

[downstream.tcp]
listen = "nowhere"
[downstream.tcp.limits]
window = 65
[downstream.tcp.identity]
secrets = { d1 = "hidden" }
[downstream.tcp.tls]
key = "key"
[downstream.tcp.json_lines]
framing = { kind = "line", delimiter = "\\u0000" }

[log]
filter = "loud=very"
[logs]
"#;
    let found = mistakes(text);
    let expected = [
        (
            3,
            "`gateway.max_inflight` is not known; allowed: `max_in_flight`",
        ),
        (4, "`gateway.max_in_flight` is 0; allowed: 1 to 1000000"),
        (
            5,
            "`gateway.max_queued_per_device` has an invalid type: string \"many\"; allowed: u32",
        ),
        (
            7,
            "`gateway.sessions.capacity` is 0; allowed: 1 to 10000000",
        ),
        (8, "`gateway.sessions.idle_ttl` "),
        (10, "`gateway.retry.backoff` "),
        (14, "`upstream.amqp.port` is 0; allowed: 1 to 65535"),
        (15, "`upstream.amqp.ca_file` names "),
        (
            17,
            "`upstream.amqp.pool.devices_per_connection` is 1001; allowed: 1 to 1000",
        ),
        (18, "`upstream.amqp.pool.lanes` is 0; allowed: 1 to 1000"),
        (19, "`upstream.http` is not known; allowed: amqp, mqtt"),
        (
            23,
            "`credentials.key` is wrong: a secret must not stand in this file; allowed: { env",
        ),
        (
            26,
            "`downstream.tcp.listen` is no address; allowed: an address and a port",
        ),
        (28, "`downstream.tcp.limits.window` is 65; allowed: 1 to 64"),
        (
            30,
            "`downstream.tcp.identity.secrets` must not stand in this file; allowed: `secrets_file`",
        ),
        (31, "`downstream.tcp.tls.certificate` is missing"),
        (
            34,
            "`downstream.tcp.json_lines.framing` is wrong: unknown field `delimiter`",
        ),
        (37, "`log.filter` is \"loud=very\""),
        (
            38,
            "`logs` is not known; allowed: gateway, upstream, credentials, downstream, log",
        ),
    ];
    for (line, problem) in expected {
        let start = format!("line {line}: {problem}");
        let count = found
            .iter()
            .filter(|mistake| mistake.starts_with(&start))
            .count();
        assert_eq!(count, 1, "{start}\nin {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(!found.concat().contains("hidden") && !found.concat().contains("c2VjcmV0"));
    let found = mistakes(&format!(
        "{MINIMAL}json_lines.framing = {{ kind = 'length_prefixed', bytes = 3 }}\n"
    ));
    let expected = "line 7: `downstream.tcp.json_lines.framing.bytes` is 3; allowed: 1, 2, 4";
    assert_eq!(found, [expected]);
}

#[test]
fn what_is_not_toml_is_named_line_by_line() {
    let found = mistakes("[gateway\nmax_in_flight = 1\n[log]\nfilter = \n");
    assert!(
        found.iter().any(|mistake| mistake.starts_with("line 1: ")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|mistake| mistake.starts_with("line 4: ")),
        "{found:?}"
    );
}

#[test]
fn an_empty_file_says_what_a_gateway_needs() {
    let found = mistakes("");
    for key in ["`upstream.amqp`", "`credentials.kind`", "`downstream.tcp`"] {
        let is_named = |mistake: &&String| mistake.contains(key) && mistake.contains("is missing");
        assert_eq!(
            found.iter().filter(is_named).count(),
            1,
            "{key} in {found:?}"
        );
    }
}

#[test]
fn a_secret_that_is_not_there_is_named_where_it_is_asked_for() {
    let found = mistakes(&MINIMAL.replace("HUB", "ELSEWHERE"));
    assert_eq!(
        found,
        [
            "line 3: `upstream.amqp.connection_string` names the environment variable ELSEWHERE, \
          which is not set; set it"
        ]
    );
}

#[test]
fn each_kind_of_credentials_takes_its_own_secret_and_no_other() {
    let with = |credentials: &str| read(&MINIMAL.replace(r#"kind = "policy""#, credentials));
    with("kind = 'group_key'\nkey = { file = 'key' }").unwrap();
    with("kind = 'device_tokens'").unwrap();
    let found = with("kind = 'device_keys'\nkeys = { file = 'keys.json' }").unwrap_err();
    assert!(
        found[0].contains("line 6: `credentials.keys` is no JSON object"),
        "{found:?}"
    );
    let found = with("kind = 'group_key'").unwrap_err();
    assert!(
        found[0].contains("`credentials.key` is missing"),
        "{found:?}"
    );
    let found = with("kind = 'policy'\nkey = { file = 'key' }").unwrap_err();
    assert!(
        found[0].starts_with("line 6: `credentials.key` has no effect"),
        "{found:?}"
    );
    let second = "secondary_key = { file = 'key' }";
    let found = with(&format!("kind = 'device_tokens'\n{second}")).unwrap_err();
    let allowed = r#"only with kind = "policy" or "group_key""#;
    assert!(found[0].contains("`credentials.secondary_key` has no effect"));
    assert!(found[0].ends_with(allowed), "{found:?}");
    let found = with("kind = 'magic'").unwrap_err();
    assert!(found[0].starts_with("line 5: `credentials.kind` ") && found[0].contains("group_key"));
}

#[tokio::test]
async fn a_second_key_is_read_for_a_policy_a_group_and_each_device() {
    for credentials in [
        "kind = 'policy'\nsecondary_key = { file = 'key' }",
        "kind = 'group_key'\nkey = { file = 'key' }\nsecondary_key = { file = 'key' }",
        "kind = 'device_keys'\nkeys = { file = 'pairs.json' }",
    ] {
        let settings = read(&MINIMAL.replace(r#"kind = "policy""#, credentials)).unwrap();
        let device = gateway_core::DeviceId::new("d1").unwrap();
        let credential = settings.credentials.credential(&device).await.unwrap();
        let keys = match &credential {
            Credential::Policy(policy) => policy.keys(),
            Credential::DeviceKey(keys) => keys,
            other => panic!("{other:?}"),
        };
        assert!(keys.secondary().is_some(), "{credentials}");
    }
}

#[test]
fn relative_paths_begin_at_the_files_directory() {
    let settings = read(&format!("{MINIMAL}\n[upstream.amqp.wire]\nbuffer = 4096\n")).unwrap();
    assert_eq!(amqp(settings).wire.buffer, 4096);
    let text = MINIMAL.replace("[credentials]", "ca_file = \"ca.pem\"\n[credentials]");
    let path = amqp(read(&text).unwrap()).ca_file.unwrap();
    assert!(path.is_absolute() && path.ends_with("ca.pem"));
}
