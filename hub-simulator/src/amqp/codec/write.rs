//! Writes AMQP values, in the shortest constructor that keeps the type.

use bytes::{BufMut, BytesMut};

pub(crate) fn null(out: &mut BytesMut) {
    out.put_u8(0x40);
}

pub(crate) fn boolean(out: &mut BytesMut, flag: bool) {
    out.put_u8(if flag { 0x41 } else { 0x42 });
}

pub(crate) fn ubyte(out: &mut BytesMut, number: u8) {
    out.put_slice(&[0x50, number]);
}

pub(crate) fn ushort(out: &mut BytesMut, number: u16) {
    out.put_u8(0x60);
    out.put_u16(number);
}

pub(crate) fn uint(out: &mut BytesMut, number: u32) {
    match u8::try_from(number) {
        Ok(0) => out.put_u8(0x43),
        Ok(small) => out.put_slice(&[0x52, small]),
        Err(_) => {
            out.put_u8(0x70);
            out.put_u32(number);
        }
    }
}

pub(crate) fn ulong(out: &mut BytesMut, number: u64) {
    match u8::try_from(number) {
        Ok(0) => out.put_u8(0x44),
        Ok(small) => out.put_slice(&[0x53, small]),
        Err(_) => {
            out.put_u8(0x80);
            out.put_u64(number);
        }
    }
}

pub(crate) fn int(out: &mut BytesMut, number: i32) {
    match i8::try_from(number) {
        Ok(small) => {
            out.put_u8(0x54);
            out.put_i8(small);
        }
        Err(_) => {
            out.put_u8(0x71);
            out.put_i32(number);
        }
    }
}

pub(crate) fn long(out: &mut BytesMut, number: i64) {
    match i8::try_from(number) {
        Ok(small) => {
            out.put_u8(0x55);
            out.put_i8(small);
        }
        Err(_) => {
            out.put_u8(0x81);
            out.put_i64(number);
        }
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn timestamp(out: &mut BytesMut, millis: i64) {
    out.put_u8(0x83);
    out.put_i64(millis);
}

pub(crate) fn uuid(out: &mut BytesMut, bytes: &[u8; 16]) {
    out.put_u8(0x98);
    out.put_slice(bytes);
}

pub(crate) fn string(out: &mut BytesMut, text: &str) {
    sized(out, 0xa1, text.as_bytes());
}

pub(crate) fn symbol(out: &mut BytesMut, text: &str) {
    sized(out, 0xa3, text.as_bytes());
}

pub(crate) fn binary(out: &mut BytesMut, bytes: &[u8]) {
    sized(out, 0xa0, bytes);
}

/// The 32-bit constructor of a variable-width type is its 8-bit one plus 0x10.
#[expect(
    clippy::cast_possible_truncation,
    reason = "nothing longer than a frame is written"
)]
fn sized(out: &mut BytesMut, constructor: u8, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(len) => out.put_slice(&[constructor, len]),
        Err(_) => {
            out.put_u8(constructor + 0x10);
            out.put_u32(bytes.len() as u32);
        }
    }
    out.put_slice(bytes);
}

pub(crate) fn option<T>(out: &mut BytesMut, value: Option<T>, put: impl FnOnce(&mut BytesMut, T)) {
    match value {
        Some(value) => put(out, value),
        None => null(out),
    }
}

/// The descriptor of a described value; the value follows.
pub(crate) fn descriptor(out: &mut BytesMut, code: u64) {
    out.put_u8(0x00);
    ulong(out, code);
}

/// A `list32` of `count` items that `items` writes.
pub(crate) fn list(out: &mut BytesMut, count: u32, items: impl FnOnce(&mut BytesMut)) {
    compound(out, 0xd0, count, items);
}

/// A `map32` of `pairs` pairs that `items` writes, key and value in turn.
pub(crate) fn map(out: &mut BytesMut, pairs: u32, items: impl FnOnce(&mut BytesMut)) {
    compound(out, 0xd1, pairs * 2, items);
}

/// A `map32` of as many pairs as `items` says it has written.
pub(crate) fn counted_map(out: &mut BytesMut, items: impl FnOnce(&mut BytesMut) -> u32) {
    let count_at = out.len() + 5;
    let mut pairs = 0;
    map(out, 0, |out| pairs = items(out));
    patch_u32(out, count_at, pairs as usize * 2);
}

/// An `array32` of strings.
#[expect(
    clippy::cast_possible_truncation,
    reason = "nothing longer than a frame is written"
)]
pub(crate) fn strings(out: &mut BytesMut, texts: &[String]) {
    compound(out, 0xf0, texts.len() as u32, |out| {
        out.put_u8(0xb1);
        for text in texts {
            out.put_u32(text.len() as u32);
            out.put_slice(text.as_bytes());
        }
    });
}

fn compound(out: &mut BytesMut, constructor: u8, count: u32, items: impl FnOnce(&mut BytesMut)) {
    out.put_u8(constructor);
    let size_at = out.len();
    out.put_u32(0);
    out.put_u32(count);
    items(out);
    patch_u32(out, size_at, out.len() - size_at - 4);
}

/// Writes a length into the four bytes kept for it at `at`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "nothing longer than a frame is written"
)]
pub(crate) fn patch_u32(out: &mut BytesMut, at: usize, length: usize) {
    out[at..at + 4].copy_from_slice(&(length as u32).to_be_bytes());
}
