//! The two packed forms of numbers in Parquet pages, read one number at a time: runs and packed
//! groups (RLE/bit-packing hybrid), and differences (DELTA_BINARY_PACKED).
//!
//! The decoders hold positions, not bytes: the page is handed to every call. `None` always means
//! that the page does not hold what it says.
//!
//! Architecture invariant: pure; no call panics, loops without end or allocates, whatever the bytes.

use firn_proto::varint::{take_i64, take_u64};

/// The RLE/bit-packing hybrid: levels and dictionary indices.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hybrid {
    at: usize,
    end: usize,
    width: u32,
    repeated: u64,
    value: u32,
    packed: u64,
    bit: usize,
}

impl Hybrid {
    /// Numbers of `width` bits in `page[at..end]`.
    pub(super) fn new(at: usize, end: usize, width: u32) -> Option<Self> {
        (width <= u32::BITS).then_some(Self {
            at,
            end,
            width,
            ..Self::default()
        })
    }

    #[inline]
    pub(super) fn next(&mut self, page: &[u8]) -> Option<u32> {
        if self.repeated > 0 {
            self.repeated -= 1;
            return Some(self.value);
        }
        self.next_of_run(page)
    }

    fn next_of_run(&mut self, page: &[u8]) -> Option<u32> {
        loop {
            if self.repeated > 0 {
                self.repeated -= 1;
                return Some(self.value);
            }
            if self.packed > 0 {
                self.packed -= 1;
                let value = bits(page, self.bit, self.width);
                self.bit += self.width as usize;
                // the width is at most 32
                return Some(value as u32);
            }
            self.next_run(page)?;
        }
    }

    /// The number that comes next, and how often it does in a row, as far as one run says.
    pub(super) fn run(&mut self, page: &[u8]) -> Option<(u32, u64)> {
        while self.repeated == 0 && self.packed == 0 {
            self.next_run(page)?;
        }
        match self.repeated {
            // the width is at most 32
            0 => Some((bits(page, self.bit, self.width) as u32, 1)),
            repeated => Some((self.value, repeated)),
        }
    }

    /// Passes over `count` of the numbers that [`Self::run`] has found.
    pub(super) fn pass(&mut self, count: u64) {
        if self.repeated > 0 {
            self.repeated = self.repeated.saturating_sub(count);
        } else if count > 0 {
            self.packed = self.packed.saturating_sub(1);
            self.bit += self.width as usize;
        }
    }

    fn next_run(&mut self, page: &[u8]) -> Option<()> {
        let mut rest = page.get(self.at..self.end)?;
        let head = take_u64(&mut rest)?;
        self.at = self.end - rest.len();
        let count = head >> 1;
        let bytes = if head & 1 == 1 {
            self.bit = self.at.checked_mul(8)?;
            self.packed = count.checked_mul(8)?;
            // groups of eight numbers, each of as many bytes as a number has bits
            usize::try_from(count)
                .ok()?
                .checked_mul(self.width as usize)?
        } else {
            let bytes = self.width.div_ceil(8) as usize;
            let value = rest.get(..bytes)?.iter().rev();
            self.value = value.fold(0, |value, byte| value << 8 | u32::from(*byte));
            self.repeated = count;
            bytes
        };
        self.at = self.at.checked_add(bytes).filter(|at| *at <= self.end)?;
        Some(())
    }
}

/// Differences in blocks of packed miniblocks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delta {
    at: usize,
    left: u64,
    value: i64,
    is_first: bool,
    miniblocks: usize,
    values_per_miniblock: usize,
    min_delta: i64,
    /// Where the widths of this block's miniblocks are, and which one is next.
    widths: usize,
    miniblock: usize,
    left_in_miniblock: usize,
    bit: usize,
    width: u32,
}

impl Delta {
    /// The numbers in `page[at..]`.
    pub(super) fn new(page: &[u8], at: usize) -> Option<Self> {
        let mut rest = page.get(at..)?;
        let block = usize::try_from(take_u64(&mut rest)?).ok()?;
        let miniblocks = usize::try_from(take_u64(&mut rest)?).ok()?;
        let left = take_u64(&mut rest)?;
        let value = take_i64(&mut rest)?;
        let values_per_miniblock = block.checked_div(miniblocks)?;
        let fits = values_per_miniblock.is_multiple_of(8)
            && values_per_miniblock > 0
            && block <= BLOCK_VALUES_MAX;
        fits.then_some(Self {
            at: page.len() - rest.len(),
            left,
            value,
            is_first: true,
            miniblocks,
            values_per_miniblock,
            miniblock: miniblocks,
            ..Self::default()
        })
    }

    pub(super) fn next(&mut self, page: &[u8]) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        if self.is_first {
            self.is_first = false;
            return Some(self.value);
        }
        if self.left_in_miniblock == 0 {
            self.next_miniblock(page)?;
        }
        self.left_in_miniblock -= 1;
        let packed = bits(page, self.bit, self.width).cast_signed();
        self.bit += self.width as usize;
        self.value = self.value.wrapping_add(self.min_delta).wrapping_add(packed);
        Some(self.value)
    }

    fn next_miniblock(&mut self, page: &[u8]) -> Option<()> {
        if self.miniblock == self.miniblocks {
            let mut rest = page.get(self.at..)?;
            self.min_delta = take_i64(&mut rest)?;
            self.widths = page.len() - rest.len();
            self.at = self.widths.checked_add(self.miniblocks)?;
            self.miniblock = 0;
        }
        self.width = u32::from(*page.get(self.widths + self.miniblock)?);
        let bytes = self.values_per_miniblock / 8 * self.width as usize;
        if self.width > u64::BITS || page.len().checked_sub(self.at)? < bytes {
            return None;
        }
        self.bit = self.at.checked_mul(8)?;
        self.at += bytes;
        self.miniblock += 1;
        self.left_in_miniblock = self.values_per_miniblock;
        Some(())
    }
}

/// Numbers in a block that are still taken for one: writers use 128 or 256.
const BLOCK_VALUES_MAX: usize = 64 * 1024;

/// The `width` bits, at most 64, from bit `at` of `page` on; what lies behind its end is zero.
fn bits(page: &[u8], at: usize, width: u32) -> u64 {
    if width == 0 {
        return 0;
    }
    let from = page.get(at / 8..).unwrap_or_default();
    // 64 bits that begin inside a byte take nine
    let word = match from.first_chunk::<16>() {
        Some(bytes) => u128::from_le_bytes(*bytes),
        None => {
            let mut bytes = [0; 16];
            bytes[..from.len()].copy_from_slice(from);
            u128::from_le_bytes(bytes)
        }
    };
    let word = (word >> (at % 8)) as u64;
    word & (u64::MAX >> (u64::BITS - width))
}
