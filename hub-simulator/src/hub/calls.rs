//! Direct methods: what may be called, and the calls that wait for their answers.
//!
//! Source: Microsoft, "Understand and invoke direct methods from IoT Hub".

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Hub;
use super::error::{ErrorCode, HubError};
use super::message::{MethodError, MethodResponse};
use super::peer::{MethodCall, Notice};
use super::state::HubState;
use crate::guid::Guid;

/// Largest payload, of a call and of its answer, in bytes.
const MAX_PAYLOAD: usize = 128 * 1024;
/// What a method's name has none of, besides whatever is not printable ASCII.
const NOT_IN_A_NAME: &[u8] = br#"$()<>@,;:\"/[]?={}"#;

/// Whether a method of this name may be called with this payload.
pub(crate) fn check(name: &str, payload: &[u8]) -> Result<(), MethodError> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !NOT_IN_A_NAME.contains(&byte);
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(MethodError::InvalidName);
    }
    if payload.len() > MAX_PAYLOAD {
        return Err(MethodError::TooLarge);
    }
    Ok(())
}

impl Hub {
    /// Calls a method of a device that listens, and waits for the answer.
    ///
    /// # Cancel safety
    /// Safe: a call that nobody waits for is forgotten.
    pub(crate) async fn call_method(
        &self,
        id: &str,
        name: &str,
        payload: Bytes,
        within: Duration,
    ) -> Result<MethodResponse, MethodError> {
        let (call, answer) = self.state().call_method(id, name, payload)?;
        let _waiting = Waiting { hub: self, call };
        let answer = timeout(within, answer).await;
        answer
            .ok()
            .and_then(Result::ok)
            .ok_or(MethodError::TimedOut)
    }
}

/// A caller that waits; when it does so no longer, its call is forgotten.
struct Waiting<'a> {
    hub: &'a Hub,
    call: Guid,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.hub.state().calls.remove(&self.call);
    }
}

impl HubState {
    /// Sends a call to the device; the answer, if one comes, arrives on the receiver.
    fn call_method(
        &mut self,
        id: &str,
        name: &str,
        payload: Bytes,
    ) -> Result<(Guid, oneshot::Receiver<MethodResponse>), MethodError> {
        let device = self.registry.get(id).ok_or(MethodError::UnknownDevice)?;
        let subscriber = device
            .methods
            .as_ref()
            .ok_or(MethodError::DeviceNotOnline)?;
        let waiting = || self.calls.values().filter(|(of, _)| &**of == id).count();
        if self.max_calls.is_some_and(|max| waiting() >= max) {
            return Err(MethodError::TooMany);
        }
        let (answer, answered) = oneshot::channel();
        let call = MethodCall {
            id: Guid::random(),
            name: name.into(),
            payload,
        };
        let call_id = call.id;
        subscriber.post(|route| Notice::Method(route, call));
        self.calls.insert(call_id, (id.into(), answer));
        Ok((call_id, answered))
    }

    /// Whether somebody still waits for the answer to a call.
    pub(crate) fn awaits(&self, call: Guid) -> bool {
        self.calls.contains_key(&call)
    }

    /// Takes a device's answer; one that nobody waits for, or of another device's call, is dropped.
    ///
    /// # Errors
    /// Refuses one that is too large; its caller goes on waiting.
    pub(crate) fn answer_method(
        &mut self,
        id: &str,
        call: Guid,
        response: MethodResponse,
    ) -> Result<(), HubError> {
        if response.payload.len() > MAX_PAYLOAD {
            let text = "The answer to a method may be 128 KB.";
            return Err(HubError::new(ErrorCode::MessageTooLarge, text));
        }
        if self
            .calls
            .get(&call)
            .is_some_and(|(device, _)| &**device == id)
            && let Some((_, answer)) = self.calls.remove(&call)
        {
            // The caller may have given up this instant.
            drop(answer.send(response));
        }
        Ok(())
    }
}
