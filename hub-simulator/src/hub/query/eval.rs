//! What a query makes of a row.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::{ColumnValue, Comparison, Condition, Operand, Query, Select, Test, TextTest};

/// Something that has properties at paths.
pub(crate) trait Row {
    /// The property at a path, if there is one.
    fn get(&self, path: &[String]) -> Option<Cow<'_, Value>>;
    /// All of it.
    fn whole(&self) -> Value;
}

/// A document is a row by itself.
impl Row for Value {
    fn get(&self, path: &[String]) -> Option<Cow<'_, Value>> {
        let found = path.iter().try_fold(self, |at, name| at.get(name));
        found.map(Cow::Borrowed)
    }

    fn whole(&self) -> Value {
        self.clone()
    }
}

impl Query {
    /// Whether a row is wanted.
    pub(crate) fn matches(&self, row: &impl Row) -> bool {
        let filter = self.filter.as_ref();
        filter.is_none_or(|filter| holds(filter, row) == Some(true))
    }

    /// The row as it is answered; what it does not have is left out.
    pub(crate) fn project(&self, row: &impl Row) -> Value {
        let Select::Columns(columns) = &self.select else {
            return row.whole();
        };
        let cells = columns.iter().filter_map(|column| match &column.value {
            ColumnValue::Path(path) => Some((column.name.clone(), row.get(path)?.into_owned())),
            ColumnValue::Aggregate(..) => None,
        });
        cells.collect::<Map<_, _>>().into()
    }
}

/// Whether a condition holds; nothing if it asks for a property that is not there.
fn holds(condition: &Condition, row: &impl Row) -> Option<bool> {
    match condition {
        Condition::All(conditions) => combine(conditions, row, false),
        Condition::Any(conditions) => combine(conditions, row, true),
        Condition::Not(condition) => holds(condition, row).map(|it_does| !it_does),
        Condition::Compare(left, comparison, right) => {
            let (left, right) = (value(left, row)?, value(right, row)?);
            compare(&left, *comparison, &right)
        }
        Condition::In(left, values) => {
            let left = value(left, row)?;
            Some(values.iter().any(|value| equal(&left, value)))
        }
        Condition::Test(test, path) => Some(test.passes(row.get(path).as_deref())),
        Condition::Texts(test, text, part) => {
            let (text, part) = (value(text, row)?, value(part, row)?);
            let (text, part) = (text.as_str()?, part.as_str()?);
            Some(match test {
                TextTest::StartsWith => text.starts_with(part),
                TextTest::EndsWith => text.ends_with(part),
                TextTest::Contains => text.contains(part),
            })
        }
        Condition::Holds(operand) => value(operand, row)?.as_bool(),
    }
}

/// `OR` over the conditions if `decisive` is true, `AND` if it is false.
fn combine(conditions: &[Condition], row: &impl Row, decisive: bool) -> Option<bool> {
    let mut unknown = false;
    for condition in conditions {
        match holds(condition, row) {
            Some(it_does) if it_does == decisive => return Some(decisive),
            Some(_) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(!decisive)
}

fn value<'a>(operand: &'a Operand, row: &'a impl Row) -> Option<Cow<'a, Value>> {
    match operand {
        Operand::Path(path) => row.get(path),
        Operand::Constant(constant) => Some(Cow::Borrowed(constant)),
    }
}

fn compare(left: &Value, comparison: Comparison, right: &Value) -> Option<bool> {
    Some(match comparison {
        Comparison::Equal => equal(left, right),
        Comparison::NotEqual => !equal(left, right),
        Comparison::Less => order(left, right)? == Ordering::Less,
        Comparison::LessOrEqual => order(left, right)? != Ordering::Greater,
        Comparison::Greater => order(left, right)? == Ordering::Greater,
        Comparison::GreaterOrEqual => order(left, right)? != Ordering::Less,
    })
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        // 1 and 1.0 are one number.
        (Value::Number(_), Value::Number(_)) => order(left, right) == Some(Ordering::Equal),
        _ => left == right,
    }
}

/// The order of two numbers or two texts.
pub(super) fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
        },
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

impl Test {
    fn passes(self, value: Option<&Value>) -> bool {
        let Some(value) = value else {
            return false;
        };
        match self {
            Self::Defined => true,
            Self::Null => value.is_null(),
            Self::Bool => value.is_boolean(),
            Self::Number => value.is_number(),
            Self::Text => value.is_string(),
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::Primitive => !value.is_object() && !value.is_array(),
        }
    }
}
