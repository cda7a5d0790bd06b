//! Paths with places for a device's id and a request's.

use std::fmt;

/// One segment of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Text(String),
    Device,
    Request,
    /// Any text, even none; it is not looked at.
    Tenant,
}

/// A path to be compared with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Segment>);

/// What a path had in a template's places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Places<'a> {
    pub(super) device: Option<&'a str>,
    pub(super) request: Option<&'a str>,
}

impl Template {
    /// Reads a template; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.strip_prefix('/').unwrap_or(text);
        if text.is_empty() {
            return Err("a path of at least one segment");
        }
        let segments: Vec<_> = text
            .split('/')
            .map(Segment::parse)
            .collect::<Result<_, _>>()?;
        let count = |wanted: &Segment| segments.iter().filter(|one| *one == wanted).count();
        if count(&Segment::Device) > 1 || count(&Segment::Request) > 1 {
            return Err("one {device} and one {request} at most");
        }
        Ok(Self(segments))
    }

    pub(super) fn find<'a>(&self, path: &[&'a str]) -> Option<Places<'a>> {
        if path.len() != self.0.len() {
            return None;
        }
        let mut places = Places::default();
        for (segment, found) in self.0.iter().zip(path) {
            match segment {
                Segment::Text(text) if text == found => {}
                Segment::Tenant => {}
                Segment::Device if !found.is_empty() => places.device = Some(found),
                Segment::Request if !found.is_empty() => places.request = Some(found),
                _ => return None,
            }
        }
        Some(places)
    }

    pub(super) fn has_device(&self) -> bool {
        self.0.contains(&Segment::Device)
    }

    pub(super) fn has_request(&self) -> bool {
        self.0.contains(&Segment::Request)
    }

    /// Tells whether it has no place to be filled.
    pub(super) fn is_plain(&self) -> bool {
        let mut segments = self.0.iter();
        segments.all(|segment| matches!(segment, Segment::Text(_)))
    }

    /// Tells whether some path fits both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let may_equal = |(one, other): (&Segment, &Segment)| match (one, other) {
            (Segment::Text(one), Segment::Text(other)) => one == other,
            _ => true,
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(may_equal)
    }

    /// The segments with the places filled.
    pub(super) fn fill<'a>(&'a self, places: Places<'a>) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(move |segment| match segment {
            Segment::Text(text) => text,
            Segment::Device => places.device.unwrap_or_default(),
            Segment::Request => places.request.unwrap_or_default(),
            Segment::Tenant => "",
        })
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "{device}" => Ok(Self::Device),
            "{request}" => Ok(Self::Request),
            "{tenant}" => Ok(Self::Tenant),
            "" => Err("no empty segment"),
            _ if text.contains(['{', '}']) => Err("{device}, {request} or {tenant}"),
            _ if text.len() > 255 => Err("segments of at most 255 bytes"),
            _ => Ok(Self::Text(text.to_owned())),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| {
            let text = match segment {
                Segment::Text(text) => text,
                Segment::Device => "{device}",
                Segment::Request => "{request}",
                Segment::Tenant => "{tenant}",
            };
            write!(f, "/{text}")
        })
    }
}
