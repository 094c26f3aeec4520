//! Rows as Apache Parquet: typed columns, compressed, in groups of rows.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::Sink;
use crate::columns::{CandidateRow, Column, Kind, Value};

/// Rows of a group: they are in memory until it is full.
const GROUP: usize = 32 * 1024;

/// A file under way.
pub(super) struct Parquet<W: Write + Send> {
    columns: Vec<Column>,
    rows: Vec<CandidateRow>,
    writer: SerializedFileWriter<W>,
}

impl<W: Write + Send> Parquet<W> {
    /// Starts a file.
    pub(super) fn new(to: W, columns: Vec<Column>) -> Result<Self, ParquetError> {
        let fields = columns.iter().map(|column| field(column).map(Arc::new)).collect::<Result<_, _>>()?;
        let schema = Type::group_type_builder("candidate").with_fields(fields).build()?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = SerializedFileWriter::new(to, Arc::new(schema), Arc::new(properties))?;
        Ok(Self { columns, rows: Vec::new(), writer })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let rows = std::mem::take(&mut self.rows);
        let mut group = self.writer.next_row_group()?;
        for column in &self.columns {
            let Some(mut writer) = group.next_column()? else { break };
            let values = rows.iter().map(|row| column.value(row));
            match column.kind() {
                Kind::Text => {
                    let text = |value| match value {
                        Value::Text(text) => ByteArray::from(text.into_bytes()),
                        _ => ByteArray::new(),
                    };
                    let values: Vec<ByteArray> = values.map(text).collect();
                    writer.typed::<ByteArrayType>().write_batch(&values, None, None)?;
                }
                Kind::Count => {
                    // As the format has it: the bits of an unsigned number in a signed one.
                    let count = |value| if let Value::Count(count) = value { count as i64 } else { 0 };
                    let values: Vec<i64> = values.map(count).collect();
                    writer.typed::<Int64Type>().write_batch(&values, None, None)?;
                }
                Kind::Number => {
                    let number = |value| if let Value::Number(number) = value { number } else { None };
                    let values: Vec<Option<f64>> = values.map(number).collect();
                    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
                    let values: Vec<f64> = values.into_iter().flatten().collect();
                    writer.typed::<DoubleType>().write_batch(&values, Some(&levels), None)?;
                }
            }
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }
}

fn field(column: &Column) -> Result<Type, ParquetError> {
    let (physical, logical, repetition) = match column.kind() {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String), Repetition::REQUIRED),
        Kind::Count => {
            let unsigned = LogicalType::integer(64, false);
            (Physical::INT64, Some(unsigned), Repetition::REQUIRED)
        }
        Kind::Number => (Physical::DOUBLE, None, Repetition::OPTIONAL),
    };
    let field = Type::primitive_type_builder(&column.name, physical);
    field.with_logical_type(logical).with_repetition(repetition).build()
}

/// Error of the file that is written to, if it is one.
fn unwrap(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        other => io::Error::other(other),
    }
}

impl<W: Write + Send> Sink for Parquet<W> {
    fn write(&mut self, row: CandidateRow) -> io::Result<()> {
        self.rows.push(row);
        if self.rows.len() == GROUP { self.write_group().map_err(unwrap) } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.rows.is_empty() {
            self.write_group().map_err(unwrap)?;
        }
        self.writer.finish().map_err(unwrap)?;
        self.writer.inner_mut().flush()
    }
}
