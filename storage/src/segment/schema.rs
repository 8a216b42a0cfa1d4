//! The columns of a segment, and how they are stored.
//!
//! Field ids are part of the format: tables refer to columns by them. Ids 1 to 1000 are Firn's own.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use firn_proto::limits::{SEGMENT_DICTIONARY_BYTES, SEGMENT_PAGE_BYTES_TARGET};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

/// Columns that have pages of their own: the six, of which the headers are two.
pub(super) const LEAVES: usize = 7;

/// The column of values among them, the last.
pub(super) const VALUE_LEAF: usize = LEAVES - 1;

/// What the leaves are called in faults, in the order of their chunks.
pub(super) const LEAF_NAMES: [&str; LEAVES] = [
    "_kafka_partition",
    "_kafka_offset",
    "_kafka_timestamp",
    "_kafka_key",
    "_kafka_headers.key",
    "_kafka_headers.value",
    "_kafka_value",
];

const MESSAGE: &str = "
message firn {
  required int32 _kafka_partition = 1;
  required int64 _kafka_offset = 2;
  optional int64 _kafka_timestamp (TIMESTAMP(MICROS, true)) = 3;
  optional binary _kafka_key = 5;
  required group _kafka_headers (LIST) = 6 {
    repeated group list {
      required group element = 7 {
        required binary key (STRING) = 8;
        optional binary value = 9;
      }
    }
  }
  optional binary _kafka_value = 10;
}";

/// The schema as Parquet has it.
pub(super) fn parquet_schema() -> Result<TypePtr, ParquetError> {
    parse_message_type(MESSAGE).map(Arc::new)
}

/// As Arrow has it what is gathered in arrays: all but the values.
pub(super) fn gathered_schema() -> SchemaRef {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let element = Field::new("element", DataType::Struct(header_fields()), false);
    Arc::new(Schema::new(vec![
        Field::new("_kafka_partition", DataType::Int32, false),
        Field::new("_kafka_offset", DataType::Int64, false),
        Field::new("_kafka_timestamp", micros, true),
        Field::new("_kafka_key", DataType::Binary, true),
        Field::new("_kafka_headers", DataType::List(Arc::new(element)), false),
    ]))
}

/// Key and value of a header.
pub(super) fn header_fields() -> Fields {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Binary, true),
    ])
}

/// The level of zstd at which everything is compressed.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// How pages are compressed.
pub(super) fn zstd() -> Result<Compression, ParquetError> {
    ZstdLevel::try_new(ZSTD_LEVEL).map(Compression::ZSTD)
}

/// Pages of version 1, which every engine reads, zstd level 1, a page index. Headers have no
/// statistics, which cost CPU for each of them and say little. The values are written apart, with
/// neither those nor a dictionary, for the same reason.
pub(super) fn properties() -> Result<WriterProperties, ParquetError> {
    let column = |parts: &[&str]| {
        let parts = parts.iter().map(|part| (*part).to_owned());
        ColumnPath::new(parts.collect())
    };
    let offset = column(&["_kafka_offset"]);
    let timestamp = column(&["_kafka_timestamp"]);
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("firn".to_owned())
        .set_compression(zstd()?)
        .set_data_page_size_limit(SEGMENT_PAGE_BYTES_TARGET)
        .set_dictionary_page_size_limit(SEGMENT_DICTIONARY_BYTES);
    for column in [offset, timestamp] {
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    let headers = ["key", "value"].map(|leaf| column(&["_kafka_headers", "list", "element", leaf]));
    for column in headers {
        properties = properties.set_column_statistics_enabled(column, EnabledStatistics::None);
    }
    Ok(properties.build())
}
