//! Codecs of devices' makers, in JavaScript.

mod sandbox;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::ConfigError;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::{CodecError, DecodeInput, Decoded, Encoded, PayloadCodec};
use sandbox::{Function, Sandbox};
use watch::Watch;

/// Bounds of a script. Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct JavaScriptConfig {
    /// How long one call may take. Default 100 ms, as in ChirpStack; a usual one takes microseconds.
    /// Twice that and a second later nobody waits any more for a call that the engine cannot stop.
    #[serde(with = "humantime_serde")]
    pub time_limit: Duration,
    /// What the script may allocate, in bytes. Default 8 MiB; the engine itself takes less than one.
    pub memory_limit: usize,
    /// Payloads that wait for the script. Default 64; more are not decoded.
    pub max_waiting: usize,
    /// What the script finds in `input.variables`, as it does in ChirpStack. Default nothing.
    pub variables: BTreeMap<String, String>,
}

impl Default for JavaScriptConfig {
    fn default() -> Self {
        Self {
            time_limit: Duration::from_millis(100),
            memory_limit: 8 * 1024 * 1024,
            max_waiting: 64,
            variables: BTreeMap::new(),
        }
    }
}

impl JavaScriptConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let time_limit = self.time_limit.as_millis();
        let in_milliseconds = "time_limit (in ms)";
        ConfigError::check_range(in_milliseconds, time_limit, 1, 10_000)?;
        ConfigError::check_range("memory_limit", self.memory_limit, 1 << 20, 1 << 30)?;
        ConfigError::check_range("max_waiting", self.max_waiting, 1, 100_000)
    }
}

/// Reads and writes payloads with a script of the device's maker.
///
/// The script defines, at its top level, the functions of TS013-1.0.0, under the names of ChirpStack
/// and of The Things Stack, or of what was before them:
///
/// | function | of |
/// | --- | --- |
/// | `decodeUplink({bytes, fPort, recvTime, variables})` gives `{data, errors, warnings}` | TS013; `variables` as in ChirpStack v4 |
/// | `normalizeUplink({data})` gives `{data, errors, warnings}` | The Things Stack v3 |
/// | `encodeDownlink({data, fPort, variables})` gives `{bytes, fPort, errors, warnings}` | TS013 |
/// | `Decoder(bytes, port)`, `Encoder(data, port)` | The Things Network v2 |
/// | `Decode(port, bytes, variables)`, `Encode(port, data, variables)` | ChirpStack v3 |
///
/// Those above go before those below. `bytes` is an array of numbers, `recvTime` a `Date`. Whatever is
/// in `errors` is a failure; bytes that a script returns as fractions are rounded. There is a `Buffer`
/// for what codecs do with Node's, as in ChirpStack, and a `console` that says nothing.
///
/// It runs on a thread of its own in an engine (QuickJS) that has no access to anything, within a
/// time and a memory. The engine is kept from call to call, so that a call takes microseconds, and
/// is made anew after each failure; what the script keeps in global variables it may see again, with
/// another device's payload. A few of the engine's own functions cannot be stopped, such as `concat`
/// with a list of billions; as long as a script is in one, payloads are not read, and nobody waits.
/// Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct JavaScriptCodec {
    calls: mpsc::Sender<Call>,
    watch: Arc<Watch>,
    variables: Arc<BTreeMap<String, String>>,
}

impl fmt::Debug for JavaScriptCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JavaScriptCodec").finish_non_exhaustive()
    }
}

/// Tells why a script cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The script does not run.
    #[error("the script does not run; try it in a browser's console")]
    Script(#[from] CodecError),
    /// The system gives no thread.
    #[error("no thread for the script")]
    Thread(#[from] io::Error),
}

/// A call of a script's function, with JSON for its argument and its result.
#[derive(Debug)]
struct Call {
    number: u64,
    function: Function,
    argument: String,
    reply: oneshot::Sender<Result<String, CodecError>>,
}

impl JavaScriptCodec {
    /// Starts a thread with a script, and tries whether it runs. The thread ends with the last clone.
    ///
    /// # Errors
    /// A setting is wrong, the script does not run, or there is no thread for it.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn load(script: &str, config: JavaScriptConfig) -> Result<Self, ScriptError> {
        config.validate()?;
        let (calls, waiting) = mpsc::channel(config.max_waiting);
        let (loaded, is_loaded) = oneshot::channel();
        let script = script.to_owned();
        let variables = Arc::new(config.variables.clone());
        let watch = Arc::new(Watch::new(config.time_limit));
        let watched = watch.clone();
        let number = watch.number();
        thread::Builder::new()
            .name("lorawan-codec".to_owned())
            .spawn(move || work(&script, &config, &watched, (number, loaded), waiting))?;
        let loaded = watch.wait(number, is_loaded).await?;
        loaded.unwrap_or_else(|_| Err(ended()))?;
        Ok(Self {
            calls,
            watch,
            variables,
        })
    }

    async fn call<T: for<'de> Deserialize<'de>>(
        &self,
        function: Function,
        argument: &impl Serialize,
    ) -> Result<T, CodecError> {
        let unreadable = |error: serde_json::Error| CodecError::Failed(error.to_string());
        let (reply, result) = oneshot::channel();
        let number = self.watch.number();
        let call = Call {
            number,
            function,
            argument: serde_json::to_string(argument).map_err(unreadable)?,
            reply,
        };
        if self.watch.lost().is_some() {
            return Err(CodecError::Busy);
        }
        self.calls.try_send(call).map_err(|_| CodecError::Busy)?;
        let result = self.watch.wait(number, result).await?;
        let result = result.unwrap_or_else(|_| Err(ended()))?;
        serde_json::from_str(&result).map_err(unreadable)
    }
}

fn ended() -> CodecError {
    CodecError::Failed("its thread has ended".to_owned())
}

/// Makes the calls that come, in a sandbox that lasts until a call fails.
fn work(
    script: &str,
    config: &JavaScriptConfig,
    watch: &Watch,
    (number, loaded): (u64, oneshot::Sender<Result<(), CodecError>>),
    mut calls: mpsc::Receiver<Call>,
) {
    watch.begin(number);
    let sandbox = Sandbox::new(script, config);
    watch.end();
    let mut sandbox = match sandbox {
        Ok(sandbox) => Some(sandbox),
        Err(error) => {
            // Whoever loads it may have gone.
            drop(loaded.send(Err(error)));
            return;
        }
    };
    if loaded.send(Ok(())).is_err() {
        return;
    }
    while let Some(call) = calls.blocking_recv() {
        if call.reply.is_closed() {
            continue;
        }
        watch.begin(call.number);
        let whole = match sandbox.take() {
            Some(whole) => Ok(whole),
            None => Sandbox::new(script, config),
        };
        let result = whole.and_then(|whole| {
            let result = whole.call(call.function, &call.argument);
            if !matches!(result, Err(CodecError::Failed(_) | CodecError::TimedOut)) {
                sandbox = Some(whole);
            }
            result
        });
        watch.end();
        drop(call.reply.send(result));
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DecodeArgument<'a> {
    bytes: &'a [u8],
    f_port: u8,
    /// Milliseconds since 1970.
    recv_time: u64,
    variables: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EncodeArgument<'a> {
    data: &'a RawValue,
    f_port: Option<u8>,
    variables: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct DecodeResult {
    data: Option<Box<RawValue>>,
    normalized: Option<Box<RawValue>>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EncodeResult {
    bytes: Vec<u8>,
    f_port: Option<u8>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

fn text(json: Box<RawValue>) -> Bytes {
    Box::<str>::from(json).into_string().into()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl PayloadCodec for JavaScriptCodec {
    async fn decode(&self, input: DecodeInput) -> Result<Decoded, CodecError> {
        let since_epoch = input.received_at.duration_since(UNIX_EPOCH);
        let argument = DecodeArgument {
            bytes: &input.bytes,
            f_port: input.port,
            recv_time: since_epoch.unwrap_or_default().as_millis() as u64,
            variables: &self.variables,
        };
        let result: DecodeResult = self.call(Function::Decode, &argument).await?;
        match (result.errors.is_empty(), result.data) {
            (false, _) => Err(CodecError::Refused(result.errors)),
            (true, Some(data)) => {
                let mut decoded = Decoded::new(text(data)).with_warnings(result.warnings);
                decoded.normalized = result.normalized.map(text);
                Ok(decoded)
            }
            (true, None) => Err(CodecError::Failed("it returned no data".to_owned())),
        }
    }

    async fn encode(&self, data: Bytes, port: Option<u8>) -> Result<Encoded, CodecError> {
        let data = serde_json::from_slice(&data);
        let data = data.map_err(|error| CodecError::Refused(vec![error.to_string()]))?;
        let argument = EncodeArgument {
            data,
            f_port: port,
            variables: &self.variables,
        };
        let result: EncodeResult = self.call(Function::Encode, &argument).await?;
        if !result.warnings.is_empty() {
            tracing::debug!(warnings = ?result.warnings, "Codec warns of a command");
        }
        match result.errors.is_empty() {
            true => Ok(Encoded::new(result.f_port, result.bytes)),
            false => Err(CodecError::Refused(result.errors)),
        }
    }
}
