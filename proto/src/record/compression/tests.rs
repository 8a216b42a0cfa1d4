use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn round_trip(codec: Codec, plain: &[u8]) -> Vec<u8> {
    let stored = compress(codec.into(), plain).unwrap();
    decompress(codec, &stored, plain.len())
        .unwrap()
        .into_owned()
}

proptest! {
    #[test]
    fn every_codec_gives_back_what_went_in(
        piece in vec(any::<u8>(), 0..200),
        times in 0..400_usize,
    ) {
        let plain = piece.repeat(times);
        for codec in Codec::ALL {
            prop_assert_eq!(&round_trip(codec, &plain), &plain, "{:?}", codec);
        }
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_expand_beyond_the_bound(
        bytes in vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
        change in any::<u8>(),
    ) {
        for codec in Codec::ALL {
            let mut stored = compress(codec.into(), &bytes).unwrap().into_owned();
            if !stored.is_empty() {
                let at = cut.index(stored.len());
                stored[at] = change;
            }
            for hostile in [&stored, &bytes] {
                if let Ok(plain) = decompress(codec, hostile, 1000) {
                    prop_assert!(plain.len() <= 1000);
                }
            }
            if let Ok(plain) = decompress(codec, &stored[..cut.index(stored.len().max(1))], 1000) {
                prop_assert!(plain.len() <= 1000);
            }
        }
    }
}

#[test]
fn the_bound_is_exact() {
    let plain = vec![7; 100_000];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let stored = compress(codec.into(), &plain).unwrap();
        assert!(decompress(codec, &stored, 100_000).is_ok(), "{codec:?}");
        assert!(
            matches!(
                decompress(codec, &stored, 99_999),
                Err(CompressionError::TooLarge { .. })
            ),
            "{codec:?}"
        );
    }
}

#[test]
fn raw_snappy_and_strung_xerial_streams_are_read() {
    let plain = b"firn firn firn firn".repeat(9000);
    let raw = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    assert_eq!(decompress(Codec::Snappy, &raw, plain.len()).unwrap(), plain);
    let once = compress(Codec::Snappy.into(), &plain).unwrap();
    assert!(once.starts_with(&XERIAL_MAGIC));
    let twice = [once.as_ref(), once.as_ref()].concat();
    assert_eq!(
        decompress(Codec::Snappy, &twice, 2 * plain.len()).unwrap(),
        plain.repeat(2)
    );
}

#[test]
fn a_snappy_length_of_gigabytes_is_refused_before_memory_is_taken() {
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
    assert!(matches!(
        decompress(Codec::Snappy, &claim, usize::MAX),
        Err(CompressionError::Broken { .. })
    ));
}

#[test]
fn several_gzip_members_are_one_stream() {
    let once = compress(Codec::Gzip.into(), b"firn").unwrap();
    let twice = [once.as_ref(), once.as_ref()].concat();
    assert_eq!(
        decompress(Codec::Gzip, &twice, 8).unwrap().as_ref(),
        b"firnfirn"
    );
}

#[test]
fn levels_are_taken() {
    let plain: Vec<u8> = (0..60_000_u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect();
    for (codec, low, high) in [(Codec::Gzip, 1, 9), (Codec::Zstd, -7, 19)] {
        let len = |level| {
            let level = Some(level);
            compress(Compression { codec, level }, &plain)
                .unwrap()
                .len()
        };
        assert!(len(high) < len(low), "{codec:?}");
    }
}

#[test]
fn codecs_have_kafkas_numbers() {
    for (number, codec) in Codec::ALL.into_iter().enumerate() {
        assert_eq!(codec.number(), number as i16);
        assert_eq!(Codec::from_number(number as i16), Some(codec));
    }
    assert_eq!(Codec::from_number(5), None);
    assert_eq!(Codec::from_number(-1), None);
}
