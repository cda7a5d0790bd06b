//! The value of Block1 and Block2 (RFC 7959, section 2.2).

use crate::proto::message::Options;

/// Says which block of a body a message carries or asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its number, at most 20 bits.
    pub number: u32,
    /// Whether more blocks follow.
    pub more: bool,
    /// The size as an exponent: 0 for 16 bytes to 6 for 1024, and 7 for any number of 1024 bytes,
    /// which streams alone know (RFC 8323, section 6).
    pub exponent: u8,
}

impl Block {
    /// The exponent of the largest block of a datagram.
    pub const LARGEST: u8 = 6;
    /// The exponent for many blocks in one message of a stream.
    pub const MANY: u8 = 7;

    /// Makes a block that nothing follows.
    #[must_use]
    pub const fn new(number: u32, exponent: u8) -> Self {
        Self {
            number,
            more: false,
            exponent,
        }
    }

    /// Says whether more follows.
    #[must_use]
    pub const fn with_more(mut self, more: bool) -> Self {
        self.more = more;
        self
    }

    /// The exponent of the largest block of at most so many bytes.
    #[must_use]
    pub const fn exponent_of(size: usize) -> u8 {
        let mut exponent = 0;
        while exponent < Self::LARGEST && 32 << exponent <= size {
            exponent += 1;
        }
        exponent
    }

    /// Reads the option of this number.
    #[must_use]
    pub fn read(options: &Options, number: u16) -> Option<Self> {
        let value = options.uint(number)?;
        Some(Self {
            number: value >> 4,
            more: value & 8 != 0,
            exponent: (value & 7) as u8,
        })
    }

    /// Writes it as the option of this number.
    pub fn write(self, options: &mut Options, number: u16) {
        let more = u32::from(self.more) << 3;
        let value = self.number << 4 | more | u32::from(self.exponent & 7);
        options.set_uint(number, value);
    }

    /// The size of a block in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self.exponent {
            Self::MANY => 1024,
            exponent => 16 << exponent,
        }
    }

    /// Where the block begins in the body.
    #[must_use]
    pub const fn offset(self) -> usize {
        self.number as usize * self.size()
    }

    /// The block at the same place, of at most this size. The place has to be one of the smaller
    /// blocks', which it always is.
    #[must_use]
    pub const fn at_most(self, exponent: u8) -> Self {
        if exponent >= self.exponent {
            return self;
        }
        let smaller = Self { exponent, ..self };
        let number = (self.offset() / smaller.size()) as u32;
        Self { number, ..smaller }
    }
}
