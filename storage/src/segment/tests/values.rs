//! Values that zstd does not make shorter are stored as they are, and come back all the same.

use arrow_array::cast::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaDataReader;

use super::hostile::{cover, read_all};
use super::*;
use crate::segment::schema::VALUE_LEAF;
use crate::segment::table::TRAILER_BYTES;

/// Batches of ten records each: noise, and behind every seven of it a null, an empty value and
/// another null.
fn noise(batches: i64, value_bytes: usize) -> Vec<BatchView> {
    let mut state = 1_u64;
    let mut byte = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        (state >> 56) as u8
    };
    (0..batches)
        .map(|batch| {
            let values: Vec<Vec<u8>> = (0..7)
                .map(|_| (0..value_bytes).map(&mut byte).collect())
                .collect();
            let mut records: Vec<NewRecord<'_>> = values
                .iter()
                .map(|value| record(None, Some(value)))
                .collect();
            records.extend([
                record(Some(b"gone"), None),
                record(None, Some(b"")),
                record(None, None),
            ]);
            batch_of(10 * batch, Codec::None, &records)
        })
        .collect()
}

/// Batches of ten records each that say the same.
fn words(batches: i64, value_bytes: usize) -> Vec<BatchView> {
    let value = b"the same again ".repeat(value_bytes.div_ceil(15));
    (0..batches)
        .map(|batch| batch_of(10 * batch, Codec::None, &[record(None, Some(&value)); 10]))
        .collect()
}

/// The batches, each from offset `base` on higher.
fn moved(batches: Vec<BatchView>, base: i64) -> impl Iterator<Item = BatchView> {
    batches.into_iter().map(move |batch| {
        let header = BatchHeader {
            base_offset: batch.header().base_offset + base,
            ..*batch.header()
        };
        assemble(&header, Codec::None.into(), batch.stored_records()).unwrap()
    })
}

/// How the values of each row group are compressed, as the footer says.
fn compressions(object: &[u8]) -> Vec<Compression> {
    let object = Bytes::copy_from_slice(object);
    let metadata = ParquetMetaDataReader::new()
        .parse_and_finish(&object)
        .unwrap();
    let groups = metadata.row_groups().iter();
    groups
        .map(|group| group.column(VALUE_LEAF).compression())
        .collect()
}

/// The values, as another reader of Parquet sees them.
fn seen(object: &[u8]) -> Vec<Option<Vec<u8>>> {
    let object = Bytes::copy_from_slice(object);
    let builder = ParquetRecordBatchReaderBuilder::try_new(object).unwrap();
    let rows = builder.build().unwrap().map(Result::unwrap);
    rows.flat_map(|rows| {
        let values = rows.column(5).as_binary::<i32>().clone();
        let values: Vec<_> = values
            .iter()
            .map(|value| value.map(<[u8]>::to_vec))
            .collect();
        values
    })
    .collect()
}

fn values_of(batches: &[BatchView]) -> Vec<Option<Vec<u8>>> {
    batches
        .iter()
        .flat_map(|batch| {
            let records = Records::new(batch.header(), batch.stored_records());
            records.map(|record| record.unwrap().value.map(<[u8]>::to_vec))
        })
        .collect()
}

#[test]
fn values_that_do_not_compress_are_stored_as_they_are() {
    let batches = noise(200, 500);
    let written = assert_round_trip(&[(PARTITION, batches.clone())]);
    assert_eq!(compressions(&written.sink), [Compression::UNCOMPRESSED]);
    assert_eq!(seen(&written.sink), values_of(&batches));
}

#[test]
fn values_that_compress_or_are_few_are_compressed() {
    let batches = words(200, 500);
    let few = noise(2, 500);
    let written = assert_round_trip(&[
        (PARTITION, batches.clone()),
        (PartitionIndex(4), few.clone()),
    ]);
    let found = compressions(&written.sink);
    assert!(
        found
            .iter()
            .all(|found| matches!(found, Compression::ZSTD(_))),
        "{found:?}"
    );
    assert_eq!(seen(&written.sink), values_of(&[batches, few].concat()));
}

#[test]
fn the_first_page_decides_for_its_row_group_alone() {
    let to_words: Vec<_> = noise(60, 500)
        .into_iter()
        .chain(moved(words(60, 500), 600))
        .collect();
    let to_noise: Vec<_> = words(60, 500)
        .into_iter()
        .chain(moved(noise(60, 500), 600))
        .collect();
    let written = assert_round_trip(&[
        (PARTITION, to_words.clone()),
        (PartitionIndex(4), to_noise.clone()),
    ]);
    let found = compressions(&written.sink);
    assert_eq!(found[0], Compression::UNCOMPRESSED);
    assert!(matches!(found[1], Compression::ZSTD(_)), "{found:?}");
    assert_eq!(
        seen(&written.sink),
        values_of(&[to_words, to_noise].concat())
    );
}

#[test]
fn pages_of_nulls_come_back() {
    let nulls = |base| batch_of(base, Codec::None, &[record(Some(b"k"), None); 15_000]);
    let batches = vec![
        nulls(0),
        nulls(15_000),
        batch_of(30_000, Codec::None, &[record(None, Some(b"one"))]),
        nulls(30_001),
    ];
    let written = assert_round_trip(&[(PARTITION, batches.clone())]);
    assert_eq!(seen(&written.sink), values_of(&batches));
}

#[test]
fn a_batch_that_breaks_off_leaves_no_value_behind() {
    let mut batches = noise(50, 500);
    let broken = [raw_record(0, 0, 0), raw_record(0, 0, 1), vec![40, 0]];
    batches.push(raw_batch(|header| header.base_offset = 500, &broken));
    batches.extend(moved(noise(50, 500), 600));
    let written = assert_round_trip(&[(PARTITION, batches.clone())]);
    batches.remove(50);
    assert_eq!(seen(&written.sink), values_of(&batches));
}

#[test]
fn damage_in_values_that_are_not_compressed_is_an_error_or_another_value() {
    let written = write(&[(PARTITION, noise(10, 500))]);
    let group = written.segment.runs[0].row_groups[0];
    let good = bytes_of(&written.sink, &group);
    assert_eq!(read_all(&good, &group).unwrap(), 10);
    for at in (0..good.len() - TRAILER_BYTES).step_by(101) {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x55;
        cover(&mut bytes);
        // whatever comes of it, nothing panics
        let _ = read_all(&Bytes::from(bytes), &group);
    }
}

#[test]
fn a_compressed_page_is_not_taken_for_one_that_is_not() {
    let written = write(&[(PARTITION, words(10, 500))]);
    let group = written.segment.runs[0].row_groups[0];
    let mut bytes = bytes_of(&written.sink, &group).to_vec();
    let trailer = bytes.len() - TRAILER_BYTES;
    bytes[trailer + 8] = 2;
    bytes[trailer + 100] = 1 << VALUE_LEAF;
    cover(&mut bytes);
    let found = read_all(&Bytes::from(bytes), &group);
    assert!(
        matches!(
            found,
            Err(SegmentFault::Column {
                column: "_kafka_value",
                ..
            })
        ),
        "{found:?}"
    );
}

/// Readers go by the trailer, engines by the footer.
#[test]
fn a_footer_that_calls_chunks_otherwise_compressed_than_the_trailer_is_found_out() {
    let [plain, shorter] = [noise(10, 1000), words(10, 1000)].map(|batches| {
        let written = write(&[(PARTITION, batches)]);
        let trailers = plain_chunks(&written.sink, &written.segment);
        verify_footer(&written.sink, &written.segment, &trailers).unwrap();
        (written, trailers)
    });
    for ((written, _), (_, trailers)) in [(&plain, &shorter), (&shorter, &plain)] {
        let found = verify_footer(&written.sink, &written.segment, trailers);
        assert!(
            matches!(&found, Err(SegmentFault::Differs(why)) if why.contains("compressed")),
            "{found:?}"
        );
    }
}
