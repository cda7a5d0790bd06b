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

/// The gateway's process ends when the one that started it is killed, so that no port and no
/// device stays taken.
#[cfg(target_os = "linux")]
#[test]
fn no_gateway_outlives_a_killed_quickstart() {
    use std::time::{Duration, Instant};

    let mut parent = Command::new(env!("CARGO_BIN_EXE_quickstart"))
        .args(["--devices", "2", "--messages", "1000", "--rate", "1"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", parent.id());
    let patience = Instant::now() + Duration::from_secs(60);
    let child = loop {
        let text = std::fs::read_to_string(&children).unwrap();
        match text.split_whitespace().next() {
            Some(child) => break child.to_owned(),
            None => assert!(Instant::now() < patience, "the gateway was not started"),
        }
        std::thread::yield_now();
    };
    parent.kill().unwrap();
    parent.wait().unwrap();
    let gateway = format!("/proc/{child}/status");
    // A zombie has ended: whoever adopts it has not fetched its status yet.
    let is_alive =
        || std::fs::read_to_string(&gateway).is_ok_and(|status| !status.contains("State:\tZ"));
    while is_alive() {
        assert!(Instant::now() < patience, "the gateway goes on");
        std::thread::yield_now();
    }
}
