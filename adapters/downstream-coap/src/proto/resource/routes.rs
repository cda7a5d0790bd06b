//! The table of paths.

use gateway_core::ConfigError;
use serde::Deserialize;

use super::template::{Places, Template};
use crate::proto::message::Code;

/// Names the purposes of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Takes telemetry.
    Telemetry,
    /// Takes events: messages that are not to be lost.
    Event,
    /// Gives commands: observed, or asked for.
    Command,
    /// Takes the answer to a command.
    CommandResponse,
    /// Gives the whole twin.
    Twin,
    /// Takes changes of the reported properties.
    Reported,
    /// Gives the desired properties: read, or observed.
    Desired,
    /// Tells which resources there are (RFC 6690).
    WellKnown,
}

impl Resource {
    /// The methods that it takes.
    #[must_use]
    pub const fn methods(self) -> &'static [Code] {
        match self {
            Self::Telemetry | Self::Event | Self::CommandResponse => &[Code::POST, Code::PUT],
            Self::Reported => &[Code::PATCH, Code::IPATCH, Code::POST],
            Self::Twin | Self::Desired => &[Code::GET, Code::FETCH],
            Self::Command | Self::WellKnown => &[Code::GET],
        }
    }

    /// Tells whether it can be observed.
    #[must_use]
    pub const fn is_observable(self) -> bool {
        matches!(self, Self::Command | Self::Desired)
    }
}

/// Names a set of paths and query parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Profile {
    /// `t`, `e`, `c`, `r/{request}`, `twin`, `twin/reported`, `twin/desired`; the same below
    /// `d/{device}` for a gateway's children.
    #[default]
    Native,
    /// The paths and parameters of Eclipse Hono's CoAP adapter, so that a fleet can move without new
    /// firmware. Twins have none.
    Hono,
}

/// Which path means what. Every field has a default.
///
/// A path may have `{device}`, the id of a gateway's child, `{tenant}`, which is not looked at, and
/// `{request}`, which paths of command responses must have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RouteConfig {
    /// The paths of those resources that are not named below. Default: native.
    pub profile: Profile,
    /// Paths of telemetry.
    pub telemetry: Option<Vec<String>>,
    /// Paths of events.
    pub events: Option<Vec<String>>,
    /// Paths where commands are got.
    pub commands: Option<Vec<String>>,
    /// Paths of answers to commands.
    pub command_responses: Option<Vec<String>>,
    /// Paths of the whole twin.
    pub twin: Option<Vec<String>>,
    /// Paths of reported properties.
    pub reported: Option<Vec<String>>,
    /// Paths of desired properties.
    pub desired: Option<Vec<String>>,
}

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The purpose.
    pub resource: Resource,
    /// The child that the sender speaks for; `None` if it speaks for itself.
    pub device: Option<&'a str>,
    /// The command that is answered.
    pub request: Option<&'a str>,
}

/// Finds what a path means.
#[derive(Debug, Clone)]
pub struct Routes {
    profile: Profile,
    pub(super) table: Vec<(Resource, Template)>,
}

impl Routes {
    /// Makes the table.
    ///
    /// # Errors
    /// A path makes no sense, or may mean two things: names the first.
    pub fn new(config: &RouteConfig) -> Result<Self, ConfigError> {
        use Resource::{Command, CommandResponse, Desired, Event, Reported, Telemetry, Twin};
        let sets = [
            ("telemetry", Telemetry, &config.telemetry),
            ("events", Event, &config.events),
            ("commands", Command, &config.commands),
            (
                "command_responses",
                CommandResponse,
                &config.command_responses,
            ),
            ("twin", Twin, &config.twin),
            ("reported", Reported, &config.reported),
            ("desired", Desired, &config.desired),
        ];
        let well_known = Template::parse(".well-known/core");
        let mut table: Vec<_> = well_known
            .into_iter()
            .map(|template| (Resource::WellKnown, template))
            .collect();
        for (key, resource, paths) in sets {
            let defaults = || {
                let paths = config.profile.paths(resource);
                paths.iter().map(|path| (*path).to_owned()).collect()
            };
            for path in paths.clone().unwrap_or_else(defaults) {
                let error = |allowed: &str| {
                    let found = format!("has `{path}`");
                    Err(ConfigError::new(key, found, allowed))
                };
                let template = match Template::parse(&path) {
                    Ok(template) => template,
                    Err(allowed) => return error(allowed),
                };
                match (resource, template.has_request()) {
                    (CommandResponse, false) => return error("a path with {request}"),
                    (CommandResponse, true) | (_, false) => {}
                    (_, true) => return error("{request} in command_responses only"),
                }
                let mut others = table.iter();
                if others.any(|(_, other): &(_, Template)| other.overlaps(&template)) {
                    return error("a path that no other path may mean");
                }
                table.push((resource, template));
            }
        }
        let profile = config.profile;
        Ok(Self { profile, table })
    }

    /// The set of paths and parameters that was chosen.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Finds what a request is for.
    ///
    /// # Errors
    /// 4.04 if no path fits, 4.05 if it is not for this method.
    pub fn find<'a>(&self, method: Code, path: &[&'a str]) -> Result<Target<'a>, Code> {
        let mut table = self.table.iter();
        let found = table.find_map(|(resource, template)| Some((*resource, template.find(path)?)));
        let (resource, Places { device, request }) = found.ok_or(Code::NOT_FOUND)?;
        match resource.methods().contains(&method) {
            true => Ok(Target {
                resource,
                device,
                request,
            }),
            false => Err(Code::METHOD_NOT_ALLOWED),
        }
    }

    /// The segments of where a device finds or answers: the path of a resource for this child and
    /// command. `None` if the configuration has no such path.
    #[must_use]
    pub fn path<'a>(
        &'a self,
        resource: Resource,
        device: Option<&'a str>,
        request: Option<&'a str>,
    ) -> Option<Vec<&'a str>> {
        let mut table = self.table.iter();
        let is_meant = |(other, template): &&(Resource, Template)| {
            *other == resource
                && template.has_device() == device.is_some()
                && template.has_request() == request.is_some()
        };
        let (_, template) = table.find(is_meant)?;
        Some(template.fill(Places { device, request }).collect())
    }
}

impl Profile {
    /// Its paths, the preferred first. Hono's: `site/documentation/content/user-guide/
    /// coap-adapter.md` of eclipse-hono/hono.
    const fn paths(self, resource: Resource) -> &'static [&'static str] {
        use Resource::{
            Command, CommandResponse, Desired, Event, Reported, Telemetry, Twin, WellKnown,
        };
        match (self, resource) {
            (_, WellKnown) => &[],
            (Self::Native, Telemetry) => &["t", "d/{device}/t"],
            (Self::Native, Event) => &["e", "d/{device}/e"],
            (Self::Native, Command) => &["c", "d/{device}/c"],
            (Self::Native, CommandResponse) => &["r/{request}", "d/{device}/r/{request}"],
            (Self::Native, Twin) => &["twin", "d/{device}/twin"],
            (Self::Native, Reported) => &["twin/reported", "d/{device}/twin/reported"],
            (Self::Native, Desired) => &["twin/desired", "d/{device}/twin/desired"],
            (Self::Hono, Telemetry) => &[
                "t",
                "telemetry",
                "t/{tenant}/{device}",
                "telemetry/{tenant}/{device}",
            ],
            (Self::Hono, Event) => &[
                "e",
                "event",
                "e/{tenant}/{device}",
                "event/{tenant}/{device}",
            ],
            // Hono gives commands in answers only; the path names them there.
            (Self::Hono, Command) => &["c", "c/{tenant}/{device}"],
            (Self::Hono, CommandResponse) => &[
                "cr/{request}",
                "command_response/{request}",
                "cr/{tenant}/{device}/{request}",
                "command_response/{tenant}/{device}/{request}",
            ],
            (Self::Hono, Twin | Reported | Desired) => &[],
        }
    }
}
