//! How the provisioning service is set up.

use std::time::Duration;

use super::state::Pace;

/// Sets up the provisioning service that hubs of one cloud share.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProvisioningOptions {
    /// The service's host name; the first hub's by default.
    pub host: Option<String>,
    /// The id scope; `0ne` and eight random hexadecimal digits by default.
    pub id_scope: Option<String>,
    /// When a device is asked to poll again, in whole seconds; default 3 s, as the real service.
    pub retry_after: Duration,
    /// How long an assignment is under way; default 200 ms, about what the real service was seen to
    /// take.
    pub assigning: Duration,
    /// Whether 1000 registrations and operations a minute and 5 polls in 10 s a device are enforced;
    /// default false, so that a fleet comes up quickly.
    pub throttled: bool,
}

impl Default for ProvisioningOptions {
    fn default() -> Self {
        Self {
            host: None,
            id_scope: None,
            retry_after: Duration::from_secs(3),
            assigning: Duration::from_millis(200),
            throttled: false,
        }
    }
}

impl ProvisioningOptions {
    /// Sets the service's host name.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Sets the id scope.
    #[must_use]
    pub fn with_id_scope(mut self, id_scope: impl Into<String>) -> Self {
        self.id_scope = Some(id_scope.into());
        self
    }

    /// Sets when a device is asked to poll again.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// Sets how long an assignment is under way.
    #[must_use]
    pub fn with_assigning(mut self, assigning: Duration) -> Self {
        self.assigning = assigning;
        self
    }

    /// Enforces the service's rate limits, or not.
    #[must_use]
    pub fn with_throttled(mut self, throttled: bool) -> Self {
        self.throttled = throttled;
        self
    }

    pub(super) fn pace(&self) -> Pace {
        Pace {
            retry_after: self.retry_after,
            assigning: self.assigning,
            throttled: self.throttled,
        }
    }
}
