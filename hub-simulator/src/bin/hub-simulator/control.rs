//! Commands on the program's standard input, one a line, each answered with one line.
#![expect(
    clippy::print_stdout,
    reason = "the answers are what the program is asked for"
)]

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hub_simulator::{C2d, Fault, HubSimulator};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, BufReader};

const HELP: &str = "c2d DEVICE TEXT | method DEVICE NAME JSON | desired DEVICE JSON | twin DEVICE | \
                    accepted DEVICE | add DEVICE | enable DEVICE | disable DEVICE | cut | \
                    fault JSON (as {\"fault\": \"throttle\", \"count\": 10})";

/// How long a method may take.
const METHOD: Duration = Duration::from_secs(30);

/// Carries out commands for as long as the program runs, with or without more input.
pub(crate) async fn serve(hub: &HubSimulator) -> Infallible {
    let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        match understand(hub, &line).await {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("error: {error:#}"),
        }
    }
    std::future::pending().await
}

async fn understand(hub: &HubSimulator, line: &[u8]) -> anyhow::Result<String> {
    let line = std::str::from_utf8(line).context("the line is not UTF-8")?;
    run(hub, line.trim()).await
}

async fn run(hub: &HubSimulator, line: &str) -> anyhow::Result<String> {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (device, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    Ok(match command {
        "c2d" => {
            hub.send_c2d(device, C2d::new(rest.to_owned()))?;
            "sent".to_owned()
        }
        "method" => {
            let (name, payload) = rest.split_once(' ').unwrap_or((rest, "null"));
            let answer = hub
                .call_method(device, name, payload.to_owned(), METHOD)
                .await?;
            format!("{} {}", answer.status, in_one_line(&answer.payload))
        }
        "desired" => {
            let patch = serde_json::from_str(rest).context("the patch is not JSON")?;
            hub.patch_desired(device, &patch)?.to_string()
        }
        "twin" => hub.twin(device).to_string(),
        "accepted" => {
            let accepted = hub.record().accepted();
            let last = accepted
                .iter()
                .rev()
                .find(|message| message.device_id == device);
            let last = last.context("nothing is accepted of this device")?;
            json!({
                "count": hub.record().count_of(device),
                "messageId": last.message_id,
                "correlationId": last.correlation_id,
                "contentType": last.content_type,
                "contentEncoding": last.content_encoding,
                "body": String::from_utf8_lossy(&last.body),
                "properties": last.properties,
            })
            .to_string()
        }
        "add" => {
            let string = hub.device_connection_string(device);
            hub.save()?;
            string
        }
        "enable" | "disable" => {
            if !hub.set_enabled(device, command == "enable") {
                bail!("the device is not registered");
            }
            hub.save()?;
            format!("{command}d")
        }
        "cut" => {
            hub.faults().cut_all();
            "cut".to_owned()
        }
        "fault" => {
            let json = line.strip_prefix("fault").unwrap_or_default();
            let fault: Fault = serde_json::from_str(json).context("that is no fault")?;
            if !hub.faults().apply(&fault) {
                bail!("there is no such device or connection");
            }
            "made".to_owned()
        }
        "help" => HELP.to_owned(),
        _ => bail!("unknown command; 'help' lists the known ones"),
    })
}

/// JSON as it is but for its line breaks, which are spaces; what is none as a text in JSON.
fn in_one_line(payload: &[u8]) -> String {
    match serde_json::from_slice::<&RawValue>(payload) {
        Ok(value) => value.get().replace(['\r', '\n'], " "),
        Err(_) => json!(String::from_utf8_lossy(payload)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_answers_is_one_line() {
        for (payload, line) in [
            (
                "{\"b\": 1.50,\r\n \"a\": \"x\\n\"}",
                "{\"b\": 1.50,   \"a\": \"x\\n\"}",
            ),
            ("", "\"\""),
            ("no\njson", "\"no\\njson\""),
        ] {
            assert_eq!(in_one_line(payload.as_bytes()), line);
        }
    }
}
