//! Codes of 1 to 8 bits without gaps, as the exported file stores them.
//!
//! Code `i` takes bits `i b` to `(i + 1) b` of the byte string, lowest bit first, in two's complement; the
//! last byte is filled up with zeros.

use qslm_common::scheme::{Format, Granularity, Symmetry};

use super::Codes;

/// Packs codes; only the low `bits` bits of each are kept.
pub fn pack(codes: &[i8], bits: u8) -> Vec<u8> {
    let bytes = Vec::with_capacity((codes.len() * usize::from(bits)).div_ceil(8));
    let mut packer = Packer { bytes, ..Packer::default() };
    codes.iter().for_each(|code| packer.push(*code, bits));
    packer.finish()
}

/// Unpacks `count` codes. `None` if there are not exactly as many bytes as they take.
pub fn unpack(bytes: &[u8], bits: u8, count: usize) -> Option<Vec<i8>> {
    if bytes.len() != (count.checked_mul(bits.into())?).div_ceil(8) {
        return None;
    }
    let mask = (1u32 << bits) - 1;
    let mut codes = Vec::with_capacity(count);
    let (mut pending, mut available, mut bytes) = (0u32, 0, bytes.iter());
    while codes.len() < count {
        while available < bits {
            pending |= u32::from(*bytes.next()?) << available;
            available += 8;
        }
        // To the top of a byte and back, so that the sign comes along.
        let unused = 8 - bits;
        codes.push((((pending & mask) as u8) << unused) as i8 >> unused);
        pending >>= bits;
        available -= bits;
    }
    Some(codes)
}

/// Packs codes as their format stores them; of several widths by row row by row, by column group group by group, each of
/// these row by row.
pub fn pack_codes(codes: &Codes) -> Vec<u8> {
    let Codes { format, columns, values, widths, .. } = codes;
    match format.symmetry {
        Symmetry::Ternary => pack_ternary(values),
        _ if widths.is_empty() => pack(values, format.bits.get()),
        Symmetry::Symmetric | Symmetry::Affine | Symmetry::Full => {
            let mut packer = Packer::default();
            for (place, width) in places(*format, *columns, widths, values.len()) {
                packer.push(values[place], width);
            }
            packer.finish()
        }
    }
}

/// Unpacks `count` codes of a format, of these widths by row or column group if there are any. `None` if the bytes are not such.
pub fn unpack_codes(
    bytes: &[u8],
    format: Format,
    columns: usize,
    widths: &[u8],
    count: usize,
) -> Option<Vec<i8>> {
    match format.symmetry {
        Symmetry::Ternary => unpack_ternary(bytes, count),
        _ if widths.is_empty() => unpack(bytes, format.bits.get(), count),
        Symmetry::Symmetric | Symmetry::Affine | Symmetry::Full => {
            let bits: usize =
                places(format, columns, widths, count).map(|(_, width)| usize::from(width)).sum();
            if bytes.len() != bits.div_ceil(8) {
                return None;
            }
            let (mut codes, mut at) = (vec![0; count], 0);
            for (place, width) in places(format, columns, widths, count) {
                // No code is longer than a byte, so it is in two of them at most.
                let pair = [bytes[at / 8], bytes.get(at / 8 + 1).copied().unwrap_or(0)];
                let bits = (u16::from_le_bytes(pair) >> (at % 8)) as u8;
                codes[place] = (bits << (8 - width)) as i8 >> (8 - width);
                at += usize::from(width);
            }
            Some(codes)
        }
    }
}

/// Places of the codes of a matrix in the order of its rows or column groups, with their widths.
fn places(format: Format, columns: usize, widths: &[u8], count: usize) -> impl Iterator<Item = (usize, u8)> {
    let run = format.granularity.run(columns).max(1);
    let is_by_row = format.granularity == Granularity::Channel;
    widths.iter().enumerate().flat_map(move |(index, width)| {
        let (rows, group) = if is_by_row { (index * run..(index + 1) * run, 0) } else { (0..count, index) };
        let within = (group * run).min(columns)..(group * run + run).min(columns);
        let rows = rows.step_by(columns.max(1));
        rows.flat_map(move |row| within.clone().map(move |column| (row + column, *width)))
    })
}

/// Bits on their way into bytes, lowest first.
#[derive(Default)]
struct Packer {
    bytes: Vec<u8>,
    pending: u32,
    count: u8,
}

impl Packer {
    fn push(&mut self, code: i8, bits: u8) {
        self.pending |= (code as u32 & ((1 << bits) - 1)) << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

/// Codes in a byte of ternary ones: 3^5 = 243.
const TRITS: usize = 5;

/// Packs codes of -1, 0 and 1, five to a byte: code `i` of a byte counts `3^i` times `q + 1`. What fills up the last one
/// is zeros of that sum.
fn pack_ternary(codes: &[i8]) -> Vec<u8> {
    let byte = |codes: &[i8]| codes.iter().rev().fold(0u8, |sum, code| 3 * sum + (code + 1) as u8);
    codes.chunks(TRITS).map(byte).collect()
}

/// Unpacks `count` ternary codes. `None` if there are not exactly as many bytes as they take, or one of these is no sum.
fn unpack_ternary(bytes: &[u8], count: usize) -> Option<Vec<i8>> {
    if bytes.len() != count.div_ceil(TRITS) || bytes.iter().any(|byte| *byte >= 243) {
        return None;
    }
    let of_byte = |byte: &u8| {
        let powers = [1, 3, 9, 27, 81];
        powers.map(|power| (byte / power % 3) as i8 - 1)
    };
    Some(bytes.iter().flat_map(of_byte).take(count).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn codes_survive_packing(codes in prop::collection::vec(any::<i8>(), 0..70), bits in 1u8..=8) {
            let unused = 8 - bits;
            let codes: Vec<i8> = codes.into_iter().map(|code| (code << unused) >> unused).collect();
            let bytes = pack(&codes, bits);
            prop_assert_eq!(bytes.len(), (codes.len() * usize::from(bits)).div_ceil(8));
            prop_assert_eq!(unpack(&bytes, bits, codes.len()), Some(codes));
        }

        #[test]
        fn ternary_codes_survive_packing(codes in prop::collection::vec(-1i8..=1, 0..70)) {
            let bytes = pack_ternary(&codes);
            prop_assert_eq!(bytes.len(), codes.len().div_ceil(5));
            prop_assert_eq!(unpack_ternary(&bytes, codes.len()), Some(codes));
        }

        #[test]
        fn the_wrong_number_of_bytes_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..20), bits in 1u8..=8, count in 0usize..60) {
            let fits = bytes.len() == (count * usize::from(bits)).div_ceil(8);
            prop_assert_eq!(unpack(&bytes, bits, count).is_some(), fits);
        }
    }

    #[test]
    fn the_layout_never_changes() {
        assert_eq!(pack_ternary(&[1, 1, 1, 1, 1, -1, 0]), [242, 3]);
        assert_eq!(unpack_ternary(&[242, 3], 7).unwrap(), [1, 1, 1, 1, 1, -1, 0]);
        assert_eq!((unpack_ternary(&[243], 5), unpack_ternary(&[0], 6)), (None, None));
        assert_eq!(pack(&[1, -1, 2, -4], 3), [0b1011_1001, 0b0000_1000]);
        assert_eq!(unpack(&[0b1011_1001, 0b0000_1000], 3, 4).unwrap(), [1, -1, 2, -4]);
    }
}
