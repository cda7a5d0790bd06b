//! Link addresses: absolute, rooted or relative; keywords in any case, ids percent-decoded.

use percent_encoding::percent_decode_str;

use super::link::Kind;

/// Where an address leads: what kind of link, and whose; for provisioning, which registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) device: Option<String>,
}

/// Resolves an address for one direction; `None` if nothing is there.
pub(crate) fn resolve(address: &str, peer_receives: bool) -> Option<Place> {
    let segments = segments(address)?;
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let is = |word: &str, keyword: &str| word.eq_ignore_ascii_case(keyword);
    let way = |incoming, outgoing| if peer_receives { outgoing } else { incoming };
    let (kind, device) = match *words.as_slice() {
        [cbs] if is(cbs, "$cbs") => (way(Kind::CbsRequests, Kind::CbsReplies), None),
        [messages, bound]
            if is(messages, "messages") && is(bound, "devicebound") && !peer_receives =>
        {
            (Kind::ServiceC2d, None)
        }
        [devices, id, ref rest @ ..] if is(devices, "devices") && !id.is_empty() => {
            let kind = match *rest {
                [messages, events]
                    if is(messages, "messages") && is(events, "events") && !peer_receives =>
                {
                    Kind::Telemetry
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
            };
            (kind, Some(id.to_owned()))
        }
        [scope, registrations, id] if is(registrations, "registrations") => (
            way(Kind::ProvisioningRequests, Kind::ProvisioningReplies),
            Some(format!("{scope}/registrations/{id}")),
        ),
        _ => return None,
    };
    Some(Place { kind, device })
}

/// The device that a message's `to` names: `/devices/{id}/messages/devicebound`.
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
    fn ids_keep_their_case_and_may_hold_a_slash_only_encoded() {
        assert_eq!(
            resolve("/devices/Dev/messages/events", false),
            place(Kind::Telemetry, "Dev")
        );
        assert_eq!(
            resolve("/devices/a%2Fb/twin", true),
            place(Kind::TwinReplies, "a/b")
        );
        assert_eq!(resolve("/devices/a/b/twin", true), None);
        assert_eq!(resolve("/devices//twin", true), None);
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
