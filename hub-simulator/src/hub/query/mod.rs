//! The hub's query language over twins, as much of it as one table needs.
//!
//! `SELECT *`, paths or aggregates `FROM devices` or `devices.modules`, with `WHERE`, `GROUP BY` and
//! `TOP`. Source: Microsoft, "IoT Hub query language for device and module twins, jobs, and message
//! routing".

mod aggregate;
mod eval;
mod lexer;
mod parser;

use std::borrow::Cow;

use serde_json::Value;

pub(crate) use aggregate::Groups;
pub(crate) use eval::Row;

/// Longest text of a query, in bytes.
const MAX_TEXT: usize = 16 * 1024;

/// A query that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at character {position} of the query")]
pub(crate) struct SyntaxError {
    what: Cow<'static, str>,
    /// Counted from 1.
    position: usize,
}

/// Names from the root of a twin down to a property.
type Path = Vec<String>;

/// A query taken apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    pub(crate) source: Source,
    /// Most rows that are wanted.
    pub(crate) top: Option<usize>,
    select: Select,
    filter: Option<Condition>,
    group_by: Vec<Path>,
}

/// What is looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Devices,
    Modules,
}

#[derive(Debug, Clone, PartialEq)]
enum Select {
    Everything,
    Columns(Vec<Column>),
}

#[derive(Debug, Clone, PartialEq)]
struct Column {
    name: String,
    value: ColumnValue,
}

#[derive(Debug, Clone, PartialEq)]
enum ColumnValue {
    Path(Path),
    Aggregate(Aggregate, Option<Path>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Count,
    Sum,
    Avg,
    Min,
    Max,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Compare(Operand, Comparison, Operand),
    In(Operand, Vec<Value>),
    Test(Test, Path),
    Texts(TextTest, Operand, Operand),
    /// Something that is true or false by itself.
    Holds(Operand),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What a property can be asked by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Defined,
    Null,
    Bool,
    Number,
    Text,
    Object,
    Array,
    Primitive,
}

/// How a text can be looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Path),
    Constant(Value),
}

impl Query {
    /// Takes a query apart.
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        if text.len() > MAX_TEXT {
            return Err(SyntaxError {
                what: "More than 16 KB of text".into(),
                position: MAX_TEXT,
            });
        }
        parser::parse(&lexer::tokens(text)?)
    }

    /// Whether the rows are whole twins.
    pub(crate) fn selects_twins(&self) -> bool {
        self.select == Select::Everything
    }

    /// Whether rows are put together instead of being listed.
    pub(crate) fn aggregates(&self) -> bool {
        let is_aggregate = |column: &Column| matches!(column.value, ColumnValue::Aggregate(..));
        !self.group_by.is_empty()
            || matches!(&self.select, Select::Columns(columns) if columns.iter().any(is_aggregate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn row() -> Value {
        json!({
            "deviceId": "dev-1",
            "status": "enabled",
            "capabilities": { "iotEdge": false },
            "tags": { "site": "north", "floor": 3, "my tag": { "1": true }, "group": null },
        })
    }

    fn holds(condition: &str) -> bool {
        let query = format!("SELECT * FROM devices WHERE {condition}");
        fuzz_seeds::keep("queries", query.as_bytes());
        let query = Query::parse(&query);
        query.unwrap().matches(&row())
    }

    fn refused(query: &str) -> String {
        fuzz_seeds::keep("queries", query.as_bytes());
        Query::parse(query).unwrap_err().to_string()
    }

    #[test]
    fn conditions_hold_as_in_sql() {
        for condition in [
            "deviceId = 'dev-1'",
            "devices.deviceId = 'dev-1' and status <> 'disabled'",
            "tags.site='north' AND tags.floor>=3",
            "tags.floor = 3.0",
            "tags.floor > -1 AND tags.floor < 1e1",
            "NOT (tags.floor > 3) AND (status = 'x' OR status = 'enabled')",
            "tags.site IN ['south', 'north']",
            "tags.floor IN (1, 2, 3)",
            "tags.site NIN ['south'] AND tags.site NOT IN ['west']",
            "is_defined(tags.site) AND NOT IS_DEFINED(tags.none)",
            "STARTSWITH(deviceId, 'dev') AND ENDSWITH(deviceId, '-1')",
            "contains(deviceId, 'v-')",
            "capabilities.iotEdge = false",
            "NOT capabilities.iotEdge",
            "tags.[[my tag]].1 = true",
            "tags['my tag']['1']",
            "tags.group = null AND IS_NULL(tags.group)",
            "tags.site != null;",
        ] {
            assert!(holds(condition), "{condition}");
        }
        for condition in [
            "tags.site = 'North'",
            "tags.none = 'x'",
            "tags.none != 'x'",
            "NOT tags.none = 'x'",
            "tags.site > 3",
            "tags.site = 3",
            "capabilities.iotEdge",
            "tags.floor IN []",
            "STARTSWITH(tags.floor, '3')",
        ] {
            assert!(!holds(condition), "{condition}");
        }
    }

    #[test]
    fn an_unknown_part_decides_nothing() {
        assert!(holds("tags.none = 1 OR status = 'enabled'"));
        assert!(!holds("tags.none = 1 AND status = 'enabled'"));
        assert!(!holds("NOT (tags.none = 1 AND status = 'enabled')"));
        assert!(holds("NOT (tags.none = 1 AND status = 'disabled')"));
    }

    #[test]
    fn quotes_are_doubled_within_a_text() {
        assert!(holds("'it''s' = \"it's\""));
        assert!(holds(r"'it\'s' = 'it''s'"));
    }

    #[test]
    fn columns_are_named_by_alias_or_by_their_last_name() {
        let query = "SELECT TOP 5 deviceId, tags.site, tags.floor AS level, tags.none FROM devices";
        let query = Query::parse(query).unwrap();
        assert_eq!(query.top, Some(5));
        assert!(!query.selects_twins());
        assert_eq!(
            query.project(&row()),
            json!({ "deviceId": "dev-1", "site": "north", "level": 3 })
        );
    }

    #[test]
    fn rows_are_put_together_by_group() {
        let put_together = |query: &str| {
            let query = Query::parse(query).unwrap();
            assert!(query.aggregates());
            let mut groups = Groups::default();
            for (site, floor) in [
                ("n", json!(1)),
                ("s", json!(2)),
                ("n", json!(2.5)),
                ("n", json!("x")),
            ] {
                let row = json!({ "tags": { "site": site, "floor": floor } });
                if query.matches(&row) {
                    groups.add(&query, &row);
                }
            }
            Value::from(groups.rows(&query))
        };
        assert_eq!(
            put_together("SELECT COUNT() AS n FROM devices"),
            json!([{ "n": 4 }])
        );
        assert_eq!(
            put_together("SELECT count(*) AS n FROM devices WHERE tags.site = 'none'"),
            json!([{ "n": 0 }])
        );
        assert_eq!(
            put_together(
                "SELECT tags.site AS site, COUNT() AS n, SUM(tags.floor) AS sum, AVG(tags.floor) AS avg, \
                 MIN(tags.floor) AS min, MAX(tags.floor) AS max FROM devices GROUP BY tags.site"
            ),
            json!([
                { "site": "n", "n": 3, "sum": 3.5, "avg": 1.75, "min": 1, "max": 2.5 },
                { "site": "s", "n": 1, "sum": 2, "avg": 2, "min": 2, "max": 2 },
            ])
        );
    }

    #[test]
    fn what_is_not_understood_is_told_with_its_place() {
        for (query, error) in [
            ("", "the end instead of SELECT at character 1 of the query"),
            (
                "SELECT * FROM things",
                "The collection 'things', where only 'devices' and 'devices.modules' are simulated, \
                 at character 15 of the query",
            ),
            (
                "SELECT * FROM devices WHERE tags.a =",
                "the end instead of a name at character 37 of the query",
            ),
            (
                "SELECT * FROM devices WHERE tags.a ~ 1",
                "Unexpected '~' at character 36 of the query",
            ),
            (
                "SELECT * FROM devices WHERE (tags.a = 1",
                "the end instead of ')' at character 40 of the query",
            ),
            (
                "SELECT * FROM devices WHERE tags.é = 'x",
                "A text that does not end at character 38 of the query",
            ),
            (
                "SELECT * FROM devices ORDER BY deviceId",
                "'ORDER' instead of the end of the query at character 23 of the query",
            ),
            (
                "SELECT tags.a, COUNT() AS n FROM devices",
                "The column 'a', which is neither put together nor in GROUP BY, at character 41 of the query",
            ),
        ] {
            assert_eq!(refused(query), error, "{query}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| format!("{}status{}", "(".repeat(depth), ")".repeat(depth));
        let query =
            |condition: &str| Query::parse(&format!("SELECT * FROM devices WHERE {condition}"));
        query(&nested(30)).unwrap();
        query(&nested(100_000)).unwrap_err();
        query(&nested(5_000)).unwrap_err();
        query(&format!("{} status", "NOT ".repeat(1000))).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(
            words in proptest::collection::vec(
                prop_oneof![
                    prop::sample::select(vec![
                        "SELECT", "TOP", "*", "FROM", "devices", ".", "modules", "WHERE", "NOT", "(", ")", "[",
                        "]", "[[", "]]", "IN", "NIN", "AND", "OR", "GROUP", "BY", "AS", "COUNT", ",", "=", "<",
                        "-", "1", "1e", "'", "\"", "'a'", "tags", "null", "IS_DEFINED", "STARTSWITH", ";", "é",
                    ]).prop_map(str::to_owned),
                    ".{0,3}",
                ],
                0..20,
            ),
            spaced in any::<bool>(),
        ) {
            let text = words.join(if spaced { " " } else { "" });
            if let Ok(query) = Query::parse(&text) {
                query.matches(&row());
                query.project(&row());
            }
        }

        #[test]
        fn any_text_can_be_asked_for(text in ".{0,20}") {
            let quoted = text.replace('\\', r"\\").replace('\'', "''");
            let query = Query::parse(&format!("SELECT * FROM devices WHERE deviceId = '{quoted}'")).unwrap();
            let row = json!({ "deviceId": text });
            prop_assert!(query.matches(&row));
        }
    }
}
