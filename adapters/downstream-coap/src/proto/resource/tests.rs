use std::time::Duration;

use bytes::Bytes;
use gateway_core::{ErrorKind, Settlement};
use proptest::prelude::*;

use super::*;
use crate::proto::message::{Code, option};

type Child = Option<&'static str>;
type Request = Option<&'static str>;

fn routes(profile: Profile) -> Routes {
    let config = RouteConfig {
        profile,
        ..RouteConfig::default()
    };
    Routes::new(&config).unwrap()
}

#[test]
fn native_paths_are_for_the_device_and_for_a_gateways_children() {
    let routes = routes(Profile::Native);
    let cases: [(Code, &[&str], Resource, Child, Request); 8] = [
        (Code::POST, &["t"], Resource::Telemetry, None, None),
        (Code::PUT, &["e"], Resource::Event, None, None),
        (Code::GET, &["c"], Resource::Command, None, None),
        (
            Code::POST,
            &["r", "17"],
            Resource::CommandResponse,
            None,
            Some("17"),
        ),
        (Code::GET, &["twin"], Resource::Twin, None, None),
        (
            Code::IPATCH,
            &["twin", "reported"],
            Resource::Reported,
            None,
            None,
        ),
        (
            Code::GET,
            &["d", "dev-2", "twin", "desired"],
            Resource::Desired,
            Some("dev-2"),
            None,
        ),
        (
            Code::GET,
            &[".well-known", "core"],
            Resource::WellKnown,
            None,
            None,
        ),
    ];
    for (method, path, resource, device, request) in cases {
        let target = Target {
            resource,
            device,
            request,
        };
        assert_eq!(routes.find(method, path), Ok(target), "{path:?}");
    }
    assert_eq!(
        routes.find(Code::GET, &["t"]),
        Err(Code::METHOD_NOT_ALLOWED)
    );
    for wrong in [
        &[][..],
        &["x"],
        &["t", ""],
        &["r"],
        &["r", ""],
        &["d", "", "t"],
    ] {
        assert_eq!(
            routes.find(Code::POST, wrong),
            Err(Code::NOT_FOUND),
            "{wrong:?}"
        );
    }
}

#[test]
fn honos_paths_work_with_and_without_a_tenant() {
    let routes = routes(Profile::Hono);
    let cases: [(&[&str], Resource, Child, Request); 6] = [
        (&["t"], Resource::Telemetry, None, None),
        (&["telemetry"], Resource::Telemetry, None, None),
        (
            &["t", "DEFAULT_TENANT", "4711"],
            Resource::Telemetry,
            Some("4711"),
            None,
        ),
        (&["event", "", "4711"], Resource::Event, Some("4711"), None),
        (&["cr", "abc"], Resource::CommandResponse, None, Some("abc")),
        (
            &["command_response", "", "4711", "abc"],
            Resource::CommandResponse,
            Some("4711"),
            Some("abc"),
        ),
    ];
    for (path, resource, device, request) in cases {
        let target = Target {
            resource,
            device,
            request,
        };
        assert_eq!(routes.find(Code::PUT, path), Ok(target), "{path:?}");
    }
    assert_eq!(routes.find(Code::GET, &["twin"]), Err(Code::NOT_FOUND));
}

#[test]
fn a_path_that_makes_no_sense_names_itself() {
    let error = |text: &str| {
        let config: RouteConfig = serde_json::from_str(text).unwrap();
        Routes::new(&config).unwrap_err().to_string()
    };
    for (text, part) in [
        (r#"{"telemetry": ["{x}"]}"#, "`telemetry` has `{x}`"),
        (r#"{"events": [""]}"#, "at least one segment"),
        (r#"{"events": ["a//b"]}"#, "no empty segment"),
        (r#"{"events": ["t"]}"#, "no other path may mean"),
        (r#"{"events": ["{device}"]}"#, "no other path may mean"),
        (r#"{"twin": ["{device}/{device}"]}"#, "at most"),
        (r#"{"commands": ["c/{request}"]}"#, "command_responses only"),
        (r#"{"command_responses": ["r"]}"#, "with {request}"),
    ] {
        let error = error(text);
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(serde_json::from_str::<RouteConfig>(r#"{"telemetri": []}"#).is_err());
}

#[test]
fn paths_of_ones_own_take_the_place_of_the_defaults() {
    let config: RouteConfig =
        serde_json::from_str(r#"{"telemetry": ["/up/{tenant}/{device}", "up"], "events": []}"#)
            .unwrap();
    let routes = Routes::new(&config).unwrap();
    let target = routes.find(Code::POST, &["up", "any", "dev-1"]).unwrap();
    assert_eq!(target.device, Some("dev-1"));
    assert_eq!(routes.find(Code::POST, &["t"]), Err(Code::NOT_FOUND));
    assert_eq!(routes.find(Code::POST, &["e"]), Err(Code::NOT_FOUND));
    assert!(routes.find(Code::GET, &["c"]).is_ok());
}

proptest! {
    /// Where a device is told to answer is where its answer is found.
    #[test]
    fn a_command_is_answered_where_it_says(
        request in "[a-z0-9]{1,20}", device in proptest::option::of("[a-z0-9]{1,20}"), is_hono: bool,
    ) {
        let routes = routes(if is_hono { Profile::Hono } else { Profile::Native });
        let command = CommandAnswer {
            code: Code::CHANGED,
            device: device.as_deref(),
            name: Some("open"),
            request: Some(&request),
            content: (Some("application/json"), Some("utf-8")),
            body: Bytes::from_static(b"{}"),
        };
        let message = command.message(&routes).unwrap();
        let path: Vec<_> = message
            .options
            .all(option::LOCATION_PATH)
            .map(|segment| std::str::from_utf8(segment).unwrap())
            .collect();
        let expected = Target {
            resource: Resource::CommandResponse,
            device: device.as_deref(),
            request: Some(&request),
        };
        prop_assert_eq!(routes.find(Code::POST, &path), Ok(expected));
        prop_assert_eq!(message.options.uint(option::CONTENT_FORMAT), Some(50));
        let name = message.options.get(option::LOCATION_QUERY).unwrap();
        let name = std::str::from_utf8(name).unwrap();
        prop_assert_eq!(name, if is_hono { "hono-command=open" } else { "command=open" });
    }

    #[test]
    fn any_query_is_read_or_refused_and_its_properties_are_what_it_says(
        parts in proptest::collection::vec("[ -~]{0,12}", 0..70), is_hono: bool,
    ) {
        let profile = if is_hono { Profile::Hono } else { Profile::Native };
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        if let Ok(query) = Query::parse(profile, &parts) {
            prop_assert!(parts.len() <= 64);
            for (name, value) in query.properties.iter() {
                let part = format!("{name}={value}");
                prop_assert!(parts.contains(&part.as_str()) || parts.contains(&name));
            }
        }
    }
}

#[test]
fn a_one_way_command_names_the_path_of_commands_as_hono_does() {
    let command = CommandAnswer {
        code: Code::CHANGED,
        device: Some("4711"),
        name: Some("open"),
        request: None,
        content: (None, None),
        body: Bytes::new(),
    };
    let message = command.message(&routes(Profile::Hono)).unwrap();
    let path: Vec<_> = message.options.all(option::LOCATION_PATH).collect();
    assert_eq!(path, ["c", "", "4711"]);
    assert!(!message.options.has(option::CONTENT_FORMAT));
}

#[test]
fn the_query_says_what_the_message_is_and_the_rest_is_its_properties() {
    let parts = [
        "$.mid=m1",
        "$.ct=text/csv",
        "$.ttd=30",
        "site=north",
        "flag",
    ];
    let query = Query::parse(Profile::Native, &parts).unwrap();
    assert_eq!(query.id.unwrap().as_str(), "m1");
    assert_eq!(query.system.content_type.as_deref(), Some("text/csv"));
    assert_eq!(query.wait, Some(Duration::from_secs(30)));
    let properties: Vec<_> = query.properties.iter().collect();
    assert_eq!(properties, [("site", "north"), ("flag", "")]);
    let hono = Query::parse(Profile::Hono, &["hono-ttd=5", "empty", "$.x=1"]).unwrap();
    assert_eq!(hono.wait, Some(Duration::from_secs(5)));
    assert!(hono.is_empty);
    assert_eq!(hono.properties.get("$.x"), Some("1"));
    let status = Query::parse(Profile::Hono, &["hono-cmd-status=200"]).unwrap();
    assert_eq!(status.status, Some(200));
    for (part, error) in [
        ("$.x=1", QueryError::Unknown("$.x".into())),
        ("$.ttd=soon", QueryError::Value("$.ttd".into())),
        ("$.mid=", QueryError::Value("$.mid".into())),
        ("=1", QueryError::NoName),
    ] {
        assert_eq!(Query::parse(Profile::Native, &[part]), Err(error));
    }
}

#[test]
fn content_formats_are_media_types_both_ways() {
    for (number, media_type, encoding) in [
        (50, "application/json", Some("utf-8")),
        (60, "application/cbor", None),
        (0, "text/plain", Some("utf-8")),
        (11_050, "application/json", Some("deflate")),
        (11_542, "application/vnd.oma.lwm2m+tlv", None),
    ] {
        let format = content_of(number).unwrap();
        assert_eq!((format.media_type, format.encoding), (media_type, encoding));
        assert_eq!(format_of(media_type, encoding), Some(number));
    }
    assert_eq!(format_of("Application/JSON; charset=utf-8", None), Some(50));
    assert_eq!(format_of("video/mp4", None), None);
    assert_eq!(content_of(65_000), None);
}

#[test]
fn only_an_accepted_message_is_changed_and_what_may_come_later_says_when() {
    let message = settled(Settlement::Accepted);
    assert_eq!(message.code, Code::CHANGED);
    for (after, seconds) in [(0, 1), (1, 1), (1001, 2), (90_000, 90)] {
        let message = settled(Settlement::RetryLater(Duration::from_millis(after)));
        assert_eq!(message.code, Code::UNAVAILABLE);
        assert_eq!(message.options.uint(option::MAX_AGE), Some(seconds));
    }
    for (kind, code) in [
        (ErrorKind::Rejected, Code::BAD_REQUEST),
        (ErrorKind::Unauthorized, Code::FORBIDDEN),
        (ErrorKind::TooLarge, Code::TOO_LARGE),
        (ErrorKind::Unsupported, Code::NOT_IMPLEMENTED),
    ] {
        let message = settled(Settlement::Rejected(kind));
        assert_eq!(message.code, code);
        assert_eq!(message.payload, kind.as_str());
    }
}

#[test]
fn the_resources_are_listed_and_chosen() {
    let routes = routes(Profile::Native);
    let text = |query: &[&str]| {
        let message = routes.links(query);
        assert_eq!(message.options.uint(option::CONTENT_FORMAT), Some(40));
        String::from_utf8(message.payload.to_vec()).unwrap()
    };
    assert_eq!(
        text(&[]),
        "</t>;rt=\"telemetry\",</e>;rt=\"event\",</c>;rt=\"command\";obs,</twin>;rt=\"twin\",\
         </twin/reported>;rt=\"twin.reported\",</twin/desired>;rt=\"twin.desired\";obs"
    );
    assert_eq!(text(&["rt=command"]), "</c>;rt=\"command\";obs");
    assert_eq!(text(&["href=/t", "rt=tele*"]), "</t>;rt=\"telemetry\"");
    assert_eq!(text(&["rt=other"]), "");
}
