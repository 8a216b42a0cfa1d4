//! Numbers of variable length: seven bits a byte, low bits first, the top bit set in all but the
//! last byte. Signed ones are zigzag-coded. Kafka's records and Firn's own state rows use them.

/// Takes a 32-bit number off the front; `None` if it is cut off or does not fit.
pub fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    i32::try_from(take(bytes, 5).map(unzigzag)?).ok()
}

/// Takes a 64-bit number off the front; `None` if it is cut off or does not fit.
pub fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    take(bytes, 10).map(unzigzag)
}

/// Writes a 32-bit number.
pub fn put_i32(out: &mut Vec<u8>, value: i32) {
    put_i64(out, i64::from(value));
}

/// Writes a 64-bit number.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, zigzag(value));
}

/// How many bytes [`put_i64`] writes.
pub fn len_i64(value: i64) -> usize {
    // seven bits a byte, and one byte for 0
    let bits = u64::BITS - (zigzag(value) | 1).leading_zeros();
    // a seventh, rounded up, of all numbers up to 64
    ((bits * 9 + 64) / 64) as usize
}

/// Takes an unsigned 64-bit number off the front; `None` if it is cut off or does not fit.
pub fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes, 10)
}

/// Writes an unsigned 64-bit number.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(bytes: &mut &[u8], bytes_max: usize) -> Option<u64> {
    // most lengths and deltas of real records fit one byte
    let first = *bytes.first()?;
    if first < 0x80 {
        *bytes = &bytes[1..];
        return Some(u64::from(first));
    }
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(bytes_max).enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * index;
        // the tenth byte has room for one bit only
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

/// Numbers near zero, whatever their sign, as small ones.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_reads_back(value: i64, small: i32, unsigned: u64) {
            let mut out = Vec::new();
            put_i64(&mut out, value);
            prop_assert_eq!(out.len(), len_i64(value));
            put_i32(&mut out, small);
            prop_assert_eq!(out.len(), len_i64(value) + len_i64(i64::from(small)));
            put_u64(&mut out, unsigned);
            let mut rest = out.as_slice();
            prop_assert_eq!(take_i64(&mut rest), Some(value));
            prop_assert_eq!(take_i32(&mut rest), Some(small));
            prop_assert_eq!(take_u64(&mut rest), Some(unsigned));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_number_takes_a_byte_for_seven_bits() {
        for (value, bytes) in [(0, 1), (-64, 1), (64, 2), (-1 << 31, 5), (i64::MIN, 10)] {
            assert_eq!(len_i64(value), bytes, "{value}");
        }
    }

    #[test]
    fn numbers_that_are_cut_off_or_too_long_are_refused() {
        for bytes in [&[][..], &[0x80], &[0xff; 4]] {
            assert_eq!(take_i32(&mut { bytes }), None);
        }
        assert_eq!(take_i32(&mut &[0xff; 6][..]), None);
        assert_eq!(take_i64(&mut &[0xff; 11][..]), None);
        // five bytes can hold 35 bits, of which a 32-bit number has no use
        assert_eq!(take_i32(&mut &[0xff, 0xff, 0xff, 0xff, 0x7f][..]), None);
        let ten = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(take_i64(&mut &ten[..]), None);
    }
}
