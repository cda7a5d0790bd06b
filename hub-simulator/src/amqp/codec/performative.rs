//! Reads the nine performatives (AMQP 1.0 section 2.7); fields the hub does not use are skipped.

use super::read::{self, Fields, Value};
use super::{DecodeError, code};

/// A performative from the peer, and for a transfer the payload behind it.
#[derive(Debug)]
pub(crate) enum Performative<'a> {
    Open(Open<'a>),
    Begin(Begin),
    Attach(Attach<'a>),
    Flow(Flow),
    Transfer(Transfer<'a>),
    Disposition(Disposition),
    Detach { handle: u32, closed: bool },
    End,
    Close,
}

#[derive(Debug)]
pub(crate) struct Open<'a> {
    pub(crate) hostname: Option<&'a str>,
    pub(crate) max_frame_size: u32,
    pub(crate) channel_max: u16,
    pub(crate) idle_time_out_ms: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) answers_channel: Option<u16>,
    pub(crate) next_outgoing_id: u32,
    pub(crate) incoming_window: u32,
}

/// An attach; termini and properties are kept as encoded, to be echoed byte for byte.
#[derive(Debug)]
pub(crate) struct Attach<'a> {
    pub(crate) name: &'a str,
    pub(crate) handle: u32,
    pub(crate) peer_receives: bool,
    /// The peer wants deliveries that are settled already.
    pub(crate) sender_settled: bool,
    pub(crate) source: Option<&'a [u8]>,
    pub(crate) target: Option<&'a [u8]>,
    pub(crate) initial_delivery_count: u32,
    /// The desired capabilities.
    pub(crate) capabilities: Option<&'a [u8]>,
    pub(crate) properties: Option<&'a [u8]>,
}

impl<'a> Attach<'a> {
    /// The address of the terminus on the hub's side.
    pub(crate) fn address(&self) -> Option<&'a str> {
        terminus_address(if self.peer_receives {
            self.source?
        } else {
            self.target?
        })
    }

    /// A property of the link.
    pub(crate) fn property(&self, name: &str) -> Option<Value<'a>> {
        let Value::Map(mut properties) = read::value(self.properties?).ok()? else {
            return None;
        };
        while !properties.is_empty() {
            let (key, value) = (properties.next().ok()?, properties.next().ok()?);
            if key.text() == Some(name) {
                return Some(value);
            }
        }
        None
    }
}

fn terminus_address(terminus: &[u8]) -> Option<&str> {
    let Ok(Value::Described(described)) = read::value(terminus) else {
        return None;
    };
    matches!(described.code, code::SOURCE | code::TARGET)
        .then(|| described.fields().ok()?.text().ok()?)
        .flatten()
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Flow {
    pub(crate) next_incoming_id: Option<u32>,
    pub(crate) incoming_window: u32,
    pub(crate) next_outgoing_id: u32,
    pub(crate) outgoing_window: u32,
    pub(crate) link: Option<LinkFlow>,
    pub(crate) echo: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LinkFlow {
    pub(crate) handle: u32,
    pub(crate) delivery_count: Option<u32>,
    pub(crate) credit: Option<u32>,
    pub(crate) drain: bool,
}

#[derive(Debug)]
pub(crate) struct Transfer<'a> {
    pub(crate) handle: u32,
    pub(crate) delivery_id: Option<u32>,
    pub(crate) message_format: u32,
    pub(crate) settled: bool,
    pub(crate) more: bool,
    pub(crate) aborted: bool,
    pub(crate) payload: &'a [u8],
}

#[derive(Debug)]
pub(crate) struct Disposition {
    pub(crate) peer_receives: bool,
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) settled: bool,
    pub(crate) outcome: Option<PeerOutcome>,
}

/// An outcome that the peer gives a delivery (AMQP 1.0 section 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerOutcome {
    Accepted,
    Rejected,
    Released,
    /// Modified: undeliverable here means dead.
    Modified {
        undeliverable_here: bool,
    },
    /// A state that is no outcome, or none that the hub knows.
    Other,
}

impl<'a> Performative<'a> {
    /// Reads the body of an AMQP frame.
    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let (value, _, payload) = read::split(body)?;
        let Value::Described(described) = value else {
            return Err(DecodeError("a frame must start with a described list"));
        };
        let mut fields = described.fields()?;
        Ok(match described.code {
            code::TRANSFER => Self::Transfer(transfer(&mut fields, payload)?),
            code::DISPOSITION => Self::Disposition(disposition(&mut fields)?),
            code::FLOW => Self::Flow(flow(&mut fields)?),
            code::ATTACH => Self::Attach(attach(&mut fields)?),
            code::DETACH => Self::Detach {
                handle: mandatory(fields.uint()?)?,
                closed: fields.boolean()?,
            },
            code::BEGIN => Self::Begin(begin(&mut fields)?),
            code::END => Self::End,
            code::OPEN => Self::Open(open(&mut fields)?),
            code::CLOSE => Self::Close,
            _ => return Err(DecodeError("not a performative")),
        })
    }
}

fn mandatory<T>(field: Option<T>) -> Result<T, DecodeError> {
    field.ok_or(DecodeError("a mandatory field is missing"))
}

fn open<'a>(fields: &mut Fields<'a>) -> Result<Open<'a>, DecodeError> {
    mandatory(fields.text()?)?;
    Ok(Open {
        hostname: fields.text()?,
        max_frame_size: fields.uint()?.unwrap_or(u32::MAX),
        channel_max: fields.ushort()?.unwrap_or(u16::MAX),
        idle_time_out_ms: fields.uint()?,
    })
}

fn begin(fields: &mut Fields<'_>) -> Result<Begin, DecodeError> {
    let answers_channel = fields.ushort()?;
    let next_outgoing_id = mandatory(fields.uint()?)?;
    let incoming_window = mandatory(fields.uint()?)?;
    mandatory(fields.uint()?)?;
    Ok(Begin {
        answers_channel,
        next_outgoing_id,
        incoming_window,
    })
}

fn attach<'a>(fields: &mut Fields<'a>) -> Result<Attach<'a>, DecodeError> {
    let name = mandatory(fields.text()?)?;
    let handle = mandatory(fields.uint()?)?;
    let peer_receives = fields.boolean()?;
    let sender_settled = fields.uint()? == Some(1);
    fields.skip(1)?;
    let (source, target) = (fields.raw()?, fields.raw()?);
    fields.skip(2)?;
    let initial_delivery_count = fields.uint()?.unwrap_or(0);
    fields.skip(2)?;
    let (capabilities, properties) = (fields.raw()?, fields.raw()?);
    Ok(Attach {
        name,
        handle,
        peer_receives,
        sender_settled,
        source,
        target,
        initial_delivery_count,
        capabilities,
        properties,
    })
}

fn flow(fields: &mut Fields<'_>) -> Result<Flow, DecodeError> {
    let next_incoming_id = fields.uint()?;
    let incoming_window = mandatory(fields.uint()?)?;
    let next_outgoing_id = mandatory(fields.uint()?)?;
    let outgoing_window = mandatory(fields.uint()?)?;
    let handle = fields.uint()?;
    let (delivery_count, credit) = (fields.uint()?, fields.uint()?);
    fields.skip(1)?;
    let (drain, echo) = (fields.boolean()?, fields.boolean()?);
    let link = handle.map(|handle| LinkFlow {
        handle,
        delivery_count,
        credit,
        drain,
    });
    Ok(Flow {
        next_incoming_id,
        incoming_window,
        next_outgoing_id,
        outgoing_window,
        link,
        echo,
    })
}

fn transfer<'a>(fields: &mut Fields<'a>, payload: &'a [u8]) -> Result<Transfer<'a>, DecodeError> {
    let handle = mandatory(fields.uint()?)?;
    let delivery_id = fields.uint()?;
    if fields.binary()?.is_some_and(|tag| tag.len() > 32) {
        return Err(DecodeError("a delivery tag is longer than 32 bytes"));
    }
    let message_format = fields.uint()?.unwrap_or(0);
    let (settled, more) = (fields.boolean()?, fields.boolean()?);
    fields.skip(3)?;
    let aborted = fields.boolean()?;
    Ok(Transfer {
        handle,
        delivery_id,
        message_format,
        settled,
        more,
        aborted,
        payload,
    })
}

fn disposition(fields: &mut Fields<'_>) -> Result<Disposition, DecodeError> {
    let peer_receives = fields.boolean()?;
    let first = mandatory(fields.uint()?)?;
    let last = fields.uint()?.unwrap_or(first);
    let settled = fields.boolean()?;
    let outcome = match fields.described()? {
        None => None,
        Some(state) => Some(match state.code {
            code::ACCEPTED => PeerOutcome::Accepted,
            code::REJECTED => PeerOutcome::Rejected,
            code::RELEASED => PeerOutcome::Released,
            code::MODIFIED => {
                let mut fields = state.fields()?;
                fields.skip(1)?;
                PeerOutcome::Modified {
                    undeliverable_here: fields.boolean()?,
                }
            }
            _ => PeerOutcome::Other,
        }),
    };
    Ok(Disposition {
        peer_receives,
        first,
        last,
        settled,
        outcome,
    })
}
