//! From tokens to a query, by recursive descent of bounded depth.

use std::borrow::Cow;

use serde_json::Value;

use super::lexer::{Kind, Token};
use super::{
    Aggregate, Column, ColumnValue, Comparison, Condition, Operand, Path, Query, Select, Source,
    SyntaxError, Test, TextTest,
};

/// Deepest nesting of parentheses and negations.
const MAX_DEPTH: usize = 32;

/// Words that end a list of names.
const KEYWORDS: [&str; 13] = [
    "SELECT", "TOP", "FROM", "WHERE", "GROUP", "ORDER", "BY", "AS", "AND", "OR", "NOT", "IN", "NIN",
];

pub(super) fn parse(tokens: &[Token]) -> Result<Query, SyntaxError> {
    Parser {
        tokens,
        at: 0,
        depth: 0,
    }
    .query()
}

struct Parser<'a> {
    /// Never empty: the last one is the end.
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn query(mut self) -> Result<Query, SyntaxError> {
        self.expect_word("SELECT")?;
        let top = self.word("TOP").then(|| self.count()).transpose()?;
        let select = self.select()?;
        self.expect_word("FROM")?;
        let source = self.source()?;
        let filter = self.word("WHERE").then(|| self.any()).transpose()?;
        let group_by = if self.word("GROUP") {
            self.expect_word("BY")?;
            self.list(|parser| parser.path())?
        } else {
            Vec::new()
        };
        if *self.peek() != Kind::End {
            return Err(self.unexpected("the end of the query"));
        }
        let query = Query {
            source,
            top,
            select,
            filter,
            group_by,
        };
        if query.aggregates() {
            self.check_groups(&query)?;
        }
        Ok(query)
    }

    /// Columns beside aggregates must be what the rows are grouped by.
    fn check_groups(&self, query: &Query) -> Result<(), SyntaxError> {
        let Select::Columns(columns) = &query.select else {
            return Err(self.error("'*' with GROUP BY"));
        };
        let stray = columns.iter().find(|column| {
            matches!(&column.value, ColumnValue::Path(path) if !query.group_by.contains(path))
        });
        match stray {
            Some(column) => Err(self.error(format!(
                "The column '{}', which is neither put together nor in GROUP BY,",
                column.name
            ))),
            None => Ok(()),
        }
    }

    fn count(&mut self) -> Result<usize, SyntaxError> {
        let count = match self.peek() {
            Kind::Number(number) => number.as_u64().and_then(|n| usize::try_from(n).ok()),
            _ => None,
        };
        let count = count.ok_or_else(|| self.unexpected("a number of rows"))?;
        self.at += 1;
        Ok(count)
    }

    fn select(&mut self) -> Result<Select, SyntaxError> {
        if self.sign("*") {
            return Ok(Select::Everything);
        }
        let mut columns = self.list(Self::column)?;
        for (index, column) in columns.iter_mut().enumerate() {
            if column.name.is_empty() {
                column.name = format!("${}", index + 1);
            }
        }
        Ok(Select::Columns(columns))
    }

    /// A path or an aggregate; its name is empty if it has none.
    fn column(&mut self) -> Result<Column, SyntaxError> {
        let aggregate = self.function(|name| match name {
            "COUNT" => Some(Aggregate::Count),
            "SUM" => Some(Aggregate::Sum),
            "AVG" => Some(Aggregate::Avg),
            "MIN" => Some(Aggregate::Min),
            "MAX" => Some(Aggregate::Max),
            _ => None,
        });
        let value = match aggregate {
            Some(Aggregate::Count) if self.sign("*") || self.peek_sign(")") => {
                self.expect_sign(")")?;
                ColumnValue::Aggregate(Aggregate::Count, None)
            }
            Some(aggregate) => {
                let path = self.path()?;
                self.expect_sign(")")?;
                ColumnValue::Aggregate(aggregate, Some(path))
            }
            None => ColumnValue::Path(self.path()?),
        };
        let name = if self.word("AS") {
            self.name()?
        } else {
            match &value {
                ColumnValue::Path(path) => path.last().cloned().unwrap_or_default(),
                ColumnValue::Aggregate(..) => String::new(),
            }
        };
        Ok(Column { name, value })
    }

    fn source(&mut self) -> Result<Source, SyntaxError> {
        let start = self.at;
        let name = self.dotted()?.join(".").to_ascii_lowercase();
        match name.as_str() {
            "devices" => Ok(Source::Devices),
            "devices.modules" => Ok(Source::Modules),
            other => {
                self.at = start;
                Err(self.error(format!(
                    "The collection '{other}', where only 'devices' and 'devices.modules' are simulated,"
                )))
            }
        }
    }

    fn any(&mut self) -> Result<Condition, SyntaxError> {
        let first = self.all()?;
        let mut conditions = vec![first];
        while self.word("OR") {
            conditions.push(self.all()?);
        }
        Ok(one_or(conditions, Condition::Any))
    }

    fn all(&mut self) -> Result<Condition, SyntaxError> {
        let first = self.not()?;
        let mut conditions = vec![first];
        while self.word("AND") {
            conditions.push(self.not()?);
        }
        Ok(one_or(conditions, Condition::All))
    }

    fn not(&mut self) -> Result<Condition, SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("Nesting deeper than 32 levels"));
        }
        let condition = if self.word("NOT") {
            Condition::Not(Box::new(self.not()?))
        } else if self.sign("(") {
            let condition = self.any()?;
            self.expect_sign(")")?;
            condition
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn comparison(&mut self) -> Result<Condition, SyntaxError> {
        if let Some(condition) = self.test()? {
            return Ok(condition);
        }
        let left = self.operand()?;
        if let Some(comparison) = self.comparator() {
            return Ok(Condition::Compare(left, comparison, self.operand()?));
        }
        let negated = self.word("NOT");
        if self.word("IN") {
            let values = self.constants()?;
            let within = Condition::In(left, values);
            return Ok(if negated {
                Condition::Not(Box::new(within))
            } else {
                within
            });
        }
        if !negated && self.word("NIN") {
            let values = self.constants()?;
            return Ok(Condition::Not(Box::new(Condition::In(left, values))));
        }
        if negated {
            return Err(self.unexpected("IN"));
        }
        Ok(Condition::Holds(left))
    }

    /// A function that is true or false.
    fn test(&mut self) -> Result<Option<Condition>, SyntaxError> {
        let of_property = self.function(|name| match name {
            "IS_DEFINED" => Some(Test::Defined),
            "IS_NULL" => Some(Test::Null),
            "IS_BOOL" => Some(Test::Bool),
            "IS_NUMBER" => Some(Test::Number),
            "IS_STRING" => Some(Test::Text),
            "IS_OBJECT" => Some(Test::Object),
            "IS_ARRAY" => Some(Test::Array),
            "IS_PRIMITIVE" => Some(Test::Primitive),
            _ => None,
        });
        if let Some(test) = of_property {
            let path = self.path()?;
            self.expect_sign(")")?;
            return Ok(Some(Condition::Test(test, path)));
        }
        let of_texts = self.function(|name| match name {
            "STARTSWITH" | "STARTS_WITH" => Some(TextTest::StartsWith),
            "ENDSWITH" | "ENDS_WITH" => Some(TextTest::EndsWith),
            "CONTAINS" => Some(TextTest::Contains),
            _ => None,
        });
        let Some(test) = of_texts else {
            return Ok(None);
        };
        let text = self.operand()?;
        self.expect_sign(",")?;
        let part = self.operand()?;
        self.expect_sign(")")?;
        Ok(Some(Condition::Texts(test, text, part)))
    }

    fn comparator(&mut self) -> Option<Comparison> {
        let comparison = match self.peek() {
            Kind::Sign("=") => Comparison::Equal,
            Kind::Sign("!=" | "<>") => Comparison::NotEqual,
            Kind::Sign("<") => Comparison::Less,
            Kind::Sign("<=") => Comparison::LessOrEqual,
            Kind::Sign(">") => Comparison::Greater,
            Kind::Sign(">=") => Comparison::GreaterOrEqual,
            _ => return None,
        };
        self.at += 1;
        Some(comparison)
    }

    fn operand(&mut self) -> Result<Operand, SyntaxError> {
        if let Some(constant) = self.constant()? {
            return Ok(Operand::Constant(constant));
        }
        Ok(Operand::Path(self.path()?))
    }

    /// A list in brackets or parentheses.
    fn constants(&mut self) -> Result<Vec<Value>, SyntaxError> {
        let close = if self.sign("(") {
            ")"
        } else {
            self.expect_sign("[")?;
            "]"
        };
        if self.sign(close) {
            return Ok(Vec::new());
        }
        let values = self.list(|parser| {
            let constant = parser.constant()?;
            constant.ok_or_else(|| parser.unexpected("a constant"))
        })?;
        self.expect_sign(close)?;
        Ok(values)
    }

    fn constant(&mut self) -> Result<Option<Value>, SyntaxError> {
        let negative = self.sign("-");
        let constant = match self.peek() {
            Kind::Number(number) if negative => {
                let negated = match (number.as_i64(), number.as_f64()) {
                    (Some(n), _) => Some(Value::from(-n)),
                    (None, Some(n)) => Some(Value::from(-n)),
                    (None, None) => None,
                };
                Some(negated.ok_or_else(|| self.unexpected("a number"))?)
            }
            _ if negative => return Err(self.unexpected("a number")),
            Kind::Number(number) => Some(number.clone()),
            Kind::Text(text) => Some(text.clone().into()),
            Kind::Word {
                text,
                quoted: false,
            } => match text.to_ascii_lowercase().as_str() {
                "true" => Some(true.into()),
                "false" => Some(false.into()),
                "null" => Some(Value::Null),
                _ => None,
            },
            _ => None,
        };
        self.at += usize::from(constant.is_some());
        Ok(constant)
    }

    /// A path from the root of the twin; the name of the collection before it is dropped.
    fn path(&mut self) -> Result<Path, SyntaxError> {
        let mut path = self.dotted()?;
        let named = |path: &Path, at: usize, name: &str| {
            path.len() > at + 1 && path[at].eq_ignore_ascii_case(name)
        };
        if named(&path, 0, "devices") {
            let collection = if named(&path, 1, "modules") { 2 } else { 1 };
            path.drain(..collection);
        }
        Ok(path)
    }

    fn dotted(&mut self) -> Result<Path, SyntaxError> {
        let mut path = vec![self.name()?];
        loop {
            if self.sign(".") {
                // Below the root any word is a name.
                path.push(self.any_name()?);
            } else if self.peek_sign("[") && matches!(self.peek_after(), Kind::Text(_)) {
                self.at += 1;
                if let Kind::Text(name) = self.peek() {
                    path.push(name.clone());
                }
                self.at += 1;
                self.expect_sign("]")?;
            } else {
                return Ok(path);
            }
        }
    }

    /// A name that is no keyword.
    fn name(&mut self) -> Result<String, SyntaxError> {
        let is_keyword = KEYWORDS.iter().any(|keyword| self.peek_word(keyword));
        if is_keyword {
            return Err(self.unexpected("a name"));
        }
        self.any_name()
    }

    fn any_name(&mut self) -> Result<String, SyntaxError> {
        let name = match self.peek() {
            Kind::Word { text, .. } => Some(text.clone()),
            // A key may be all digits.
            Kind::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let name = name.ok_or_else(|| self.unexpected("a name"))?;
        self.at += 1;
        Ok(name)
    }

    /// Takes the name and the opening parenthesis of a function that is known.
    fn function<T>(&mut self, known: impl Fn(&str) -> Option<T>) -> Option<T> {
        let Kind::Word {
            text,
            quoted: false,
        } = self.peek()
        else {
            return None;
        };
        let function = known(&text.to_ascii_uppercase())?;
        if *self.peek_after() != Kind::Sign("(") {
            return None;
        }
        self.at += 2;
        Some(function)
    }

    fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<Vec<T>, SyntaxError> {
        let mut items = vec![item(self)?];
        while self.sign(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn token(&self, at: usize) -> &Token {
        // Past the end there is only the end.
        &self.tokens[at.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Kind {
        &self.token(self.at).kind
    }

    fn peek_after(&self) -> &Kind {
        &self.token(self.at + 1).kind
    }

    fn peek_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Kind::Sign(found) if *found == sign)
    }

    fn peek_word(&self, word: &str) -> bool {
        matches!(self.peek(), Kind::Word { text, quoted: false } if text.eq_ignore_ascii_case(word))
    }

    /// Takes a sign if it is next.
    fn sign(&mut self, sign: &str) -> bool {
        let is_next = self.peek_sign(sign);
        self.at += usize::from(is_next);
        is_next
    }

    /// Takes a keyword if it is next.
    fn word(&mut self, word: &str) -> bool {
        let is_next = self.peek_word(word);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect_sign(&mut self, sign: &'static str) -> Result<(), SyntaxError> {
        if self.sign(sign) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("'{sign}'")))
        }
    }

    fn expect_word(&mut self, word: &str) -> Result<(), SyntaxError> {
        if self.word(word) {
            Ok(())
        } else {
            Err(self.unexpected(word))
        }
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        let found = match self.peek() {
            Kind::Word { text, .. } => format!("'{text}'"),
            Kind::Text(_) => "a text".to_owned(),
            Kind::Number(number) => number.to_string(),
            Kind::Sign(sign) => format!("'{sign}'"),
            Kind::End => "the end".to_owned(),
        };
        self.error(format!("{found} instead of {wanted}"))
    }

    fn error(&self, what: impl Into<Cow<'static, str>>) -> SyntaxError {
        SyntaxError {
            what: what.into(),
            position: self.token(self.at).position,
        }
    }
}

/// The only condition, or all of them together.
fn one_or(
    mut conditions: Vec<Condition>,
    together: impl Fn(Vec<Condition>) -> Condition,
) -> Condition {
    match conditions.len() {
        1 => conditions.remove(0),
        _ => together(conditions),
    }
}
