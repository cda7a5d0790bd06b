//! The checks that types cannot make.

use std::time::Duration;

use gateway_core::ConfigError;

use super::{PROBE_INTERVAL, PROBES, TcpConfig, TimeoutConfig};
use crate::proto::Framing;

impl TcpConfig {
    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let sizes = [
            ("limits.max_frame", limits.max_frame, 16, 16 << 20),
            (
                "limits.max_connections",
                limits.max_connections,
                1,
                1_000_000,
            ),
            (
                "limits.max_connections_per_address",
                limits.max_connections_per_address,
                1,
                1_000_000,
            ),
            ("limits.window", limits.window, 1, 64),
            ("limits.max_commands", limits.max_commands, 1, 1_000),
            ("limits.max_unwritten", limits.max_unwritten, 1024, 16 << 20),
        ];
        for (key, value, least, most) in sizes {
            ConfigError::check_range(key, value, least, most)?;
        }
        self.timeouts.validate()?;
        self.validate_identity()?;
        self.validate_framing()
    }

    fn validate_identity(&self) -> Result<(), ConfigError> {
        let asks_for_certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if self.identity.certificate && !asks_for_certificates {
            return Err(ConfigError::new(
                "identity.certificate",
                "is true, but no client is asked for a certificate",
                "false, or set tls.client_ca",
            ));
        }
        if self
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_certificate_required)
            && !asks_for_certificates
        {
            return Err(ConfigError::new(
                "tls.client_certificate_required",
                "is true without roots to judge by",
                "false, or set tls.client_ca",
            ));
        }
        let has_secrets = !self.identity.secrets.is_empty() || self.identity.secrets_file.is_some();
        if self.identity.trust_any_id && has_secrets {
            return Err(ConfigError::new(
                "identity.trust_any_id",
                "is true, so that the secrets would protect nothing",
                "false, or no secrets",
            ));
        }
        Ok(())
    }

    fn validate_framing(&self) -> Result<(), ConfigError> {
        let framing = &self.json_lines.framing;
        framing
            .validate(self.limits.max_frame)
            .map_err(|error| error.within("json_lines"))?;
        match framing {
            // Any other byte may stand in a JSON text.
            Framing::Delimiter { delimiter } if delimiter.iter().any(|byte| *byte >= b' ') => {
                Err(ConfigError::new(
                    "json_lines.framing.delimiter",
                    "has a byte that JSON may contain",
                    "bytes 0 to 31",
                ))
            }
            Framing::Fixed { .. } => Err(ConfigError::new(
                "json_lines.framing.kind",
                "is fixed, which JSON objects are not",
                "line, delimiter, length_prefixed",
            )),
            _ => Ok(()),
        }
    }
}

impl TimeoutConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let short = Duration::from_millis(1);
        // Whole seconds are what systems take.
        let second = Duration::from_secs(1);
        let times = [
            ("timeouts.hello", self.hello, short, 24),
            ("timeouts.idle", self.idle, short, 24),
            ("timeouts.frame", self.frame, short, 24),
            ("timeouts.write", self.write, short, 24),
            ("timeouts.command", self.command, short, 24),
            // Linux takes 32,767 s.
            ("timeouts.keepalive", self.keepalive, second, 9),
            ("timeouts.tcp_user", self.tcp_user, second, 24),
        ];
        for (key, value, least, hours) in times {
            if !(least..=Duration::from_secs(hours * 3600)).contains(&value) {
                let allowed = format!("{least:?} to {hours}h");
                return Err(ConfigError::new(key, format!("is {value:?}"), allowed));
            }
        }
        let asked = self.keepalive + PROBES * PROBE_INTERVAL;
        if self.tcp_user < asked {
            let problem = format!(
                "is {:?}, in which TCP has not asked a silent peer {PROBES} times",
                self.tcp_user
            );
            let allowed = format!("{asked:?} or more, after timeouts.keepalive");
            return Err(ConfigError::new("timeouts.tcp_user", problem, allowed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TcpConfig, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn the_defaults_are_valid() {
        TcpConfig::default().validate().unwrap();
    }

    #[test]
    fn a_wrong_key_or_value_names_itself() {
        let error = parse(r#"{"limits": {"window_size": 3}}"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("window_size") && error.contains("`window`"),
            "{error}"
        );
        for (text, expected) in [
            (
                r#"{"limits": {"window": 0}}"#,
                "`limits.window` is 0; allowed: 1 to 64",
            ),
            (
                r#"{"timeouts": {"hello": "0s"}}"#,
                "`timeouts.hello` is 0ns; allowed: 1ms to 24h",
            ),
            (
                r#"{"timeouts": {"keepalive": "10h"}}"#,
                "`timeouts.keepalive` is 36000s; allowed: 1s to 9h",
            ),
            (
                r#"{"timeouts": {"tcp_user": "89s"}}"#,
                "`timeouts.tcp_user` is 89s, in which TCP has not asked a silent peer 3 times; \
                 allowed: 90s or more, after timeouts.keepalive",
            ),
            (
                r#"{"identity": {"certificate": true}}"#,
                "`identity.certificate` is true, but no client is asked for a certificate; \
                 allowed: false, or set tls.client_ca",
            ),
            (
                r#"{"json_lines": {"framing": {"kind": "delimiter", "delimiter": "}"}}}"#,
                "`json_lines.framing.delimiter` has a byte that JSON may contain; \
                 allowed: bytes 0 to 31",
            ),
            (
                r#"{"json_lines": {"framing": {"kind": "length_prefixed", "bytes": 3}}}"#,
                "`json_lines.framing.bytes` is 3; allowed: 1, 2, 4",
            ),
        ] {
            let error = parse(text).unwrap().validate().unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn every_framing_can_be_written_down() {
        for (text, framing) in [
            (r#"{"kind": "line"}"#, Framing::Line),
            (
                r#"{"kind": "delimiter", "delimiter": "\r\n"}"#,
                Framing::Delimiter {
                    delimiter: b"\r\n".to_vec(),
                },
            ),
            (
                r#"{"kind": "delimiter", "delimiter": [255, 0]}"#,
                Framing::Delimiter {
                    delimiter: vec![255, 0],
                },
            ),
            (
                r#"{"kind": "length_prefixed", "bytes": 2, "endian": "little"}"#,
                Framing::LengthPrefixed {
                    bytes: 2,
                    endian: crate::proto::Endian::Little,
                    includes_header: false,
                },
            ),
            (
                r#"{"kind": "fixed", "size": 32}"#,
                Framing::Fixed { size: 32 },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Framing>(text).unwrap(), framing);
        }
    }

    #[test]
    fn lines_have_no_settings() {
        let wrong = r#"{"kind": "line", "delimiter": "\u0000"}"#;
        let error = serde_json::from_str::<Framing>(wrong).unwrap_err();
        assert!(error.to_string().contains("`delimiter`"), "{error}");
    }

    #[test]
    fn secrets_do_not_show() {
        let config = parse(r#"{"identity": {"secrets": {"dev1": "hidden"}}}"#).unwrap();
        assert!(!format!("{config:?}").contains("hidden"));
    }
}
