//! Methods and response codes (RFC 7252, section 12.1).

use std::fmt;

/// Says what a message asks or answers: a class of 3 bits and a detail of 5.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(u8);

macro_rules! codes {
    ($($name:ident = $class:literal, $detail:literal, $doc:literal;)*) => {
        impl Code {
            $(#[doc = $doc] pub const $name: Self = Self::new($class, $detail);)*
        }
    };
}

codes! {
    EMPTY = 0, 0, "No message at all: an acknowledgement, a reset or a ping.";
    GET = 0, 1, "Reads.";
    POST = 0, 2, "Processes what the body holds.";
    PUT = 0, 3, "Creates or replaces.";
    DELETE = 0, 4, "Deletes.";
    FETCH = 0, 5, "Reads what the body describes (RFC 8132).";
    PATCH = 0, 6, "Changes a part (RFC 8132).";
    IPATCH = 0, 7, "Changes a part, with the same result when done twice (RFC 8132).";
    CREATED = 2, 1, "Created.";
    DELETED = 2, 2, "Deleted.";
    VALID = 2, 3, "What the client has is still right.";
    CHANGED = 2, 4, "Done.";
    CONTENT = 2, 5, "The body is the answer.";
    CONTINUE = 2, 31, "The next block may come (RFC 7959).";
    BAD_REQUEST = 4, 0, "The request makes no sense.";
    UNAUTHORIZED = 4, 1, "Not by this client.";
    BAD_OPTION = 4, 2, "An option that must be understood is not.";
    FORBIDDEN = 4, 3, "Not allowed.";
    NOT_FOUND = 4, 4, "There is no such resource.";
    METHOD_NOT_ALLOWED = 4, 5, "The resource does not do this.";
    NOT_ACCEPTABLE = 4, 6, "Not in the format asked for.";
    INCOMPLETE = 4, 8, "Blocks are missing (RFC 7959).";
    CONFLICT = 4, 9, "Not in this state (RFC 8132).";
    PRECONDITION_FAILED = 4, 12, "A condition does not hold.";
    TOO_LARGE = 4, 13, "The body is too large.";
    UNSUPPORTED_FORMAT = 4, 15, "The body's format is not understood.";
    TOO_MANY_REQUESTS = 4, 29, "Come back after Max-Age (RFC 8516).";
    INTERNAL_ERROR = 5, 0, "The server failed.";
    NOT_IMPLEMENTED = 5, 1, "The server cannot do this.";
    UNAVAILABLE = 5, 3, "Come back after Max-Age.";
    GATEWAY_TIMEOUT = 5, 4, "The hub did not answer in time.";
    PROXYING_NOT_SUPPORTED = 5, 5, "This is no proxy.";
    CSM = 7, 1, "Tells capabilities and settings (RFC 8323).";
    PING = 7, 2, "Asks whether the peer is there (RFC 8323).";
    PONG = 7, 3, "Answers a ping (RFC 8323).";
    RELEASE = 7, 4, "Asks for the end of the connection (RFC 8323).";
    ABORT = 7, 5, "Ends the connection at once (RFC 8323).";
}

impl Code {
    /// Makes the code `class.detail`, of which 3 and 5 bits count.
    #[must_use]
    pub const fn new(class: u8, detail: u8) -> Self {
        Self((class & 7) << 5 | (detail & 31))
    }

    /// Reads the byte of the header.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The byte of the header.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// The class: 0 request, 2 success, 4 the client's fault, 5 the server's, 7 signalling.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    /// Tells whether it is a request, of a known method or not.
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.class() == 0 && self.0 != 0
    }

    /// Tells whether it is a response.
    #[must_use]
    pub const fn is_response(self) -> bool {
        matches!(self.class(), 2 | 4 | 5)
    }

    /// Tells whether it is a signal of a stream.
    #[must_use]
    pub const fn is_signal(self) -> bool {
        self.class() == 7
    }

    /// Tells whether it is a success.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.class() == 2
    }

    /// Tells whether the method changes nothing, so that it may be done again.
    #[must_use]
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::GET | Self::FETCH)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.class(), self.0 & 31)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
