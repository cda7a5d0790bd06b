//! The quickstart as users run it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Command, Output};

use serde_json::Value;

fn quickstart(args: &[&str]) -> (Output, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart"))
        .args(args)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, report)
}

#[test]
fn a_run_ends_with_every_message_at_the_hub_and_one_json_object() {
    let (output, report) = quickstart(&["--devices", "20", "--messages", "5", "--json"]);
    assert!(output.status.success(), "{output:?}");
    for (key, expected) in [
        ("devices", 20),
        ("connections", 1),
        ("sent", 100),
        ("accepted", 100),
        ("lost", 0),
        ("duplicated", 0),
        ("out_of_order", 0),
        ("c2d_sent", 20),
        ("c2d_completed", 20),
        ("methods_called", 20),
        ("methods_answered", 20),
    ] {
        assert_eq!(report[key], expected, "{key} in {report}");
    }
    for key in ["seconds", "p50_ms", "p99_ms"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key} in {report}");
    }
    if cfg!(target_os = "linux") {
        assert!(
            report["gateway_cpu_us_per_message"].as_f64().unwrap() > 0.0,
            "{report}"
        );
        assert!(report["rss_mib"].as_f64().unwrap() > 1.0, "{report}");
    }
    assert_eq!(report.as_object().unwrap().len(), 16, "{report}");
}

#[test]
fn nothing_is_lost_when_the_connections_to_the_hub_are_cut() {
    let (output, report) = quickstart(&[
        "--devices",
        "20",
        "--messages",
        "50",
        "--cut",
        "--commands",
        "5",
        "--json",
    ]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        (&report["accepted"], &report["lost"]),
        (&1000.into(), &0.into()),
        "{report}"
    );
    assert_eq!(report["methods_answered"], 5, "{report}");
}

/// Has a small fleet go another way, with every connection to the hub cut on it.
fn loses_nothing_when_all_are_cut(way: [&str; 2], messages: u64, connections: u64) {
    let fleet = [
        "--devices",
        "20",
        "--messages",
        &messages.to_string(),
        "--commands",
        "5",
    ];
    let args = [&way[..], &fleet, &["--cut", "--json"]].concat();
    let (output, report) = quickstart(&args);
    assert!(output.status.success(), "{output:?}");
    for (key, expected) in [
        ("connections", connections),
        ("accepted", 20 * messages),
        ("lost", 0),
        ("out_of_order", 0),
        ("c2d_completed", 5),
        ("methods_answered", 5),
    ] {
        assert_eq!(report[key], expected, "{key} in {report}");
    }
}

#[test]
fn over_mqtt_each_device_has_a_connection_and_nothing_is_lost_when_all_are_cut() {
    loses_nothing_when_all_are_cut(["--upstream", "mqtt"], 50, 20);
}

#[test]
fn over_coap_the_same_holds_with_a_datagram_each_way() {
    loses_nothing_when_all_are_cut(["--downstream", "coap"], 50, 1);
}

#[test]
fn over_the_air_each_frame_is_heard_by_three_and_the_same_holds_in_windows() {
    loses_nothing_when_all_are_cut(["--downstream", "lorawan"], 6, 1);
}

#[test]
fn coap_devices_that_only_speak_need_no_welcome() {
    let args = [
        "--downstream",
        "coap",
        "--devices",
        "3",
        "--commands",
        "0",
        "--json",
    ];
    let (output, report) = quickstart(&args);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(report["accepted"], 60, "{report}");
}

#[test]
fn a_run_that_is_given_up_says_what_is_missing_and_fails() {
    // A message every second: a thousand seconds would be needed.
    let args = [
        "--devices",
        "10",
        "--messages",
        "100",
        "--rate",
        "1",
        "--timeout",
        "2",
        "--json",
    ];
    let (output, report) = quickstart(&args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(report["lost"], 0, "{report}");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("given up after 2s"), "{words}");
    assert!(words.contains("messages were not acknowledged"), "{words}");
}

#[test]
fn the_summary_is_for_people_without_json() {
    let (output, _) = quickstart(&["--devices", "3", "--messages", "2", "--commands", "0"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("3 devices over 1 connection to the hub"),
        "{text}"
    );
    assert!(
        text.contains("6 sent, 6 accepted") && text.contains("0 lost"),
        "{text}"
    );
}

/// No port and no device stays taken.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_gateway_outlives_a_killed_quickstart() {
    let mut parent = Command::new(env!("CARGO_BIN_EXE_quickstart"))
        .args(["--devices", "2", "--messages", "1000", "--rate", "1"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", parent.id());
    let gateway = soon(|| {
        let children = std::fs::read_to_string(&children).unwrap();
        Some(format!(
            "/proc/{}/status",
            children.split_whitespace().next()?
        ))
    });
    let gateway = gateway.await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    soon(|| match std::fs::read_to_string(&gateway) {
        // It has ended, and who adopted it has not fetched its status yet.
        Ok(status) => status.contains("State:\tZ").then_some(()),
        Err(_) => Some(()),
    })
    .await;
}

/// Asks until there is an answer, or fails.
#[cfg(target_os = "linux")]
async fn soon<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let answer = async {
        loop {
            match ask() {
                Some(answer) => break answer,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), answer)
        .await
        .unwrap()
}
