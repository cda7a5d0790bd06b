//! Rows put together: counts, sums and the like, for each group of rows.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::eval::{Row, order};
use super::{Aggregate, Column, ColumnValue, Query, Select};

/// The groups of a query that is being carried out.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// By the values that the rows are grouped by, as JSON.
    groups: BTreeMap<String, Group>,
}

#[derive(Debug)]
struct Group {
    keys: Vec<Option<Value>>,
    /// One for each column.
    sums: Vec<Sum>,
}

/// What has been gathered of a column.
#[derive(Debug, Clone, Default)]
struct Sum {
    count: u64,
    /// How many of them are numbers.
    numbers: u64,
    total: f64,
    min: Option<Value>,
    max: Option<Value>,
}

impl Groups {
    /// Adds a row to its group.
    pub(crate) fn add(&mut self, query: &Query, row: &impl Row) {
        let columns = query.columns();
        let keys: Vec<_> = query
            .group_by
            .iter()
            .map(|path| row.get(path).map(Cow::into_owned))
            .collect();
        let name = serde_json::to_string(&keys).unwrap_or_default();
        let group = self.groups.entry(name).or_insert_with(|| Group {
            keys,
            sums: vec![Sum::default(); columns.len()],
        });
        for (column, sum) in columns.iter().zip(&mut group.sums) {
            match &column.value {
                ColumnValue::Aggregate(_, Some(path)) => {
                    if let Some(value) = row.get(path) {
                        sum.add(&value);
                    }
                }
                ColumnValue::Aggregate(_, None) => sum.count += 1,
                ColumnValue::Path(_) => {}
            }
        }
    }

    /// The rows of the answer; without `GROUP BY` it is one, even if nothing was found.
    pub(crate) fn rows(mut self, query: &Query) -> Vec<Value> {
        let columns = query.columns();
        if self.groups.is_empty() && query.group_by.is_empty() {
            let nothing = Group {
                keys: Vec::new(),
                sums: vec![Sum::default(); columns.len()],
            };
            self.groups.insert(String::new(), nothing);
        }
        let rows = self.groups.into_values().map(|group| group.row(query));
        rows.take(query.top.unwrap_or(usize::MAX)).collect()
    }
}

impl Query {
    fn columns(&self) -> &[Column] {
        match &self.select {
            Select::Everything => &[],
            Select::Columns(columns) => columns,
        }
    }
}

impl Group {
    fn row(self, query: &Query) -> Value {
        let mut row = Map::new();
        for (column, sum) in query.columns().iter().zip(self.sums) {
            let cell = match &column.value {
                ColumnValue::Aggregate(aggregate, _) => sum.result(*aggregate),
                ColumnValue::Path(path) => {
                    let key = query.group_by.iter().position(|by| by == path);
                    key.and_then(|at| self.keys.get(at).cloned().flatten())
                }
            };
            if let Some(cell) = cell {
                row.insert(column.name.clone(), cell);
            }
        }
        row.into()
    }
}

impl Sum {
    fn add(&mut self, value: &Value) {
        self.count += 1;
        if let Some(number) = value.as_f64() {
            self.numbers += 1;
            self.total += number;
        }
        for (kept, wins) in [
            (&mut self.min, Ordering::Less),
            (&mut self.max, Ordering::Greater),
        ] {
            let is_better = kept
                .as_ref()
                .is_none_or(|kept| order(value, kept) == Some(wins));
            if is_better {
                *kept = Some(value.clone());
            }
        }
    }

    fn result(self, aggregate: Aggregate) -> Option<Value> {
        match aggregate {
            Aggregate::Count => Some(self.count.into()),
            Aggregate::Sum => Some(number(self.total)),
            Aggregate::Avg if self.numbers == 0 => None,
            Aggregate::Avg => Some(number(self.total / self.numbers as f64)),
            Aggregate::Min => self.min,
            Aggregate::Max => self.max,
        }
    }
}

/// A whole number without a fraction where it is one.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        (value as i64).into()
    } else {
        value.into()
    }
}
