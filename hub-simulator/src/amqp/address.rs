//! Link addresses: absolute, rooted or relative; keywords in any case, ids percent-decoded.

use percent_encoding::percent_decode_str;

use super::link::Kind;
use crate::hub::identity;

/// Where an address leads: what kind of link, and whose; for provisioning, which registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    /// The identity: of a device, or `device/module`.
    pub(crate) device: Option<String>,
}

/// Resolves an address for one direction; `None` if nothing is there.
pub(crate) fn resolve(address: &str, peer_receives: bool) -> Option<Place> {
    let segments = segments(address)?;
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let way = |incoming, outgoing| if peer_receives { outgoing } else { incoming };
    if let Some((identity, rest)) = identity::in_path(&words) {
        let is_module = identity::split(&identity).1.is_some();
        return Some(Place {
            kind: of_identity(rest, is_module, peer_receives)?,
            device: Some(identity.into_owned()),
        });
    }
    let kind = match *words.as_slice() {
        [cbs] if is(cbs, "$cbs") => way(Kind::CbsRequests, Kind::CbsReplies),
        [messages, ref rest @ ..] if is(messages, "messages") => of_service(rest, peer_receives)?,
        [scope, registrations, id] if is(registrations, "registrations") => {
            return Some(Place {
                kind: way(Kind::ProvisioningRequests, Kind::ProvisioningReplies),
                device: Some(format!("{scope}/registrations/{id}")),
            });
        }
        _ => return None,
    };
    Some(Place { kind, device: None })
}

fn is(word: &str, keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

/// What lies behind `devices/{id}` or `devices/{id}/modules/{id}`.
fn of_identity(path: &[&str], is_module: bool, peer_receives: bool) -> Option<Kind> {
    let way = |incoming, outgoing| if peer_receives { outgoing } else { incoming };
    Some(match *path {
        [messages, events] if is(messages, "messages") && is(events, "events") => {
            match (peer_receives, is_module) {
                (false, _) => Kind::Telemetry,
                (true, true) => Kind::Inputs,
                (true, false) => return None,
            }
        }
        [messages, bound]
            if is(messages, "messages") && is(bound, "devicebound") && peer_receives =>
        {
            Kind::C2d
        }
        [methods, bound] if is(methods, "methods") && is(bound, "devicebound") => {
            way(Kind::MethodAnswers, Kind::MethodCalls)
        }
        [twin] if is(twin, "twin") => way(Kind::TwinRequests, Kind::TwinReplies),
        _ => return None,
    })
}

/// What lies behind `messages`, for applications.
fn of_service(path: &[&str], peer_receives: bool) -> Option<Kind> {
    match (path, peer_receives) {
        (&[bound], false) if is(bound, "devicebound") => Some(Kind::ServiceC2d),
        (&[bound, what], true) if is(bound, "servicebound") => {
            let known = [
                ("feedback", Kind::Feedback),
                ("filenotifications", Kind::FileNotifications),
            ];
            let found = known.into_iter().find(|(name, _)| is(what, name));
            found.map(|(_, kind)| kind)
        }
        _ => None,
    }
}

/// The device or module that a message's `to` names: `/devices/{id}/messages/devicebound`.
pub(crate) fn c2d_recipient(to: &str) -> Option<String> {
    let place = resolve(to, true)?;
    (place.kind == Kind::C2d).then_some(place.device).flatten()
}

/// The decoded path segments behind scheme and authority.
pub(super) fn segments(address: &str) -> Option<Vec<String>> {
    let path = match address.split_once("://") {
        Some((_scheme, rest)) => rest.split_once('/')?.1,
        None => address.strip_prefix('/').unwrap_or(address),
    };
    path.split('/')
        .map(|segment| Some(percent_decode_str(segment).decode_utf8().ok()?.into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kind: Kind, device: &str) -> Option<Place> {
        Some(Place {
            kind,
            device: Some(device.to_owned()),
        })
    }

    #[test]
    fn every_spelling_of_an_address_leads_to_the_same_place() {
        for address in [
            "amqps://hub.test:5671/devices/dev%201/messages/deviceBound",
            "amqps://hub.test/Devices/dev%201/Messages/devicebound",
            "/devices/dev%201/messages/devicebound",
            "devices/dev 1/messages/DEVICEBOUND",
        ] {
            assert_eq!(
                resolve(address, true),
                place(Kind::C2d, "dev 1"),
                "{address}"
            );
            assert_eq!(resolve(address, false), None, "{address}");
        }
    }

    #[test]
    fn ids_keep_their_case_and_hold_no_slash() {
        assert_eq!(
            resolve("/devices/Dev/messages/events", false),
            place(Kind::Telemetry, "Dev")
        );
        assert_eq!(resolve("/devices/a%2Fb/twin", true), None);
        assert_eq!(resolve("/devices/a/b/twin", true), None);
        assert_eq!(resolve("/devices//twin", true), None);
    }

    #[test]
    fn a_module_has_what_a_device_has_and_inputs_besides() {
        for (rest, peer_receives, kind) in [
            ("messages/events", false, Kind::Telemetry),
            ("messages/events", true, Kind::Inputs),
            ("messages/deviceBound", true, Kind::C2d),
            ("methods/deviceBound", true, Kind::MethodCalls),
            ("methods/deviceBound", false, Kind::MethodAnswers),
            ("twin", true, Kind::TwinReplies),
        ] {
            let address = format!("/devices/d%201/modules/m/{rest}");
            assert_eq!(resolve(&address, peer_receives), place(kind, "d 1/m"));
        }
        assert_eq!(resolve("/devices/d/messages/events", true), None);
        assert_eq!(
            c2d_recipient("/devices/d/modules/m/messages/deviceBound").as_deref(),
            Some("d/m")
        );
    }

    #[test]
    fn feedback_is_received_and_not_sent() {
        for (address, kind) in [
            ("/messages/serviceBound/feedback", Kind::Feedback),
            (
                "amqps://hub.test/messages/servicebound/fileNotifications",
                Kind::FileNotifications,
            ),
        ] {
            let found = Some(Place { kind, device: None });
            assert_eq!(resolve(address, true), found);
            assert_eq!(resolve(address, false), None);
        }
    }

    #[test]
    fn service_addresses_have_no_device() {
        let service = Some(Place {
            kind: Kind::ServiceC2d,
            device: None,
        });
        assert_eq!(resolve("/messages/devicebound", false), service);
        assert_eq!(
            resolve("amqps://hub.test/messages/deviceBound", false),
            service
        );
        assert_eq!(
            c2d_recipient("/devices/d/messages/devicebound").as_deref(),
            Some("d")
        );
    }
}
