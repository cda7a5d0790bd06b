//! A reader of events: what its attach asks for, and what it is sent.

use bytes::Bytes;

use super::{entity, selector};
use crate::amqp::codec::performative::Attach;
use crate::amqp::codec::read::{self, Described, Fields, Value};
use crate::amqp::codec::{DecodeError, code};
use crate::amqp::core::Core;
use crate::amqp::{AmqpError, condition};
use crate::hub::events::{Claim, Position, Reader, Refusal};
use crate::hub::peer::Subscriber;

const FILTER: &str = "apache.org:selector-filter:string";
/// Asked for by readers that want to know how far behind they are.
const METRICS: &[u8] = b"com.microsoft:enable-receiver-runtime-metric";

/// A link that reads events.
#[derive(Debug)]
pub(crate) struct Consumer {
    reader: Reader,
    /// The address, for tokens to cover.
    path: Box<[String]>,
    /// Events need no settlement.
    pub(crate) presettled: bool,
    metrics: bool,
}

impl Consumer {
    /// Lets a link read, from where its filter says.
    pub(super) fn enter(
        core: &Core,
        attach: &Attach<'_>,
        path: &[&str],
        [group, partition]: [&str; 2],
        subscriber: Subscriber,
    ) -> Result<Self, AmqpError> {
        let log = &core.hub.events;
        let place = |partition: &str| {
            let entity = entity(core);
            format!("{entity}:eventhub:{entity}~{partition}|{group}")
        };
        let tracked = |condition, text: &str| {
            let text = super::tracked(core, text, &place(partition));
            AmqpError::new(condition, text)
        };
        let group_number = log.group(group).ok_or_else(|| {
            let entity = place("32766");
            let text = format!("The messaging entity '{entity}' could not be found.");
            tracked(condition::NOT_FOUND, &text)
        })?;
        let partition_number = super::partition(log, partition).ok_or_else(|| {
            let text = super::no_such_partition(log);
            tracked(condition::ARGUMENT_RANGE, &text)
        })?;
        let wish = Wish::read(attach).map_err(|error| match error {
            BadWish::Type => {
                let text = format!(
                    "The link '{}' contains invalid filter type. System only support Jms or Apache selector filter type but we found another type associated with key '{FILTER}'.",
                    attach.name
                );
                tracked(condition::NOT_ALLOWED, &text)
            }
            BadWish::Selector(text) => {
                let text = format!("The selector '{text}' is not supported.");
                tracked(condition::ARGUMENT, &text)
            }
            BadWish::Encoding(error) => AmqpError::new(condition::DECODE, error.to_string()),
        })?;
        let claim = Claim {
            group: group_number,
            partition: partition_number,
            position: wish.position,
            epoch: wish.epoch,
            name: wish.name.map(str::to_owned),
            subscriber,
        };
        let reader = Reader::enter(log, claim).map_err(|refusal| {
            let condition = match refusal {
                Refusal::HigherEpoch { .. } | Refusal::EpochRequired(_) => condition::STOLEN,
                Refusal::TooMany(_) => condition::RESOURCE_LIMIT,
                Refusal::Offset { .. } | Refusal::Sequence { .. } => condition::ARGUMENT,
            };
            tracked(condition, &refusal.to_string())
        })?;
        Ok(Self {
            reader,
            path: path.iter().map(|segment| (*segment).to_owned()).collect(),
            presettled: attach.sender_settled,
            metrics: wish.metrics,
        })
    }

    /// Whether a token still covers the link.
    pub(crate) fn authorize(&self, core: &Core) -> Result<(), AmqpError> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        super::authorize(core, &path, "Listen")
    }

    /// The next event; if there is none, the link's route is told when there is.
    pub(crate) fn next(&mut self, core: &Core) -> Option<Bytes> {
        let read = self.reader.read()?;
        Some(super::encode::event(
            &read,
            self.metrics.then_some(core.now),
        ))
    }
}

/// What an attach asks for besides its address.
struct Wish<'a> {
    position: Position,
    epoch: Option<i64>,
    name: Option<&'a str>,
    metrics: bool,
}

enum BadWish<'a> {
    /// The filter is no selector.
    Type,
    Selector(&'a str),
    Encoding(DecodeError),
}

impl From<DecodeError> for BadWish<'_> {
    fn from(error: DecodeError) -> Self {
        Self::Encoding(error)
    }
}

impl<'a> Wish<'a> {
    fn read(attach: &Attach<'a>) -> Result<Self, BadWish<'a>> {
        let mut wish = Self {
            position: Position::START,
            epoch: attach.property("com.microsoft:epoch").and_then(integer),
            name: attach
                .property("com.microsoft:receiver-name")
                .and_then(Value::text),
            // An array of symbols or one of them; nothing else is there that the name could be part of.
            metrics: attach
                .capabilities
                .is_some_and(|names| names.windows(METRICS.len()).any(|name| name == METRICS)),
        };
        if let Some(text) = selector_of(attach)? {
            wish.position = selector::parse(text).ok_or(BadWish::Selector(text))?;
        }
        Ok(wish)
    }
}

fn integer(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Signed(number) => Some(number),
        Value::Unsigned(number) => i64::try_from(number).ok(),
        _ => None,
    }
}

/// The text of the selector in the source's filter.
fn selector_of<'a>(attach: &Attach<'a>) -> Result<Option<&'a str>, BadWish<'a>> {
    let Some(mut filter) = filter_of(attach)? else {
        return Ok(None);
    };
    while !filter.is_empty() {
        let (key, value) = (filter.next()?, filter.next()?);
        if key.text() != Some(FILTER) {
            continue;
        }
        let Value::Described(Described {
            code: code::SELECTOR_FILTER,
            value,
        }) = value
        else {
            return Err(BadWish::Type);
        };
        return match read::value(value)? {
            Value::Str(text) => Ok(Some(text)),
            _ => Err(BadWish::Type),
        };
    }
    Ok(None)
}

fn filter_of<'a>(attach: &Attach<'a>) -> Result<Option<Fields<'a>>, DecodeError> {
    let Some(Value::Described(source)) = attach.source.map(read::value).transpose()? else {
        return Ok(None);
    };
    let mut fields = source.fields()?;
    fields.skip(7)?;
    Ok(match fields.next()? {
        Value::Map(filter) => Some(filter),
        _ => None,
    })
}
