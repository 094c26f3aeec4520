//! Codes of 1 to 8 bits without gaps, as the exported file stores them.
//!
//! Code `i` takes bits `i b` to `(i + 1) b` of the byte string, lowest bit first, in two's complement; the
//! last byte is filled up with zeros.

/// Packs codes; only the low `bits` bits of each are kept.
pub fn pack(codes: &[i8], bits: u8) -> Vec<u8> {
    let mask = (1u32 << bits) - 1;
    let mut bytes = Vec::with_capacity((codes.len() * usize::from(bits)).div_ceil(8));
    let (mut pending, mut count) = (0u32, 0);
    for code in codes {
        pending |= (*code as u32 & mask) << count;
        count += bits;
        while count >= 8 {
            bytes.push(pending as u8);
            pending >>= 8;
            count -= 8;
        }
    }
    if count > 0 {
        bytes.push(pending as u8);
    }
    bytes
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
        fn the_wrong_number_of_bytes_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..20), bits in 1u8..=8, count in 0usize..60) {
            let fits = bytes.len() == (count * usize::from(bits)).div_ceil(8);
            prop_assert_eq!(unpack(&bytes, bits, count).is_some(), fits);
        }
    }

    #[test]
    fn the_layout_never_changes() {
        assert_eq!(pack(&[1, -1, 2, -4], 3), [0b1011_1001, 0b0000_1000]);
        assert_eq!(unpack(&[0b1011_1001, 0b0000_1000], 3, 4).unwrap(), [1, -1, 2, -4]);
    }
}
