//! Files that are not what they should be.

use super::*;

const WEBHOOK: &str = "[downstream.lorawan.tts_webhook]\nwebhook = 'w'\n\
                       http = { token = { env = 'HUB' } }\n";
const POST: &str = "url = 'https://example'\napi_key = { env = 'HUB' }";

#[test]
fn a_file_that_is_not_what_it_should_be_is_named_and_nothing_of_it_is_told() {
    for (section, key, what) in [
        (
            "downstream.tcp",
            "identity.secrets_file",
            "secrets by device",
        ),
        (
            "downstream.coap",
            "identity.tokens_file",
            "secrets by device",
        ),
        ("downstream.coap", "dtls.keys_file", "keys by identity"),
    ] {
        let text = MINIMAL.replace("downstream.tcp", section);
        // A key, a list of something else, and a directory.
        for file in ["key", "devices.csv", "."] {
            let found = mistakes(&format!("{text}udp = {{}}\n{key} = '{file}'\n"));
            let begin = format!("line 8: `{section}.{key}` is wrong: cannot use ");
            let is_named = |found: &&String| found.starts_with(&begin) && found.contains(what);
            assert_eq!(found.iter().filter(is_named).count(), 1, "{found:#?}");
            assert!(!found.concat().contains("c2VjcmV0"), "{found:#?}");
        }
    }
}

#[test]
fn certificates_and_keys_that_cannot_be_used_are_named() {
    let tcp = |files: &str| mistakes(&format!("{MINIMAL}tls = {{ {files} }}\n"));
    let tls = "line 7: `downstream.tcp.tls";
    for (files, expected) in [
        (
            "certificate = 'key', key = 'key.pem'",
            ".certificate` is wrong",
        ),
        (
            "certificate = '.', key = 'key.pem'",
            ".certificate` is wrong",
        ),
        ("certificate = 'ca.pem', key = 'ca.pem'", ".key` is wrong"),
        (
            "certificate = 'ca.pem', key = 'other.pem'",
            ".certificate` is wrong",
        ),
        (
            "certificate = 'ca.pem', key = 'key.pem', client_ca = 'key'",
            ".client_ca` is wrong",
        ),
    ] {
        let found = tcp(files);
        let expected = format!("{tls}{expected}");
        assert!(
            found.len() == 1 && found[0].starts_with(&expected),
            "{found:#?}"
        );
    }
    let coap = MINIMAL.replace("downstream.tcp", "downstream.coap");
    let found = mistakes(&format!(
        "{coap}tls = {{ certificate = 'ca.pem', key = 'other.pem' }}\n"
    ));
    assert!(
        found[0].contains("`downstream.coap.tls.certificate` is wrong"),
        "{found:#?}"
    );
}

#[test]
fn authorities_without_a_certificate_are_named() {
    let hub = "host = 'hub.example'";
    let broker = "host = 'broker'\ninstance = 'one'";
    let application = "[downstream.lorawan.tts]\napplication = 'a'\n";
    for (before, section, settings) in [
        ("", "upstream.amqp", hub),
        ("", "upstream.mqtt.hub", hub),
        ("", "upstream.mqtt.pooled", broker),
        ("", "downstream.lorawan.chirpstack.mqtt", ""),
        (application, "downstream.lorawan.tts.mqtt", ""),
        (WEBHOOK, "downstream.lorawan.tts_webhook.downlinks", POST),
    ] {
        let found = mistakes(&format!(
            "{before}[{section}]\nca_file = 'key'\n{settings}\n"
        ));
        let expected = format!(": `{section}.ca_file` has no certificate; allowed: ");
        let is_named = |found: &&String| found.contains(&expected);
        assert_eq!(
            found.iter().filter(is_named).count(),
            1,
            "{section}: {found:#?}"
        );
    }
    let pair = "certificate_file = 'ca.pem'\nkey_file = 'key'\nca_file = 'ca.pem'";
    let found = mistakes(&format!("[upstream.mqtt.pooled]\n{pair}\n{broker}\n"));
    let expected = "line 3: `upstream.mqtt.pooled.key_file` has no private key";
    assert!(found.concat().contains(expected), "{found:#?}");
}
