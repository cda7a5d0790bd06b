//! What the file says that comes with the program.

use gateway_downstream_tcp::proto::{Endian, Framing};

use super::*;

pub(super) const GATEWAY: &str = include_str!("../../../../../gateway.toml");

#[test]
fn the_file_that_comes_with_the_program_is_valid_and_says_the_defaults() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let variable = |name: &str| (name == "HUB_CONNECTION_STRING").then(|| CONNECTION.to_owned());
    let settings = Settings::read(
        GATEWAY,
        &Surroundings {
            directory,
            variable: &variable,
        },
    )
    .unwrap();
    assert_eq!(settings.hub, Hub::Amqp(AmqpConfig::new("hub.example")));
    assert_eq!(settings.gateway, GatewayConfig::default());
    assert_eq!(settings.log, LogConfig::default());
    assert!(settings.devices.coap.is_none());
    let (tcp, default) = (settings.devices.tcp.unwrap(), TcpConfig::default());
    assert_eq!(
        (tcp.listen, tcp.limits, tcp.timeouts),
        (default.listen, default.limits, default.timeouts)
    );
    assert_eq!(tcp.json_lines, default.json_lines);
}

#[test]
fn the_file_for_the_simulator_is_valid_and_lets_in_only_who_is_on_this_machine() {
    let text = include_str!("../../../../../simulator.toml");
    let text = text
        .replace("HUB_SERVICE_CS", "HUB")
        .replace("../hub/ca.pem", "ca.pem");
    let settings = read(&text).unwrap();
    let tcp = settings.devices.tcp.as_ref().unwrap();
    assert!(tcp.identity.trust_any_id && tcp.listen.ip().is_loopback());
    assert!(amqp(settings).ca_file.is_some());
}

#[test]
fn the_other_framings_that_the_file_shows_are_valid_and_say_the_defaults() {
    let lines = GATEWAY
        .lines()
        .filter_map(|line| line.strip_prefix("# framing = "));
    let shown: Vec<_> = lines
        .map(|line| read(&format!("{MINIMAL}json_lines.framing = {line}\n")).unwrap())
        .map(|settings| settings.devices.tcp.unwrap().json_lines.framing)
        .collect();
    let expected = [
        Framing::Delimiter { delimiter: vec![0] },
        Framing::LengthPrefixed {
            bytes: 2,
            endian: Endian::default(),
            includes_header: false,
        },
    ];
    assert_eq!(shown, expected);
}

/// A section that the file shows in comments, without their signs.
pub(super) fn shown(section: &str) -> String {
    let begin = format!("# [{section}]");
    let lines = GATEWAY.lines().skip_while(|line| **line != *begin);
    let shown: Vec<_> = lines
        .map_while(|line| line.strip_prefix('#'))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    assert!(!shown.is_empty(), "{section} is not shown");
    shown.join("\n") + "\n"
}

/// The file that comes with the program, with this section of an upstream instead of AMQP's.
fn shown_with(section: &str, credentials: &str) -> String {
    let at = |line| GATEWAY.find(line).unwrap();
    let (amqp, behind) = (at("# The hub, over AMQP"), at("# Who the devices are"));
    let rest = [&GATEWAY[..amqp], &shown(section), &GATEWAY[behind..]].concat();
    rest.replace(
        "\nkind = \"policy\"",
        &format!("\nkind = \"{credentials}\""),
    )
}

#[test]
fn the_other_upstreams_that_the_file_shows_are_valid_and_say_the_defaults() {
    let text = shown_with("upstream.mqtt.hub", "policy").replace("HUB_CONNECTION_STRING", "HUB");
    let settings = read(&text).unwrap();
    assert_eq!(settings.hub, Hub::Mqtt(MqttHubConfig::new("hub.example")));

    let text = shown_with("upstream.mqtt.pooled", "vouched");
    let text = text.replace("\ntoken = true", "\ntoken = false");
    let settings = read(&text).unwrap();
    let config = MqttPoolConfig::new("broker.example", "gateway-1");
    assert_eq!(settings.hub, Hub::Pooled(config));
}

#[test]
fn the_coap_section_that_the_file_shows_is_valid_and_says_the_defaults() {
    let text = shown("downstream.coap");
    let devices = read(&format!("{MINIMAL}\n{text}")).unwrap().devices;
    let mut expected = CoapConfig::default();
    expected.udp = Some(UdpConfig::default());
    expected.dtls = Some(SecureConfig::default());
    expected.tcp = Some(gateway_downstream_coap::TcpConfig::default());
    let coap = devices.coap.unwrap();
    assert_eq!(format!("{coap:?}"), format!("{expected:?}"));
    assert!(devices.tcp.is_some());
}

/// The names of sections in the file, those in comments too.
fn sections() -> Vec<&'static str> {
    let name = |line: &'static str| {
        let name = line.trim_start_matches(['#', ' ']).strip_prefix('[')?;
        name.strip_suffix(']').filter(|name| !name.starts_with('['))
    };
    GATEWAY.lines().filter_map(name).collect()
}

/// What may stand in a section, as a mistake in it tells.
fn allowed(section: &str) -> Vec<String> {
    let hub = "[upstream.amqp]\nhost = 'h'\n";
    let hub = if section.starts_with("upstream") {
        ""
    } else {
        hub
    };
    let found = mistakes(&format!("{hub}[{section}]\nmisspelt = 1\n"));
    let begin = format!("`{section}.misspelt` is not known; allowed: ");
    let allowed = found.iter().find_map(|mistake| mistake.split_once(&begin));
    let (_, allowed) = allowed.unwrap_or_else(|| panic!("{section} in {found:#?}"));
    let names = allowed.split([',', ' ', '`']);
    names
        .filter(|name| !["", "or"].contains(name))
        .map(str::to_owned)
        .collect()
}

/// Sections of which the file says that their keys are as those of another one.
const ALIKE: [&str; 2] = [
    "downstream.lorawan.tts.mqtt",
    "downstream.lorawan.tts_webhook.http",
];
/// What the program writes there itself.
const UNSHOWN: [&str; 3] = [
    "downstream.lorawan.server.devices",
    "downstream.lorawan.server.downstream",
    "downstream.lorawan.server.profiles",
];

#[test]
fn the_file_names_every_setting_there_is() {
    let sections = sections();
    assert!(sections.contains(&"downstream.tcp.tls"), "{sections:?}");
    let mut missing = Vec::new();
    for section in sections.iter().filter(|section| !ALIKE.contains(section)) {
        let (_, text) = GATEWAY.split_once(&format!("[{section}]\n")).unwrap();
        let is_within = |line: &&str| !line.trim_start_matches(['#', ' ']).starts_with('[');
        let text = text.lines().take_while(is_within);
        let words = text.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
        let words: Vec<_> = words.collect();
        for name in allowed(section) {
            let key = format!("{section}.{name}");
            let is_shown = words.contains(&&*name) || GATEWAY.contains(&key);
            if !is_shown && !UNSHOWN.contains(&&*key) {
                missing.push(key);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
