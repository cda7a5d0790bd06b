//! Who speaks, and for whom.

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use gateway_core::DeviceId;
use gateway_core::credential::Secret;
use gateway_net::BindError;

use crate::carrier::Sender;
use crate::config::IdentityConfig;
use crate::proto::message::Code;

/// Begins the query parameter with the device's id.
const ID: &str = "$.id=";
/// Begins the query parameter with the device's token.
const TOKEN: &str = "$.token=";

/// Is what a request without a session says of its sender.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Claim<'a> {
    /// Where it came from. It may be forged, unless the network or Echo sees to it that it is not.
    pub address: SocketAddr,
    /// The id in its query.
    pub device: Option<&'a str>,
    /// The token in its query.
    pub token: Option<&'a str>,
}

impl fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("address", &self.address)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// Judges requests that come without a session, and gateways that speak for others.
///
/// It is asked at every request and must not wait for anything. A panic counts as a no.
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// Says which device sent a request; `None` if that is not proved.
    fn identify(&self, claim: Claim<'_>) -> Option<DeviceId>;

    /// Tells whether a device, known by a session or by [`identify`](Self::identify), may speak for
    /// another.
    fn may_speak_for(&self, gateway: &DeviceId, child: &DeviceId) -> bool;
}

impl IdentityConfig {
    /// Takes the tokens of the file in.
    pub(crate) fn with_file(mut self) -> Result<Self, BindError> {
        let Some(path) = &self.tokens_file else {
            return Ok(self);
        };
        let tokens = gateway_net::read_secrets(path, "tokens by device")?;
        self.tokens.extend(tokens);
        Ok(self)
    }
}

impl Authenticator for IdentityConfig {
    fn identify(&self, claim: Claim<'_>) -> Option<DeviceId> {
        let Some(id) = claim.device else {
            let address = claim.address.ip().to_canonical();
            return self.addresses.get(&address).cloned();
        };
        if self.trust_any_id {
            return DeviceId::new(id).ok();
        }
        let token = claim.token?;
        // An unknown device takes the time of a known one.
        let known = self.tokens.get_key_value(id);
        let is_right = match known {
            Some((_, expected)) => expected.matches(token),
            None => Secret::from(token).matches(token),
        };
        known.filter(|_| is_right).map(|(device, _)| device.clone())
    }

    fn may_speak_for(&self, gateway: &DeviceId, child: &DeviceId) -> bool {
        let children = self.children.get(gateway);
        children.is_some_and(|children| children.contains(child))
    }
}

/// Asks an authenticator, which is the program's own: what it does must not take all devices along.
fn ask<T: Default>(question: impl FnOnce() -> T) -> T {
    let answer = catch_unwind(AssertUnwindSafe(question));
    answer.unwrap_or_else(|_| {
        tracing::error!("Authenticator panicked: a defect");
        T::default()
    })
}

/// The parts of a query, less those that prove who sent it.
#[derive(Debug, Default)]
pub(crate) struct Proof<'a> {
    device: Option<&'a str>,
    token: Option<&'a str>,
    pub(crate) rest: Vec<&'a str>,
}

impl<'a> Proof<'a> {
    pub(crate) fn read(query: Vec<&'a str>) -> Self {
        let mut proof = Self::default();
        for part in query {
            if let Some(device) = part.strip_prefix(ID) {
                proof.device = Some(device);
            } else if let Some(token) = part.strip_prefix(TOKEN) {
                proof.token = Some(token);
            } else {
                proof.rest.push(part);
            }
        }
        proof
    }

    /// Who sent a request. What a session has proved stands, whatever the query says.
    pub(crate) fn device(&self, sender: &Sender, judge: &dyn Authenticator) -> Option<DeviceId> {
        sender.device.clone().or_else(|| {
            let claim = Claim {
                address: sender.address,
                device: self.device,
                token: self.token,
            };
            ask(|| judge.identify(claim))
        })
    }
}

/// The device that a request is for: the sender, or a child that it may speak for.
pub(crate) fn subject(
    sender: &DeviceId,
    named: Option<&str>,
    judge: &dyn Authenticator,
) -> Result<DeviceId, Code> {
    let Some(named) = named.filter(|named| *named != sender.as_str()) else {
        return Ok(sender.clone());
    };
    let child = DeviceId::new(named).map_err(|_| Code::BAD_REQUEST)?;
    match ask(|| judge.may_speak_for(sender, &child)) {
        true => Ok(child),
        false => Err(Code::FORBIDDEN),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn identify(config: &str, query: &[&str]) -> Option<String> {
        let config: IdentityConfig = serde_json::from_str(config).unwrap();
        let sender = Sender {
            address: "10.0.0.7:4000".parse().unwrap(),
            device: None,
            is_proven: false,
        };
        let device = Proof::read(query.to_vec()).device(&sender, &config);
        device.map(|device| device.to_string())
    }

    #[test]
    fn nobody_is_let_in_by_default() {
        for query in [
            &[][..],
            &["$.id=a"],
            &["$.id=a", "$.token="],
            &["$.token=x"],
        ] {
            assert_eq!(identify("{}", query), None, "{query:?}");
        }
    }

    #[test]
    fn a_token_proves_its_own_device_only() {
        let config = r#"{"tokens": {"a": "one", "b": "two"}}"#;
        assert_eq!(identify(config, &["$.id=a", "$.token=one"]).unwrap(), "a");
        for query in [
            &["$.id=a", "$.token=two"][..],
            &["$.id=a"],
            &["$.id=c", "$.token=one"],
        ] {
            assert_eq!(identify(config, query), None, "{query:?}");
        }
    }

    #[test]
    fn tokens_of_a_file_count_and_a_wrong_file_is_told_of_without_them() {
        let read = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let config = IdentityConfig {
                tokens_file: Some(file.path().to_owned()),
                ..IdentityConfig::default()
            };
            config.with_file()
        };
        let token = &read(r#"{"a": "one"}"#).unwrap().tokens[&DeviceId::new("a").unwrap()];
        assert!(token.matches("one"));
        let error = read(r#"{"a": ["one"]}"#).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.starts_with("line 1") && !source.contains("one"));
    }

    #[test]
    fn an_address_names_its_device_unless_the_query_claims_another() {
        let config = r#"{"addresses": {"10.0.0.7": "a"}}"#;
        assert_eq!(identify(config, &["t=1"]).unwrap(), "a");
        assert_eq!(identify(config, &["$.id=b"]), None);
    }

    /// Has no answer to anything.
    #[derive(Debug)]
    struct Defect;

    impl Authenticator for Defect {
        fn identify(&self, _claim: Claim<'_>) -> Option<DeviceId> {
            panic!("a defect of the program")
        }

        fn may_speak_for(&self, _gateway: &DeviceId, _child: &DeviceId) -> bool {
            panic!("a defect of the program")
        }
    }

    #[test]
    fn an_authenticator_that_panics_lets_nobody_in() {
        let mut sender = Sender {
            address: "10.0.0.7:4000".parse().unwrap(),
            device: None,
            is_proven: false,
        };
        assert_eq!(Proof::default().device(&sender, &Defect), None);
        sender.device = DeviceId::new("gateway").ok();
        let gateway = Proof::default().device(&sender, &Defect).unwrap();
        let named = subject(&gateway, Some("child"), &Defect);
        assert_eq!(named, Err(Code::FORBIDDEN));
    }

    #[test]
    fn a_session_outweighs_the_query() {
        let config = IdentityConfig {
            trust_any_id: true,
            ..IdentityConfig::default()
        };
        let sender = Sender {
            address: "10.0.0.7:4000".parse().unwrap(),
            device: DeviceId::new("proved").ok(),
            is_proven: true,
        };
        let device = Proof::read(vec!["$.id=claimed"]).device(&sender, &config);
        assert_eq!(device.unwrap().as_str(), "proved");
    }

    #[test]
    fn only_a_registered_gateway_speaks_for_another() {
        let config: IdentityConfig =
            serde_json::from_str(r#"{"children": {"gateway": ["child"]}}"#).unwrap();
        let id = |text| DeviceId::new(text).unwrap();
        let (gateway, child) = (id("gateway"), id("child"));
        assert_eq!(subject(&gateway, None, &config), Ok(gateway.clone()));
        assert_eq!(subject(&gateway, Some("child"), &config), Ok(child.clone()));
        assert_eq!(subject(&child, Some("child"), &config), Ok(child.clone()));
        assert_eq!(
            subject(&child, Some("gateway"), &config),
            Err(Code::FORBIDDEN)
        );
        assert_eq!(
            subject(&gateway, Some("a/b"), &config),
            Err(Code::BAD_REQUEST)
        );
    }
}
