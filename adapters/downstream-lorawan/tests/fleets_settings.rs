//! The settings of fleets elsewhere, as they are in files.

use gateway_downstream_lorawan::chirpstack::{ChirpStackConfig, Format};
use gateway_downstream_lorawan::cloud::HttpConfig;
use gateway_downstream_lorawan::tts::{TtsConfig, TtsWebhookConfig};
use serde::de::DeserializeOwned;

const CHIRPSTACK: &str = include_str!("../src/chirpstack/sample.toml");
const TTS: &str = include_str!("../src/tts/sample.toml");
const WEBHOOK: &str = include_str!("../src/tts/webhook.toml");

#[test]
fn the_samples_are_read_and_are_in_order() {
    let config: ChirpStackConfig = toml::from_str(CHIRPSTACK).unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!((config.format, config.mqtt.port), (Format::Json, None));
    let config: TtsConfig = toml::from_str(TTS).unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert!(config.exclusive_queues);
    let config: TtsWebhookConfig = toml::from_str(WEBHOOK).unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert!(config.downlinks.is_some());
}

#[test]
fn what_is_not_said_has_a_default() {
    let config: ChirpStackConfig = toml::from_str("").unwrap();
    assert_eq!(config, ChirpStackConfig::default());
    let sample: ChirpStackConfig = toml::from_str(CHIRPSTACK).unwrap();
    assert_eq!(sample.event_topic, config.event_topic);
    assert_eq!(sample.command_topic, config.command_topic);
    let config: TtsConfig = toml::from_str("application = 'app'").unwrap();
    assert_eq!(config, TtsConfig::new("app", Default::default()));
    let config: HttpConfig = toml::from_str("token = 'sixteen bytes or more'").unwrap();
    assert_eq!(config.listen.port(), 8090);
}

#[test]
fn a_key_that_is_none_is_named() {
    fn assert_names<T: DeserializeOwned>(text: &str) {
        let error = toml::from_str::<T>(text).err().unwrap().to_string();
        assert!(error.contains("unknown field `wrong`"), "{error}");
    }
    assert_names::<ChirpStackConfig>(&format!("wrong = 1\n{CHIRPSTACK}"));
    assert_names::<ChirpStackConfig>(&format!("{CHIRPSTACK}\nwrong = 1"));
    assert_names::<TtsConfig>(&format!("{TTS}\nwrong = 1"));
    assert_names::<TtsWebhookConfig>(&format!("{WEBHOOK}\nwrong = 1"));
    assert_names::<HttpConfig>("token = 'sixteen bytes or more'\nwrong = 1");
}

#[test]
fn a_value_that_is_wrong_is_named_with_its_place() {
    fn chirpstack(from: &str, to: &str) -> String {
        let text = CHIRPSTACK.replace(from, to);
        let config: ChirpStackConfig = toml::from_str(&text).unwrap();
        config.validate().unwrap_err().to_string()
    }
    fn webhook(from: &str, to: &str) -> String {
        let text = WEBHOOK.replace(from, to);
        let config: TtsWebhookConfig = toml::from_str(&text).unwrap();
        config.validate().unwrap_err().to_string()
    }
    fn tts(from: &str, to: &str) -> String {
        let config: TtsConfig = toml::from_str(&TTS.replace(from, to)).unwrap();
        config.validate().unwrap_err().to_string()
    }
    for (error, key) in [
        (chirpstack("\"30s\"", "\"2h\""), "mqtt.keep_alive"),
        (chirpstack("broker.example", ""), "mqtt.host"),
        (chirpstack("= 256", "= 0"), "mqtt.max_in_flight"),
        (chirpstack("1_048_576", "99_999_999"), "mqtt.max_message"),
        (chirpstack("ca739e26", "a/b"), "application"),
        (chirpstack("/event/{{event}}", ""), "event_topic"),
        (chirpstack("{{command}}", "{{it}}"), "command_topic"),
        (tts("app@ttn", "app@"), "application"),
        (tts("gateway-1", ""), "mqtt.client_id"),
        (
            webhook("webhook = \"gateway\"", "webhook = \"a b\""),
            "webhook",
        ),
        (webhook("= 64", "= 0"), "http.max_connections"),
        (
            webhook("what the webhook sends as its bearer token", "short"),
            "http.token",
        ),
        (webhook("bearer token", "bearer token\\n"), "http.token"),
        (webhook("https://", ""), "downlinks.url"),
        (webhook("NNSXS.KEY", "NNSXS.KEY\\n"), "downlinks.api_key"),
        (webhook("NNSXS.KEY", ""), "downlinks.api_key"),
    ] {
        assert!(error.starts_with(&format!("`{key}` ")), "{error}");
        assert!(error.contains("; allowed: "), "{error}");
        assert!(!error.contains("NNSXS"), "{error}");
    }
}
