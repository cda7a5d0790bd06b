use std::time::SystemTime;

use super::*;

/// Loads a script that has time enough on any machine.
async fn load(script: &str) -> JavaScriptCodec {
    let config = JavaScriptConfig {
        time_limit: Duration::from_secs(1),
        ..JavaScriptConfig::default()
    };
    JavaScriptCodec::load(script, config).await.unwrap()
}

async fn decode(codec: &JavaScriptCodec, bytes: &'static [u8]) -> Result<Decoded, CodecError> {
    let input = DecodeInput::new(2, bytes, UNIX_EPOCH + Duration::from_secs(1));
    codec.decode(input).await
}

/// As the makers of devices write them: ES5, sloppy, an undeclared variable, `bytes` changed.
const SENSOR: &str = r#"
    function signed(high, low) { v = high << 8 | low; return v > 32767 ? v - 65536 : v; }
    function decodeUplink(input) {
        if (input.fPort !== 2) return { errors: ["unknown FPort"] };
        var flags = input.bytes.shift();
        return {
            data: {
                temperature: signed(input.bytes[0], input.bytes[1]) / 10,
                at: input.recvTime.toISOString()
            },
            warnings: flags & 1 ? ["battery low"] : []
        };
    }
    function encodeDownlink(input) {
        if (input.data.interval > 3600) return { bytes: [], errors: ["too long"] };
        return { bytes: [1, input.data.interval / 60], fPort: 3 };
    }
"#;

#[tokio::test]
async fn a_makers_script_reads_and_writes() {
    let codec = load(SENSOR).await;
    let decoded = decode(&codec, &[1, 0xff, 0xf6]).await.unwrap();
    let data = r#"{"temperature":-1,"at":"1970-01-01T00:00:01.000Z"}"#;
    let expected = Decoded::new(data).with_warnings(vec!["battery low".to_owned()]);
    assert_eq!(decoded, expected);
    let input = DecodeInput::new(9, &[1][..], SystemTime::now());
    let refused = Err(CodecError::Refused(vec!["unknown FPort".to_owned()]));
    assert_eq!(codec.decode(input).await, refused);
    let encoded = codec.encode(r#"{"interval":600}"#.into(), None).await;
    assert_eq!(encoded, Ok(Encoded::new(Some(3), &[1, 10][..])));
    let encoded = codec.encode(r#"{"interval":9000}"#.into(), None).await;
    let refused = Err(CodecError::Refused(vec!["too long".to_owned()]));
    assert_eq!(encoded, refused);
}

#[tokio::test]
async fn what_a_script_expects_of_chirpstack_is_there() {
    let script = r#"
        function decodeUplink(input) {
            console.log("not said");
            var old = new Buffer(input.bytes), buffer = Buffer.from(input.bytes);
            return { data: {
                hex: old.toString("hex"), base64: buffer.toString("base64"),
                be: buffer.readInt16BE(0), le: buffer.readUInt16LE(0), odd: buffer.readUIntBE(0, 3),
                float: Buffer.from("41ac0000", "hex").readFloatBE(0),
                text: Buffer.from("w6Q=", "base64").toString(), part: buffer.slice(1).length,
                factor: input.variables.factor, port: input.fPort
            } };
        }
        function encodeDownlink(input) {
            var buffer = Buffer.alloc(3);
            buffer.writeInt16BE(input.data.target * input.variables.factor, 1);
            return { bytes: buffer, warnings: ["not said"] };
        }
    "#;
    let config = JavaScriptConfig {
        time_limit: Duration::from_secs(1),
        variables: [("factor".to_owned(), "10".to_owned())].into(),
        ..JavaScriptConfig::default()
    };
    let codec = JavaScriptCodec::load(script, config).await.unwrap();
    let decoded = decode(&codec, &[0xff, 0xf6, 0x01]).await.unwrap();
    let data: serde_json::Value = serde_json::from_slice(&decoded.data).unwrap();
    let expected = serde_json::json!({
        "hex": "fff601", "base64": "//YB", "be": -10, "le": 0xf6ff, "odd": 0x00ff_f601,
        "float": 21.5, "text": "ä", "part": 2, "factor": "10", "port": 2,
    });
    assert_eq!(data, expected);
    let encoded = codec.encode(r#"{"target":-1.5}"#.into(), None).await;
    assert_eq!(encoded, Ok(Encoded::new(None, &[0, 0xff, 0xf1][..])));
}

#[tokio::test]
async fn what_was_decoded_is_normalized_as_in_the_things_stack() {
    let script = r#"
        function decodeUplink(input) {
            return { data: { celsius: input.bytes[0] }, warnings: ["first"] };
        }
        function normalizeUplink(input) {
            if (input.data.celsius === 1) return { errors: ["out of range"] };
            if (input.data.celsius === 2) throw new Error("boom");
            var temperature = input.data.celsius;
            delete input.data.celsius;
            return { data: [{ air: { temperature: temperature } }], warnings: ["second"] };
        }
    "#;
    let codec = load(script).await;
    let decoded = decode(&codec, &[20]).await.unwrap();
    assert_eq!(decoded.data, r#"{"celsius":20}"#);
    let normalized = decoded.normalized.unwrap();
    assert_eq!(normalized, r#"[{"air":{"temperature":20}}]"#);
    assert_eq!(decoded.warnings, ["first", "normalizeUplink: second"]);
    // Whatever becomes of that, what was decoded is there.
    for (bytes, warning) in [(&[1], "out of range"), (&[2], "Error: boom")] {
        let decoded = decode(&codec, bytes).await.unwrap();
        assert_eq!(decoded.normalized, None);
        assert_eq!(decoded.warnings[1], format!("normalizeUplink: {warning}"));
    }
}

#[tokio::test]
async fn a_port_that_is_none_is_the_scripts_failure() {
    let codec = load("function encodeDownlink() { return { bytes: [1], fPort: 300 }; }").await;
    let encoded = codec.encode("{}".into(), None).await;
    assert!(matches!(encoded, Err(CodecError::Failed(_))), "{encoded:?}");
}

#[tokio::test]
async fn the_older_forms_are_understood() {
    for script in [
        "function Decoder(bytes, port) { return { port: port, first: bytes[0] }; }
         function Encoder(data, port) { return [data.x, 3.7]; }",
        "function Decode(port, bytes, variables) { return { port: port, first: bytes[0] }; }
         function Encode(port, data, variables) { return [data.x, 3.7]; }",
    ] {
        let codec = load(script).await;
        let decoded = decode(&codec, &[7]).await;
        assert_eq!(decoded, Ok(Decoded::new(r#"{"port":2,"first":7}"#)));
        let encoded = codec.encode(r#"{"x":9}"#.into(), Some(1)).await;
        assert_eq!(encoded, Ok(Encoded::new(None, &[9, 4][..])));
    }
}

#[tokio::test]
async fn a_function_that_is_not_there_is_named() {
    let codec = load("var nothing = 1;").await;
    let missing = decode(&codec, &[1]).await;
    assert_eq!(missing, Err(CodecError::Unsupported("decoder")));
    let missing = codec.encode("{}".into(), None).await;
    assert_eq!(missing, Err(CodecError::Unsupported("encoder")));
}

/// Chooses by the first byte how to misbehave.
const WILD: &str = r#"
    var calls = 0;
    function decodeUplink(input) {
        calls += 1;
        switch (input.bytes[0]) {
            case 1: while (true) {}
            case 2: var all = []; while (true) all.push(new Array(10000).fill(1));
            case 3: throw new Error("boom");
            case 4: return (function deeper() { return deeper() + 1; })();
            case 5: return { data: undefined };
            case 6: var circle = {}; circle.circle = circle; return { data: circle };
            case 7: return null;
            case 8: /(a+)+$/.test(new Array(40).join("a") + "b"); return { data: "tame" };
            case 9: return { data: new Array(200000).join("x") };
            case 10: Array.prototype.reverse.call({ length: Number.MAX_SAFE_INTEGER });
            case 11: new Array(4294967295).sort();
            case 12: // Some seconds, in which nothing stops it.
                var long = { length: 100000000 };
                long[Symbol.isConcatSpreadable] = true;
                [].concat(long);
                throw new Error("boom");
            default: return { data: calls };
        }
    }
"#;

#[tokio::test]
async fn a_script_that_runs_wild_is_stopped_and_the_next_payload_is_read() {
    let codec = load(WILD).await;
    assert_eq!(decode(&codec, &[1]).await, Err(CodecError::TimedOut));
    let failures: [&'static [u8]; 8] = [&[2], &[3], &[4], &[5], &[6], &[7], &[10], &[11]];
    for bytes in failures {
        let result = decode(&codec, bytes).await;
        assert!(
            matches!(result, Err(CodecError::Failed(_) | CodecError::TimedOut)),
            "{bytes:?} gave {result:?}"
        );
        // An exception leaves nothing behind.
        drop(decode(&codec, &[3]).await);
        assert_eq!(decode(&codec, &[0]).await, Ok(Decoded::new("1")));
    }
    drop(decode(&codec, &[8]).await);
    let huge = decode(&codec, &[9]).await.and_then(Decoded::bounded);
    assert_eq!(huge, Err(CodecError::TooLarge));
}

#[tokio::test]
async fn a_script_that_cannot_be_stopped_holds_up_nobody_and_is_used_again_when_it_ends() {
    let config = JavaScriptConfig::default();
    let codec = JavaScriptCodec::load(WILD, config).await.unwrap();
    let (lost, waiting) = tokio::join!(decode(&codec, &[12]), decode(&codec, &[0]));
    assert_eq!(lost, Err(CodecError::TimedOut));
    // So a command that waited is not refused for another device's payload.
    assert_eq!(waiting, Err(CodecError::Busy));
    assert_eq!(decode(&codec, &[0]).await, Err(CodecError::Busy));
    let read = loop {
        if let Ok(read) = decode(&codec, &[0]).await {
            break read;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // By a new engine, which was asked nothing that nobody waits for any more.
    assert_eq!(read, Decoded::new("1"));
}

#[tokio::test]
async fn a_script_that_does_not_run_is_refused_at_the_start() {
    for script in ["function (", "throw new Error('no')", "while (true) {}"] {
        let loaded = JavaScriptCodec::load(script, JavaScriptConfig::default()).await;
        assert!(matches!(loaded, Err(ScriptError::Script(_))), "{script}");
    }
}

#[tokio::test]
async fn a_script_reaches_nothing() {
    let script = "function decodeUplink() {
        return { data: [typeof require, typeof process, typeof fetch, typeof std, typeof os] };
    }";
    let decoded = decode(&load(script).await, &[0]).await.unwrap();
    let nothing = ["undefined"; 5];
    assert_eq!(decoded.data, serde_json::to_vec(&nothing).unwrap());
}
