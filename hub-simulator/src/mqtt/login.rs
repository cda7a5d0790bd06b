//! What a CONNECT says about its sender, taken apart and not yet believed.

use super::bag;

/// The user name of a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UserName<'a> {
    /// `{host}/{device}[/{module}]/?api-version=...`; the query is recommended, not required.
    Hub {
        host: &'a str,
        /// `device` or `device/module`.
        identity: &'a str,
        model_id: Option<String>,
    },
    /// `{id scope}/registrations/{registration id}/api-version=...`.
    Provisioning {
        scope: &'a str,
        registration: &'a str,
    },
}

/// The user name has no form that the hub knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user name has no form that the hub knows")]
pub(crate) struct BadUserName;

impl<'a> UserName<'a> {
    /// Reads a user name; `is_hub` tells whether a first segment names a hub.
    pub(crate) fn parse(
        text: &'a str,
        is_hub: impl FnOnce(&str) -> bool,
    ) -> Result<Self, BadUserName> {
        let (host, rest) = text.split_once('/').ok_or(BadUserName)?;
        let (path, query) = split_query(rest);
        let segments: Vec<&str> = path.split('/').collect();
        match *segments.as_slice() {
            [..] if segments.contains(&"") => Err(BadUserName),
            ["registrations", registration] if !is_hub(host) => Ok(Self::Provisioning {
                scope: host,
                registration,
            }),
            [_] | [_, _] => Ok(Self::Hub {
                host,
                identity: path,
                model_id: parameter(query, "model-id")?,
            }),
            _ => Err(BadUserName),
        }
    }
}

/// Takes the query off: it follows a slash, with or without a question mark, and may hold slashes
/// itself. A question mark elsewhere is part of an id.
fn split_query(text: &str) -> (&str, &str) {
    let at = text.find("/?").or_else(|| text.find("/api-version="));
    match at {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text.strip_suffix('/').unwrap_or(text), ""),
    }
}

/// A parameter of the query, wherever it stands.
fn parameter(query: &str, name: &str) -> Result<Option<String>, BadUserName> {
    let query = query.strip_prefix('?').unwrap_or(query);
    let value = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(own, value)| *own == name && !value.is_empty());
    value
        .map(|(_, value)| bag::decode(value).map_err(|_| BadUserName))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<UserName<'_>, BadUserName> {
        UserName::parse(text, |host| host == "hub.test")
    }

    fn hub<'a>(identity: &'a str, model_id: Option<&str>) -> UserName<'a> {
        UserName::Hub {
            host: "hub.test",
            identity,
            model_id: model_id.map(str::to_owned),
        }
    }

    #[test]
    fn every_form_that_sdks_send_is_read() {
        for (text, expected) in [
            ("hub.test/d/?api-version=2021-04-12", hub("d", None)),
            (
                "hub.test/d/?DeviceClientType=py%2F2&api-version=2019-10-01",
                hub("d", None),
            ),
            (
                "hub.test/d/api-version=2016-11-14&DeviceClientType=c",
                hub("d", None),
            ),
            (
                "hub.test/d/?api-version=2018-06-30&c/1.3.0-beta.1(ard;esp8266)",
                hub("d", None),
            ),
            ("hub.test/d", hub("d", None)),
            ("hub.test/d/", hub("d", None)),
            ("hub.test/d/m/?api-version=2021-04-12", hub("d/m", None)),
            ("hub.test/a?b/?api-version=2021-04-12", hub("a?b", None)),
            (
                "hub.test/d/?model-id=dtmi%3Acom%3Ax%3B1&api-version=2020-09-30",
                hub("d", Some("dtmi:com:x;1")),
            ),
            (
                "hub.test/registrations/?api-version=2021-04-12",
                hub("registrations", None),
            ),
            (
                "hub.test/registrations/m/?api-version=1",
                hub("registrations/m", None),
            ),
            (
                "0ne000/registrations/r-1/api-version=2019-03-31&ClientVersion=x",
                UserName::Provisioning {
                    scope: "0ne000",
                    registration: "r-1",
                },
            ),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "d",
            "hub.test/",
            "hub.test//?api-version=1",
            "hub.test/a/b/c/?api-version=1",
        ] {
            assert_eq!(parse(text), Err(BadUserName), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_user_name_makes_the_parser_panic(text in "[a-z/?=&%.-]{0,60}") {
            drop(parse(&text));
        }
    }
}
