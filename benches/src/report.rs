//! How figures are told: a table to be read, or one JSON object.

#![expect(
    clippy::print_stdout,
    reason = "the programs' way to tell what they measured"
)]

use std::thread::available_parallelism;

use serde_json::{Map, Value, json};

/// Named values, in the order in which they are read.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// Makes an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    fn to_map(&self) -> Map<String, Value> {
        self.0
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }
}

/// What a program measured, and under which conditions.
#[derive(Debug, Clone)]
pub struct Report {
    program: &'static str,
    conditions: Fields,
    results: Fields,
    rows: Vec<Fields>,
}

impl Report {
    /// Starts a report with what was asked for; build and cores are added.
    #[must_use]
    pub fn new(program: &'static str, conditions: Fields) -> Self {
        let build = match cfg!(debug_assertions) {
            true => "debug",
            false => "release",
        };
        let cores = available_parallelism().map_or(0, usize::from);
        Self {
            program,
            conditions: conditions.with("build", build).with("cores", cores),
            results: Fields::new(),
            rows: Vec::new(),
        }
    }

    /// Sets the figures that there is one of each.
    #[must_use]
    pub fn with_results(mut self, results: Fields) -> Self {
        self.results = results;
        self
    }

    /// Adds a row of the table; all rows have the same names.
    #[must_use]
    pub fn with_row(mut self, row: Fields) -> Self {
        self.rows.push(row);
        self
    }

    /// Prints it, as one JSON object or as tables.
    pub fn print(&self, as_json: bool) {
        if as_json {
            let mut results = self.results.to_map();
            if !self.rows.is_empty() {
                let rows: Vec<_> = self.rows.iter().map(Fields::to_map).collect();
                results.insert("rows".to_owned(), json!(rows));
            }
            let conditions = self.conditions.to_map();
            println!(
                "{}",
                json!({"program": self.program, "conditions": conditions, "results": results})
            );
            return;
        }
        println!("{}", self.program);
        for (name, value) in &self.conditions.0 {
            println!("  {name}: {}", text(value));
        }
        println!();
        for line in self.table() {
            println!("{line}");
        }
        for (name, value) in &self.results.0 {
            println!("{name:<40} {:>14}", text(value));
        }
    }

    fn table(&self) -> Vec<String> {
        let Some(first) = self.rows.first() else {
            return Vec::new();
        };
        let header = first.0.iter().map(|(name, _)| (*name).to_owned()).collect();
        let rows = self.rows.iter();
        let mut lines: Vec<Vec<String>> = vec![header];
        lines.extend(rows.map(|row| row.0.iter().map(|(_, value)| text(value)).collect()));
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(String::len).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        let join = |line: &Vec<String>| {
            let cells = line.iter().zip(&widths).enumerate();
            let cells: Vec<String> = cells
                .map(|(column, (cell, width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            cells.join("  ")
        };
        let mut table: Vec<String> = lines.iter().map(join).collect();
        table.push(String::new());
        table
    }
}

/// Writes a value for people: numbers to three digits or so.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            let digits = match number.abs() {
                small if small < 10.0 => 3,
                middling if middling < 1000.0 => 1,
                _ => 0,
            };
            format!("{number:.digits$}")
        }
        other => other.to_string(),
    }
}
