//! Names of application properties as their senders spell them.
//!
//! Names of headers have no case (RFC 9110 section 5.1), and the HTTP library writes them small; the
//! hub tells names of properties with the capitals that they came with, over HTTP as well.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::telemetry::APPLICATION;

/// Longest name that is noted.
const MAX_NAME: usize = 256;
/// Names after which a connection's older ones are forgotten: as many as one request has, so that its
/// own are never among them.
const MAX_NAMES: usize = super::MAX_FIELDS;

/// The spellings that a connection has seen last, by the name in small letters.
#[derive(Debug, Default)]
pub(super) struct Spellings(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    newer: HashMap<String, String>,
    /// What was noted before, until there are as many again.
    older: HashMap<String, String>,
}

impl Spellings {
    /// A header's name as it was spelt.
    pub(super) fn of(&self, name: &str) -> String {
        let spellings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spellings
            .newer
            .get(name)
            .or_else(|| spellings.older.get(name));
        found.map_or(name, String::as_str).to_owned()
    }

    fn note(&self, name: &str) {
        let small = name.to_ascii_lowercase();
        let mut spellings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spellings.newer.len() >= MAX_NAMES {
            spellings.older = std::mem::take(&mut spellings.newer);
        }
        spellings.newer.insert(small, name.to_owned());
    }
}

/// Notes the spellings in all that is read of a line, wherever a line of text begins like a header of
/// an application property. What stands in a body does no harm: it spells names of its own sender.
#[derive(Debug)]
pub(super) struct SpellingLine<L> {
    line: L,
    spellings: Arc<Spellings>,
    /// The beginning of the current line of text, while it may be such a header.
    begun: Option<Vec<u8>>,
}

impl<L> SpellingLine<L> {
    pub(super) fn new(line: L, spellings: Arc<Spellings>) -> Self {
        Self {
            line,
            spellings,
            begun: None,
        }
    }

    pub(super) fn into_inner(self) -> L {
        self.line
    }

    fn watch(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            let Some(begun) = &mut self.begun else {
                let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                    return;
                };
                bytes = &bytes[end + 1..];
                self.begun = Some(Vec::new());
                continue;
            };
            let expected = APPLICATION.as_bytes().get(begun.len());
            match (first, expected) {
                (b':', None) => {
                    if let Ok(name) = std::str::from_utf8(begun) {
                        self.spellings.note(name);
                    }
                    self.begun = None;
                }
                (b'\n', _) => begun.clear(),
                (byte, Some(expected)) if !byte.eq_ignore_ascii_case(expected) => {
                    self.begun = None;
                }
                _ if begun.len() >= MAX_NAME => self.begun = None,
                (byte, _) => begun.push(*byte),
            }
            bytes = rest;
        }
    }
}

impl<L: AsyncRead + Unpin> AsyncRead for SpellingLine<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let result = Pin::new(&mut self.line).poll_read(cx, into);
        self.watch(&into.filled()[before..]);
        result
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for SpellingLine<L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.line).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: &str = "POST / HTTP/1.1\r\nHost: h\r\niothub-app-TempAlert: yes\r\n\
                           IoTHub-App-low: 1\r\niothub-app-Colon:y:z\r\n\r\nbody";

    #[test]
    fn however_many_names_came_before_the_latest_are_known() {
        let spellings = Spellings::default();
        for number in 0..10 * MAX_NAMES {
            spellings.note(&format!("iothub-app-Name{number}"));
            for latest in number.saturating_sub(MAX_NAMES - 1)..=number {
                let small = format!("iothub-app-name{latest}");
                if latest % 100 == number % 100 {
                    assert_eq!(spellings.of(&small), format!("iothub-app-Name{latest}"));
                }
            }
        }
        let noted = spellings.0.into_inner().unwrap();
        assert!(noted.newer.len() + noted.older.len() <= 2 * MAX_NAMES);
    }

    proptest! {
        #[test]
        fn names_are_noted_however_the_reads_are_cut(cuts in proptest::collection::vec(0..REQUEST.len(), 0..8)) {
            let spellings = Arc::new(Spellings::default());
            let mut line = SpellingLine::new((), Arc::clone(&spellings));
            let mut cuts = cuts;
            cuts.extend([0, REQUEST.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                line.watch(&REQUEST.as_bytes()[pair[0]..pair[1]]);
            }
            prop_assert_eq!(spellings.of("iothub-app-tempalert"), "iothub-app-TempAlert");
            prop_assert_eq!(spellings.of("iothub-app-low"), "IoTHub-App-low");
            prop_assert_eq!(spellings.of("iothub-app-colon"), "iothub-app-Colon");
            prop_assert_eq!(spellings.of("iothub-app-other"), "iothub-app-other");
        }

        #[test]
        fn nothing_makes_it_hold_much(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut line = SpellingLine::new((), Arc::new(Spellings::default()));
            line.watch(b"\n");
            line.watch(&bytes);
            prop_assert!(line.begun.is_none_or(|begun| begun.len() <= MAX_NAME));
        }
    }
}
