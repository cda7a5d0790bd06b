//! Doubles and conformance suites for tests of adapters, layers and gateways (feature `testkit`).
//!
//! [`MemoryUpstream`] is a hub in memory, [`MemoryDownstream`] a downstream whose devices are
//! handles, [`RecordingCallback`] a callback that keeps what it was given. With them an integrator
//! tests a gateway without a socket:
//!
//! ```
//! # use gateway_core::testkit::*;
//! # use gateway_core::*;
//! # use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
//! # use tokio_util::sync::CancellationToken;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (hub, devices) = (MemoryUpstream::new(), MemoryDownstream::new());
//! let policy = SharedAccessPolicy::new("device", SymmetricKey::from_base64("c2VjcmV0")?);
//! let gateway = Gateway::builder(hub.clone())
//!     .with_credentials(HubPolicyCredentials::new(policy))
//!     .with_downstream("memory", devices.clone())
//!     .build()?;
//! let shutdown = CancellationToken::new();
//! let test = async {
//!     let device = devices.connect("dev1".parse().unwrap()).await.unwrap();
//!     assert_eq!(device.send("21.5 °C").await, Settlement::Accepted);
//!     assert_eq!(hub.accepted().len(), 1);
//!     shutdown.cancel();
//! };
//! let (report, ()) = tokio::join!(gateway.run(shutdown.clone()), test);
//! assert!(!report?.forced);
//! # Ok(())
//! # }
//! ```
//!
//! An adapter runs a whole suite with one line,
//! [`upstream_conformance!`](crate::upstream_conformance) or
//! [`downstream_conformance!`](crate::downstream_conformance), over a fixture that tells the cases
//! how to reach its hub or its devices.

pub mod downstream;
mod memory_downstream;
mod memory_upstream;
mod recording_callback;
pub mod upstream;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

pub use downstream::{
    DeviceClient, DeviceEvent, DownstreamCapabilities, DownstreamFixture, DownstreamSettings,
};
pub use memory_downstream::{Command, MemoryDevice, MemoryDownstream};
pub use memory_upstream::MemoryUpstream;
pub use recording_callback::{CallbackRecord, RecordingCallback};
pub use upstream::{MessageOutcome, UpstreamCapabilities, UpstreamFixture};

/// How long one case may take: nothing hangs, and a loaded machine has time.
pub const CASE_LIMIT: Duration = Duration::from_secs(60);

/// How long a case looks for something that must not happen. A slow machine can only make it miss
/// a fault, never see one that is not there.
const WATCH: Duration = Duration::from_millis(200);

/// Says whether a case was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was run and found no fault.
    Passed,
    /// It does not apply, and why.
    Skipped(&'static str),
}

/// Runs a case within [`CASE_LIMIT`] and prints why it was skipped, if it was.
///
/// # Panics
/// The case failed or took too long.
pub async fn run_case(name: &str, case: impl Future<Output = Outcome>) -> Outcome {
    let Ok(outcome) = timeout(CASE_LIMIT, case).await else {
        panic!("{name} took longer than {CASE_LIMIT:?}");
    };
    if let Outcome::Skipped(reason) = outcome {
        #[expect(clippy::print_stdout, reason = "a test's reader is to see it")]
        {
            println!("{name} does not apply: {reason}");
        }
    }
    outcome
}

/// Skips a case unless the fixture can do what it needs.
macro_rules! need {
    ($can:expr, $reason:literal) => {
        if !$can {
            return $crate::testkit::Outcome::Skipped($reason);
        }
    };
}
use need;

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs futures side by side; each is first polled after the one before it.
async fn join_in_order<T>(futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|f| (Some(f), None)).collect();
    poll_fn(|context| {
        for (future, output) in &mut running {
            if let Some(Poll::Ready(value)) = future.as_mut().map(|f| f.as_mut().poll(context)) {
                (*future, *output) = (None, Some(value));
            }
        }
        match running.iter().any(|(future, _)| future.is_some()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
    running
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}
