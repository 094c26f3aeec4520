//! Rows as text: CSV and lines of JSON.

use std::io::{self, Write};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::Sink;
use crate::columns::{CandidateRow, Column, Value};

/// Comma-separated values with a header.
pub(super) struct Csv<W: Write> {
    columns: Vec<Column>,
    writer: csv::Writer<W>,
    has_header: bool,
}

impl<W: Write> Csv<W> {
    pub(super) fn new(to: W, columns: Vec<Column>) -> Self {
        Self { columns, writer: csv::Writer::from_writer(to), has_header: false }
    }

    fn header(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_header, true) {
            self.writer.write_record(self.columns.iter().map(|column| &column.name)).map_err(unwrap)?;
        }
        Ok(())
    }
}

/// Error that the writer was told by what it writes to.
fn unwrap(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

impl<W: Write> Sink for Csv<W> {
    fn write(&mut self, row: CandidateRow) -> io::Result<()> {
        self.header()?;
        let words = self.columns.iter().map(|column| match column.value(&row) {
            Value::Text(text) => text,
            Value::Count(count) => count.to_string(),
            Value::Number(number) => number.map_or(String::new(), |number| number.to_string()),
        });
        self.writer.write_record(words).map_err(unwrap)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.header()?;
        self.writer.flush()
    }
}

/// A JSON object on each line.
pub(super) struct Lines<W: Write> {
    columns: Vec<Column>,
    to: W,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(to: W, columns: Vec<Column>) -> Self {
        Self { columns, to }
    }
}

/// A row as an object with the columns in their order.
struct Object<'a>(&'a [Column], &'a CandidateRow);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for column in self.0 {
            match column.value(self.1) {
                Value::Text(text) => map.serialize_entry(&column.name, &text)?,
                Value::Count(count) => map.serialize_entry(&column.name, &count)?,
                Value::Number(number) => map.serialize_entry(&column.name, &number)?,
            }
        }
        map.end()
    }
}

impl<W: Write> Sink for Lines<W> {
    fn write(&mut self, row: CandidateRow) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, &Object(&self.columns, &row))?;
        self.to.write_all(b"\n")
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.to.flush()
    }
}
