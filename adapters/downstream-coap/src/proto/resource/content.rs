//! Content formats and what the hub calls them (IANA, "CoAP Content-Formats").

/// Is a registered content format: its number, its media type and the encoding of its text or its
/// compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentFormat {
    /// The value of Content-Format.
    pub number: u16,
    /// The hub's content type.
    pub media_type: &'static str,
    /// The hub's content encoding.
    pub encoding: Option<&'static str>,
}

const fn text(number: u16, media_type: &'static str) -> ContentFormat {
    let encoding = Some("utf-8");
    ContentFormat {
        number,
        media_type,
        encoding,
    }
}

const fn binary(number: u16, media_type: &'static str) -> ContentFormat {
    let encoding = None;
    ContentFormat {
        number,
        media_type,
        encoding,
    }
}

const fn deflated(number: u16, media_type: &'static str) -> ContentFormat {
    let encoding = Some("deflate");
    ContentFormat {
        number,
        media_type,
        encoding,
    }
}

/// In the order in which a media type is looked for.
const FORMATS: [ContentFormat; 21] = [
    text(0, "text/plain"),
    text(50, "application/json"),
    binary(60, "application/cbor"),
    binary(42, "application/octet-stream"),
    text(110, "application/senml+json"),
    binary(112, "application/senml+cbor"),
    text(111, "application/sensml+json"),
    binary(113, "application/sensml+cbor"),
    text(310, "application/senml+xml"),
    text(320, "application/senml-etch+json"),
    binary(322, "application/senml-etch+cbor"),
    text(40, "application/link-format"),
    text(41, "application/xml"),
    binary(47, "application/exi"),
    text(51, "application/json-patch+json"),
    text(52, "application/merge-patch+json"),
    binary(63, "application/cbor-seq"),
    deflated(11_050, "application/json"),
    deflated(11_060, "application/cbor"),
    binary(11_542, "application/vnd.oma.lwm2m+tlv"),
    text(11_543, "application/vnd.oma.lwm2m+json"),
];

/// Finds what the hub calls a content format; `None` if it is not known here.
#[must_use]
pub fn content_of(number: u16) -> Option<ContentFormat> {
    let mut formats = FORMATS.into_iter();
    formats.find(|format| format.number == number)
}

/// Finds the content format of a media type, whatever parameters it has; `None` if there is none.
#[must_use]
pub fn format_of(media_type: &str, encoding: Option<&str>) -> Option<u16> {
    let name = media_type.split(';').next().unwrap_or_default().trim();
    let is_deflated = encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case("deflate"));
    let mut formats = FORMATS.iter();
    let found = formats.find(|format| {
        format.media_type.eq_ignore_ascii_case(name)
            && (format.encoding == Some("deflate")) == is_deflated
    });
    found.map(|format| format.number)
}
