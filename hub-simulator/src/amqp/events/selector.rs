//! Where a reader asks to start: `amqp.annotation.x-opt-offset > '42'` and the like.

use crate::hub::events::{By, Position};

/// What annotations are called in a selector.
const PREFIX: &str = "amqp.annotation.";

/// Reads a selector: an annotation, `>` or `>=`, and a value with or without quotes. Nothing else is
/// understood, as at the real hub.
pub(crate) fn parse(text: &str) -> Option<Position> {
    let text = text.trim();
    let name_len = text.find(|c: char| c.is_whitespace() || c == '>')?;
    let (name, rest) = text.split_at(name_len);
    let rest = rest.trim_start().strip_prefix('>')?;
    let (inclusive, rest) = match rest.strip_prefix('=') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let value = unquoted(rest.trim_start())?;
    let by = match name.strip_prefix(PREFIX)? {
        "x-opt-offset" if value == "@latest" => By::Latest,
        "x-opt-offset" => By::Offset(number(value).filter(|offset| *offset >= -1)?),
        "x-opt-sequence-number" => By::Sequence(number(value)?),
        "x-opt-enqueued-time" => By::Enqueued(number(value)?),
        _ => return None,
    };
    Some(Position { by, inclusive })
}

/// A value in single quotes, or one without quotes that holds no white space either.
fn unquoted(text: &str) -> Option<&str> {
    let value = match text.strip_prefix('\'') {
        Some(rest) => rest.strip_suffix('\'')?,
        None => text,
    };
    let is_plain = |c: char| !c.is_whitespace() && c != '\'';
    (!value.is_empty() && value.chars().all(is_plain)).then_some(value)
}

/// A decimal number; a sign only below zero.
fn number(text: &str) -> Option<i64> {
    (!text.starts_with('+')).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_that_clients_send_is_understood() {
        for (text, by, inclusive) in [
            ("amqp.annotation.x-opt-offset > '-1'", By::Offset(-1), false),
            ("amqp.annotation.x-opt-offset >= '0'", By::Offset(0), true),
            (
                "amqp.annotation.x-opt-offset > '@latest'",
                By::Latest,
                false,
            ),
            ("amqp.annotation.x-opt-offset > @latest", By::Latest, false),
            (
                "amqp.annotation.x-opt-sequence-number > 5",
                By::Sequence(5),
                false,
            ),
            (
                " amqp.annotation.x-opt-sequence-number>='5' ",
                By::Sequence(5),
                true,
            ),
            (
                "amqp.annotation.x-opt-enqueued-time > '1714547677956'",
                By::Enqueued(1_714_547_677_956),
                false,
            ),
        ] {
            assert_eq!(parse(text), Some(Position { by, inclusive }), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "> '1'",
            "amqp.annotation.x-opt-offset",
            "amqp.annotation.x-opt-offset >",
            "amqp.annotation.x-opt-offset > ''",
            "amqp.annotation.x-opt-offset > '1",
            "amqp.annotation.x-opt-offset > 1'",
            "amqp.annotation.x-opt-offset > '-2'",
            "amqp.annotation.x-opt-offset > '+1'",
            "amqp.annotation.x-opt-offset > '1' OR 1 > 0",
            "amqp.annotation.x-opt-offset >> '1'",
            "amqp.annotation.x-opt-offset = '1'",
            "amqp.annotation.x-opt-offset < '1'",
            "amqp.annotation.x-opt-sequence-number > '@latest'",
            "amqp.annotation.x-opt-sequence-number > '9223372036854775808'",
            "amqp.annotation.x-opt-partition-key > '1'",
            "x-opt-offset > '1'",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_judged(text in "\\PC*") {
            std::hint::black_box(parse(&text));
        }

        #[test]
        fn numbers_survive(number in any::<i64>(), inclusive in any::<bool>(), spaces in " {0,3}") {
            let operator = if inclusive { ">=" } else { ">" };
            let text = format!("{PREFIX}x-opt-sequence-number{spaces}{operator}{spaces}'{number}'");
            let by = By::Sequence(number);
            prop_assert_eq!(parse(&text), Some(Position { by, inclusive }));
        }
    }
}
