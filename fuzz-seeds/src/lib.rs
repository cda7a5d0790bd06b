//! Keeps what tests put on the wire as seeds of fuzz targets.
//!
//! It belongs to no program: tests hand in what they say and hear, and nothing becomes of it unless
//! [`FOLDER`] is set, as `fuzz/make-seeds` does.

mod tap;

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::{env, fs};

pub use tap::tap;

/// The environment variable that names the folder where seeds are kept; without it none are.
pub const FOLDER: &str = "FUZZ_SEEDS";

/// Bytes of the longest seed: what libFuzzer makes of it is as long at least, and slower.
pub const LONGEST: usize = 4096;

fn folder() -> Option<OsString> {
    env::var_os(FOLDER)
}

/// Tells whether seeds are kept.
#[must_use]
pub fn are_kept() -> bool {
    folder().is_some()
}

/// Keeps a seed of a target, under a name that says what is in it; one that is too long is not kept.
///
/// # Panics
/// Panics if it cannot be written.
pub fn keep(target: &str, seed: &[u8]) {
    let Some(folder) = folder() else { return };
    if seed.len() > LONGEST {
        return;
    }
    let mut name = DefaultHasher::new();
    name.write(seed);
    let folder = Path::new(&folder).join(target);
    let written = fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join(format!("{:016x}", name.finish())), seed));
    written.expect("the folder of seeds can be written to");
}

/// Is what one side of a connection says: a seed once it has said all, or [as much](LONGEST) as a
/// seed may have.
#[derive(Debug)]
pub struct Conversation {
    target: &'static str,
    /// Of it, what the target is told beside the bytes.
    head: usize,
    seed: Vec<u8>,
    is_full: bool,
}

impl Conversation {
    /// Begins a seed of a target, which is told `head` before what is said.
    #[must_use]
    pub fn new(target: &'static str, head: &[u8]) -> Self {
        Self {
            target,
            head: head.len(),
            seed: head.to_vec(),
            is_full: !are_kept(),
        }
    }

    /// Notes what is said. Nothing more is noted behind the first that is too much.
    pub fn say(&mut self, bytes: &[u8]) {
        self.is_full |= self.seed.len() + bytes.len() > LONGEST;
        if !self.is_full {
            self.seed.extend_from_slice(bytes);
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if self.seed.len() > self.head {
            keep(self.target, &self.seed);
        }
    }
}
