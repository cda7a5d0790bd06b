//! Paths and queries of CoAP requests: what a path means, its resource leads back to; a query has no
//! more than it says; of a twin come the properties that are asked for.
//!
//! Lines that begin with `=` are templates of telemetry's paths, the others are requests; one with a tab
//! is what a FETCH asks for and the properties that there are.
#![no_main]

use gateway_downstream_coap::fuzzing::pick_properties;
use gateway_downstream_coap::proto::message::Code;
use gateway_downstream_coap::proto::resource::{Profile, Query, RouteConfig, Routes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &str)| {
    let (is_hono, text) = input;
    let mut config = RouteConfig::default();
    config.profile = if is_hono { Profile::Hono } else { Profile::Native };
    let (templates, requests): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with('='));
    if !templates.is_empty() {
        config.telemetry = Some(templates.iter().map(|line| line[1..].to_owned()).collect());
    }
    let Ok(routes) = Routes::new(&config) else {
        return;
    };
    for request in requests {
        if let Some((names, properties)) = request.split_once('\t') {
            pick_properties(names, properties);
            continue;
        }
        let (path, query) = request.split_once('?').unwrap_or((request, ""));
        let path: Vec<&str> = path.split('/').collect();
        let query: Vec<&str> = query.split('&').collect();
        for method in [Code::GET, Code::POST, Code::PUT] {
            let Ok(target) = routes.find(method, &path) else {
                continue;
            };
            let named = [target.device, target.request];
            assert!(named.iter().flatten().all(|name| path.contains(name)));
            // Of a path with a tenant, another one may be meant.
            if let Some(path) = routes.path(target.resource, target.device, target.request)
                && let Ok(again) = routes.find(method, &path)
            {
                assert_eq!(again, target);
            }
        }
        if let Ok(read) = Query::parse(config.profile, &query) {
            assert!(read.properties.iter().count() <= query.len());
        }
        assert!(routes.links(&query).payload.len() <= 4096 + 64 * text.len());
    }
});
