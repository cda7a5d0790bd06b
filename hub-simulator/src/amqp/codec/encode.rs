//! Writes the hub's performatives (AMQP 1.0 section 2.7) and SASL frames (section 5.3).
//!
//! Each carries all its fields, trailing nulls included: Microsoft's Python reader looks fields up
//! by position and never pads.

use bytes::{BufMut, BytesMut};

use super::frame::{self, FrameKind};
use super::{code, write};
use crate::amqp::{AmqpError, Info};
use crate::guid::Guid;

fn performative(
    out: &mut BytesMut,
    channel: u16,
    code: u64,
    fields: u32,
    body: impl FnOnce(&mut BytesMut),
) {
    frame::put(out, FrameKind::Amqp, channel, |out| {
        write::descriptor(out, code);
        write::list(out, fields, body);
    });
}

/// The hub's OPEN, with everything null that the real hub leaves null.
pub(crate) fn open(
    out: &mut BytesMut,
    container: &str,
    max_frame_size: u32,
    channel_max: u16,
    idle_time_out_ms: u32,
) {
    performative(out, 0, code::OPEN, 10, |out| {
        write::string(out, container);
        write::string(out, "localhost");
        write::uint(out, max_frame_size);
        write::ushort(out, channel_max);
        write::uint(out, idle_time_out_ms);
        out.put_bytes(0x40, 5);
    });
}

pub(crate) fn begin(
    out: &mut BytesMut,
    channel: u16,
    next_outgoing_id: u32,
    incoming_window: u32,
    handle_max: u32,
) {
    performative(out, channel, code::BEGIN, 8, |out| {
        write::ushort(out, channel);
        write::uint(out, next_outgoing_id);
        write::uint(out, incoming_window);
        write::uint(out, u32::MAX);
        write::uint(out, handle_max);
        out.put_bytes(0x40, 3);
    });
}

/// An attach by the hub; termini and properties are already encoded.
#[derive(Debug)]
pub(crate) struct AttachReply<'a> {
    pub(crate) name: &'a str,
    pub(crate) handle: u32,
    pub(crate) hub_receives: bool,
    pub(crate) sender_settle_mode: Option<u8>,
    pub(crate) receiver_settle_mode: Option<u8>,
    pub(crate) source: Option<&'a [u8]>,
    pub(crate) target: Option<&'a [u8]>,
    pub(crate) max_message_size: Option<u64>,
    pub(crate) properties: Option<&'a [u8]>,
}

pub(crate) fn attach(out: &mut BytesMut, channel: u16, reply: &AttachReply<'_>) {
    let raw = |out: &mut BytesMut, bytes: &[u8]| out.put_slice(bytes);
    performative(out, channel, code::ATTACH, 14, |out| {
        write::string(out, reply.name);
        write::uint(out, reply.handle);
        write::boolean(out, reply.hub_receives);
        write::option(out, reply.sender_settle_mode, write::ubyte);
        write::option(out, reply.receiver_settle_mode, write::ubyte);
        write::option(out, reply.source, raw);
        write::option(out, reply.target, raw);
        out.put_bytes(0x40, 2);
        // A sender must state its initial delivery count.
        write::option(out, (!reply.hub_receives).then_some(0), write::uint);
        write::option(out, reply.max_message_size, write::ulong);
        out.put_bytes(0x40, 2);
        write::option(out, reply.properties, raw);
    });
}

/// The session half of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionFlow {
    pub(crate) next_incoming_id: u32,
    pub(crate) incoming_window: u32,
    pub(crate) next_outgoing_id: u32,
}

/// The link half of a flow: handle, delivery count, credit, and whether a drain has used it up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkCredit {
    pub(crate) handle: u32,
    pub(crate) delivery_count: u32,
    pub(crate) credit: u32,
    pub(crate) drained: bool,
}

pub(crate) fn flow(
    out: &mut BytesMut,
    channel: u16,
    session: SessionFlow,
    link: Option<LinkCredit>,
) {
    performative(out, channel, code::FLOW, 11, |out| {
        write::uint(out, session.next_incoming_id);
        write::uint(out, session.incoming_window);
        write::uint(out, session.next_outgoing_id);
        write::uint(out, u32::MAX);
        match link {
            Some(link) => {
                write::uint(out, link.handle);
                write::uint(out, link.delivery_count);
                write::uint(out, link.credit);
                write::uint(out, 0);
            }
            None => out.put_bytes(0x40, 4),
        }
        // The real hub was seen to leave it null.
        let drained = link.is_some_and(|link| link.drained);
        write::option(out, drained.then_some(true), write::boolean);
        write::boolean(out, false);
        write::null(out);
    });
}

/// What a delivery is known by on its link.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tag {
    Guid(Guid),
    /// As the real hub counts on `$cbs`.
    Count(u32),
}

/// The header of one transfer frame of a delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransferHead {
    pub(crate) handle: u32,
    pub(crate) delivery_id: u32,
    pub(crate) tag: Tag,
    pub(crate) settled: bool,
    pub(crate) more: bool,
}

/// Most bytes that a transfer frame has besides its payload.
pub(crate) const TRANSFER_OVERHEAD: usize = 64;

pub(crate) fn transfer(out: &mut BytesMut, channel: u16, head: TransferHead, payload: &[u8]) {
    frame::put(out, FrameKind::Amqp, channel, |out| {
        write::descriptor(out, code::TRANSFER);
        write::list(out, 11, |out| {
            write::uint(out, head.handle);
            write::uint(out, head.delivery_id);
            match head.tag {
                Tag::Guid(guid) => write::binary(out, guid.as_bytes()),
                Tag::Count(count) => write::binary(out, &count.to_le_bytes()),
            }
            write::uint(out, 0);
            write::boolean(out, head.settled);
            write::boolean(out, head.more);
            out.put_bytes(0x40, 4);
            write::boolean(out, false);
        });
        out.put_slice(payload);
    });
}

/// What the hub tells a sender, or a receiver in answer to its own outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted,
    Rejected(AmqpError),
    Released,
}

/// Settles the deliveries `first..=last`.
pub(crate) fn disposition(
    out: &mut BytesMut,
    channel: u16,
    hub_receives: bool,
    first: u32,
    last: u32,
    outcome: &Outcome,
) {
    performative(out, channel, code::DISPOSITION, 6, |out| {
        write::boolean(out, hub_receives);
        write::uint(out, first);
        write::option(out, (last != first).then_some(last), write::uint);
        write::boolean(out, true);
        match outcome {
            Outcome::Accepted => {
                write::descriptor(out, code::ACCEPTED);
                write::list(out, 0, |_| {});
            }
            Outcome::Released => {
                write::descriptor(out, code::RELEASED);
                write::list(out, 0, |_| {});
            }
            Outcome::Rejected(reason) => {
                write::descriptor(out, code::REJECTED);
                write::list(out, 1, |out| error(out, reason));
            }
        }
        write::null(out);
    });
}

fn error(out: &mut BytesMut, error: &AmqpError) {
    write::descriptor(out, code::ERROR);
    write::list(out, 3, |out| {
        write::symbol(out, &error.condition);
        write::string(out, &error.description);
        if error.info.is_empty() {
            return write::null(out);
        }
        let pairs = u32::try_from(error.info.len()).unwrap_or(0);
        write::map(out, pairs, |out| {
            for (name, value) in &error.info {
                write::symbol(out, name);
                match value {
                    Info::Text(text) => write::string(out, text),
                    Info::Int(number) => write::int(out, *number),
                    Info::Bool(flag) => write::boolean(out, *flag),
                }
            }
        });
    });
}

pub(crate) fn detach(
    out: &mut BytesMut,
    channel: u16,
    handle: u32,
    closed: bool,
    reason: Option<&AmqpError>,
) {
    performative(out, channel, code::DETACH, 3, |out| {
        write::uint(out, handle);
        write::boolean(out, closed);
        write::option(out, reason, error);
    });
}

pub(crate) fn end(out: &mut BytesMut, channel: u16, reason: Option<&AmqpError>) {
    performative(out, channel, code::END, 1, |out| {
        write::option(out, reason, error)
    });
}

pub(crate) fn close(out: &mut BytesMut, reason: Option<&AmqpError>) {
    performative(out, 0, code::CLOSE, 1, |out| {
        write::option(out, reason, error)
    });
}

/// The mechanisms as an array of `sym32`, in the real hub's order.
pub(crate) fn sasl_mechanisms(out: &mut BytesMut) {
    let names: [&[u8]; 4] = [b"EXTERNAL", b"MSSBCBS", b"ANONYMOUS", b"PLAIN"];
    let array_len: usize = 2 + names.iter().map(|name| 4 + name.len()).sum::<usize>();
    frame::put(out, FrameKind::Sasl, 0, |out| {
        write::descriptor(out, code::SASL_MECHANISMS);
        // The captured frame has the 8-bit forms of list and array.
        let array_len = u8::try_from(array_len).unwrap_or(u8::MAX);
        out.put_slice(&[0xc0, array_len + 3, 1, 0xe0, array_len, 4, 0xb3]);
        for name in names {
            out.put_u32(u32::try_from(name.len()).unwrap_or(0));
            out.put_slice(name);
        }
    });
}

/// How SASL ended (AMQP 1.0 section 5.3.3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SaslCode {
    Ok = 0,
    Auth = 1,
    Sys = 2,
}

pub(crate) fn sasl_outcome(out: &mut BytesMut, outcome: SaslCode) {
    frame::put(out, FrameKind::Sasl, 0, |out| {
        write::descriptor(out, code::SASL_OUTCOME);
        write::list(out, 2, |out| {
            write::ubyte(out, outcome as u8);
            write::option(
                out,
                (outcome == SaslCode::Ok).then_some(b"Welcome!"),
                |out, text| {
                    write::binary(out, text);
                },
            );
        });
    });
}
