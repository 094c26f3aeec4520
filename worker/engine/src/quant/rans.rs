//! Entropy-coded codes (rANS, lossless): one table per matrix, a stream per 64 rows so that a reader can
//! decode in pieces; integers only.
//!
//! A coded matrix of codes `[rows, columns]`, row-major:
//!
//! 1. The smallest code `lo` as `i8`, and `n - 1` as `u8` for the `n` symbols from `lo` to the largest code.
//! 2. If `n > 1`, their frequencies of 12 bits without gaps, lowest bit first, the last byte filled up with
//!    zeros. They sum to 4096; what does not occur has 0. (One symbol has 4096.)
//! 3. For each stream of 64 rows (the last may have fewer) its length in bytes as LEB128, in at most 5 bytes.
//! 4. The streams: the state that the encoder ended in, 4 bytes little endian, and what the decoder reads.
//!
//! No codes are `lo = 0`, `n = 1` and no streams. Decoding undoes the encoder's steps one by one and has to
//! end in the state that it started from, so under a table each sequence of codes has one stream.
//!
//! Source: Duda, "Asymmetric numeral systems", arXiv 1311.2540.

use std::cmp::Reverse;
use std::hint::{cold_path, select_unpredictable};
use std::{array, mem};

/// Rows in a stream; the last one of a matrix may have fewer.
pub const ROWS_PER_STREAM: usize = 64;

/// Bits of a frequency, and what frequencies sum to.
const BITS: u32 = 12;
const SUM: u32 = 1 << BITS;

/// State that the encoder starts from, and the smallest one; all are below 2^8 times it.
const START: u32 = 1 << 23;

/// Streams that are decoded together: what a step waits for is the step before it in its own stream.
const TOGETHER: usize = 4;

/// Why bytes are no coded matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCoding {
    /// More codes than fit into memory.
    #[error("{0} rows of {1} codes: expected as many as fit into memory")]
    Shape(usize, usize),
    /// Another number of bytes than the table and the lengths tell.
    #[error("{0} bytes: expected as many as the table and the streams take by their lengths")]
    Size(usize),
    /// Symbols that are no `i8`, or other than one 0 for a matrix without codes.
    #[error("{0} symbols from {1} on: expected none above 127, and only 0 if there are no codes")]
    Symbols(usize, i8),
    /// Frequencies with another sum, or none of the first or last symbol, or bits after them.
    #[error(
        "frequencies sum to {0}: expected 4096, at least 1 at both ends, and zeros to fill the last byte"
    )]
    Table(u32),
    /// No length where that of a stream should be.
    #[error("length of stream {0}: expected at least 4 in the shortest form of at most 5 bytes")]
    Length(usize),
    /// A stream of other codes than the table's, or of more or fewer.
    #[error("stream {0}: expected its last code to use up its bytes and to leave the state 2^23")]
    Stream(usize),
}

/// Codes as bytes. `codes` is `[rows, columns]` row-major, of fewer than 2^28 columns.
pub fn encode(codes: &[i8], columns: usize) -> Vec<u8> {
    let Some((&lo, &hi)) = codes.iter().min().zip(codes.iter().max()) else { return vec![0, 0] };
    let mut counts = vec![0; usize::from(hi.abs_diff(lo)) + 1];
    codes.iter().for_each(|code| counts[usize::from(code.abs_diff(lo))] += 1);
    let frequencies = normalize(&counts);
    let mut bytes = vec![lo as u8, hi.abs_diff(lo)];
    let table = if lo < hi { &frequencies[..] } else { &[] };
    for pair in table.chunks(2) {
        let bits = pair.iter().rev().fold(0, |bits, f| bits << BITS | f);
        bytes.extend(&bits.to_le_bytes()[..=pair.len()]);
    }
    // With each frequency the sum of those before it.
    let with_sum = |sum: &mut u32, f: &u32| Some((*f, mem::replace(sum, *sum + f)));
    let symbols: Vec<(u32, u32)> = frequencies.iter().scan(0, with_sum).collect();
    let mut streams = Vec::new();
    for rows in codes.chunks(columns.saturating_mul(ROWS_PER_STREAM).max(1)) {
        let (start, mut state) = (streams.len(), START);
        for code in rows.iter().rev() {
            let (f, before) = symbols[usize::from(code.abs_diff(lo))];
            // The bound of a single symbol is 2^31: its states stay as they are.
            while state >= (START >> BITS << 8) * f {
                streams.push(state as u8);
                state >>= 8;
            }
            state = state / f * SUM + before + state % f;
        }
        streams.extend(state.to_be_bytes());
        // What was written last is read first.
        streams[start..].reverse();
        let mut length = streams.len() - start;
        while length >= 128 {
            bytes.push(length as u8 | 128);
            length >>= 7;
        }
        bytes.push(length as u8);
    }
    bytes.extend(streams);
    bytes
}

/// Bytes that codes take: the length of what [`encode`] writes, found by writing it.
pub fn coded_bytes(codes: &[i8], columns: usize) -> u64 {
    encode(codes, columns).len() as u64
}

/// Frequencies that sum to 4096, in proportion to at most 256 counts, of which one at least is not 0.
///
/// What occurs has at least 1. What is left goes to the largest remainders; what is too much comes off the
/// largest frequency, one at a time. Ties go to the smaller symbol.
fn normalize(counts: &[u64]) -> Vec<u32> {
    let total: u128 = counts.iter().map(|count| u128::from(*count)).sum();
    let shares: Vec<u128> = counts.iter().map(|count| u128::from(*count) * u128::from(SUM)).collect();
    let least = |share: &u128| ((share / total) as u32).max(u32::from(*share > 0));
    let mut frequencies: Vec<u32> = shares.iter().map(least).collect();
    let sum: u32 = frequencies.iter().sum();
    // A share below 1 got more than its remainder already.
    let mut largest: Vec<usize> = (0..shares.len()).filter(|symbol| shares[*symbol] >= total).collect();
    largest.sort_by_key(|symbol| Reverse(shares[*symbol] % total));
    largest.into_iter().take(SUM.saturating_sub(sum) as usize).for_each(|symbol| frequencies[symbol] += 1);
    for _ in SUM..sum {
        // Of equal ones `max` takes the last. It is above 16, or the sum would not be too large.
        if let Some(f) = frequencies.iter_mut().rev().max() {
            *f -= 1;
        }
    }
    frequencies
}

/// Reader of a coded matrix: its table and lengths are valid, its streams may not be.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    /// Code for each remainder of a state by 4096.
    codes: Box<[i8; SUM as usize]>,
    /// Frequency of that code, and the remainder's place among its own.
    places: Box<[(u16, u16); SUM as usize]>,
    /// Bytes of all streams.
    streams: &'a [u8],
    /// Where streams begin, and where the last one ends.
    bounds: Vec<usize>,
    /// Number of codes in a stream other than the last.
    stride: usize,
    /// Number of codes in the matrix.
    total: usize,
}

impl<'a> Reader<'a> {
    /// Reads table and lengths. Memory is taken for these alone, whatever the shape is.
    ///
    /// # Errors
    /// If the bytes are not a table, and as many streams as a matrix of this shape has.
    pub fn new(bytes: &'a [u8], rows: usize, columns: usize) -> Result<Self, InvalidCoding> {
        let total = rows.checked_mul(columns).ok_or(InvalidCoding::Shape(rows, columns))?;
        let [lo, last, rest @ ..] = bytes else { return Err(InvalidCoding::Size(bytes.len())) };
        let (lo, count) = (*lo as i8, usize::from(*last) + 1);
        if lo.checked_add_unsigned(*last).is_none() || (total == 0 && (lo, count) != (0, 1)) {
            return Err(InvalidCoding::Symbols(count, lo));
        }
        let table = if count > 1 { (3 * count).div_ceil(2) } else { 0 };
        let (table, mut rest) = rest.split_at_checked(table).ok_or(InvalidCoding::Size(bytes.len()))?;
        let frequencies = if count > 1 { frequencies(table, count)? } else { vec![SUM] };
        let (mut codes, mut places) = (Box::new([0; SUM as usize]), Box::new([(0, 0); SUM as usize]));
        let slots = |(f, code)| (0..f as u16).map(move |place| (code, (f as u16, place)));
        let slots = frequencies.into_iter().zip(lo..=i8::MAX).flat_map(slots);
        codes.iter_mut().zip(places.iter_mut()).zip(slots).for_each(|((c, p), slot)| (*c, *p) = slot);
        let (mut bounds, mut end) = (vec![0], 0usize);
        for index in 0..if total > 0 { rows.div_ceil(ROWS_PER_STREAM) } else { 0 } {
            let length = length(&mut rest).filter(|length| *length >= 4);
            end = length.and_then(|length| end.checked_add(length)).ok_or(InvalidCoding::Length(index))?;
            bounds.push(end);
        }
        if end != rest.len() {
            return Err(InvalidCoding::Size(bytes.len()));
        }
        let stride = columns.saturating_mul(ROWS_PER_STREAM).min(total);
        Ok(Self { codes, places, streams: rest, bounds, stride, total })
    }

    /// Streams of the matrix.
    pub fn streams(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Decodes a stream to `out`, the codes of its rows.
    ///
    /// # Errors
    /// If it is not a stream of this many codes; `out` is then anything.
    ///
    /// # Panics
    /// If there is no such stream, or `out` is not as long as its rows.
    pub fn decode_stream(&self, index: usize, out: &mut [i8]) -> Result<(), InvalidCoding> {
        assert!(index < self.streams());
        assert_eq!(out.len(), self.stride.min(self.total - index * self.stride));
        self.decode_together::<1>(index, out)
    }

    /// Decodes the `N` streams from `first` on, of equally many codes, to `out`.
    fn decode_together<const N: usize>(&self, first: usize, out: &mut [i8]) -> Result<(), InvalidCoding> {
        let bounds = &self.bounds[first..=first + N];
        let begin = |stream: &[u8]| stream.first_chunk().map_or(0, |state| u32::from_le_bytes(*state));
        let mut states: [u32; N] = array::from_fn(|k| begin(&self.streams[bounds[k]..]));
        let mut at: [usize; N] = array::from_fn(|k| bounds[k] + 4);
        if let Some(k) = states.iter().position(|state| !(START..START << 8).contains(state)) {
            return Err(InvalidCoding::Stream(first + k));
        }
        // What is not there reads as 0: whether a stream was read past its end is looked at once, at its end.
        let byte = |at: usize| self.streams.get(at).map_or(0, |byte| u32::from(*byte));
        let length = out.len() / N;
        for i in 0..length {
            for k in 0..N {
                let remainder = (states[k] % SUM) as usize;
                out[k * length + i] = self.codes[remainder];
                let (f, place) = self.places[remainder];
                let state = u32::from(f) * (states[k] >> BITS) + u32::from(place);
                // Nobody can foresee when to read a byte, so there is no branch. A second one is for codes of
                // a frequency below 16, which are rare; a third one never, because the state is 2^11 or more.
                let low = state < START;
                states[k] = select_unpredictable(low, state << 8 | byte(at[k]), state);
                at[k] += usize::from(low);
                if states[k] < START {
                    cold_path();
                    states[k] = states[k] << 8 | byte(at[k]);
                    at[k] += 1;
                }
            }
        }
        let wrong = (0..N).find(|k| states[*k] != START || at[*k] != bounds[*k + 1]);
        wrong.map_or(Ok(()), |k| Err(InvalidCoding::Stream(first + k)))
    }
}

/// Frequencies of a table of `count`.
fn frequencies(table: &[u8], count: usize) -> Result<Vec<u32>, InvalidCoding> {
    let bits = |bytes: &[u8]| bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
    let pairs = table.chunks(3).map(bits).flat_map(|bits| [bits % SUM, bits >> BITS]);
    let mut frequencies: Vec<u32> = pairs.collect();
    let filling = frequencies.split_off(count);
    let (sum, ends) = (frequencies.iter().sum(), [frequencies.first(), frequencies.last()]);
    if sum != SUM || ends.contains(&Some(&0)) || filling.iter().any(|f| *f > 0) {
        return Err(InvalidCoding::Table(sum));
    }
    Ok(frequencies)
}

/// Takes a length off the bytes. `None` if there is none in its shortest form.
fn length(bytes: &mut &[u8]) -> Option<usize> {
    let last = bytes.iter().take(5).position(|byte| *byte < 128)?;
    let digits = bytes.split_off(..=last)?;
    let length = digits.iter().rev().fold(0, |length, byte| length << 7 | u64::from(byte & 127));
    usize::try_from(length).ok().filter(|_| last == 0 || digits.last() != Some(&0))
}

/// Decodes a matrix of codes `[rows, columns]`. Few bytes can be many codes: the caller bounds the shape.
///
/// # Errors
/// If the bytes are not a coded matrix of this shape.
pub fn decode(bytes: &[u8], rows: usize, columns: usize) -> Result<Vec<i8>, InvalidCoding> {
    let reader = Reader::new(bytes, rows, columns)?;
    let mut codes = Vec::new();
    codes.try_reserve_exact(reader.total).map_err(|_| InvalidCoding::Shape(rows, columns))?;
    codes.resize(reader.total, 0);
    let mut first = 0;
    let mut groups = codes.chunks_exact_mut(reader.stride.saturating_mul(TOGETHER).max(1));
    for group in &mut groups {
        reader.decode_together::<TOGETHER>(first, group)?;
        first += TOGETHER;
    }
    for (index, stream) in (first..).zip(groups.into_remainder().chunks_mut(reader.stride.max(1))) {
        reader.decode_together::<1>(index, stream)?;
    }
    Ok(codes)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Codes of random widths, fewer than `most` rows of them, rows and columns.
    fn matrix(most: usize) -> impl Strategy<Value = (Vec<i8>, usize, usize)> {
        (0..8u32, any::<i8>(), 0..most, 1..9usize).prop_flat_map(|(shift, lo, rows, columns)| {
            let code = any::<i8>().prop_map(move |code| (code >> shift).saturating_add(lo));
            (vec(code, rows * columns), Just(rows), Just(columns))
        })
    }

    proptest! {
        #[test]
        fn codes_survive_coding_as_a_whole_and_by_streams((codes, rows, columns) in matrix(400)) {
            let bytes = encode(&codes, columns);
            prop_assert_eq!(coded_bytes(&codes, columns), bytes.len() as u64);
            prop_assert_eq!(decode(&bytes, rows, columns), Ok(codes.clone()));
            let reader = Reader::new(&bytes, rows, columns).unwrap();
            prop_assert_eq!(reader.streams(), rows.div_ceil(ROWS_PER_STREAM));
            for (index, stream) in codes.chunks(ROWS_PER_STREAM * columns).enumerate().rev() {
                let mut out = vec![0; stream.len()];
                prop_assert_eq!((reader.decode_stream(index, &mut out), &out[..]), (Ok(()), stream));
            }
        }

        #[test]
        fn no_other_bytes_give_the_same_codes((codes, rows, columns) in matrix(80), flip in 1u8..) {
            let mut bytes = encode(&codes, columns);
            for at in 0..bytes.len() {
                prop_assert!(decode(&bytes[..at], rows, columns).is_err(), "{} bytes", at);
                bytes[at] ^= flip;
                prop_assert_ne!(decode(&bytes, rows, columns), Ok(codes.clone()), "byte {}", at);
                bytes[at] ^= flip;
            }
            prop_assert!(decode(&[&bytes[..], &[0]].concat(), rows, columns).is_err());
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..99), rows in 0..400usize) {
            let columns = bytes.len() % 9;
            let _ = (decode(&bytes, rows, columns), Reader::new(&bytes, usize::MAX - rows, columns));
            // As a stream under a table of two codes, from a valid state on.
            let head = [0, 1, 1, 0xf0, 0xff, bytes.len() as u8 + 4, 0, 0, 0x80, 0];
            let _ = decode(&[&head, &bytes[..]].concat(), rows % 65, columns);
        }

        #[test]
        fn frequencies_follow_counts(counts in vec(prop_oneof![0..9u64, 0..1u64 << 40], 1..=256)) {
            prop_assume!(counts.iter().any(|count| *count > 0));
            let (frequencies, total) = (normalize(&counts), counts.iter().sum::<u64>() as f64);
            prop_assert_eq!(frequencies.iter().sum::<u32>(), SUM);
            let shares = || counts.iter().map(|count| *count as f64 / total * 4096.0);
            let raised = shares().filter(|share| *share > 0.0 && *share < 1.0).count() as f64;
            for (f, share) in frequencies.into_iter().map(f64::from).zip(shares()) {
                prop_assert_eq!(f > 0.0, share > 0.0);
                prop_assert!(f < share + 1.0 && f > share - 1.0 - raised, "{} of {}", f, share);
            }
        }
    }

    #[test]
    fn uniform_codes_take_their_bits_and_one_symbol_none() {
        for bits in 0..=8 {
            let codes: Vec<i8> = (0..256 * 64).map(|i| ((i * 37 % 256) >> (8 - bits)) as i8).collect();
            let heads = if bits == 0 { 2 + 4 * 5 } else { 2 + (3usize << bits).div_ceil(2) + 4 * 6 };
            assert_eq!(encode(&codes, 64).len(), heads + codes.len() * bits / 8, "{bits} bits");
        }
    }

    #[test]
    fn bell_shaped_codes_take_their_entropy() {
        let (mut seed, n) = (1u32, 512 * 384);
        let mut uniform = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(seed) / 2f64.powi(32) - 0.5
        };
        for deviation in [0.5, 1.5, 5.0, 15.0] {
            let mut bell = || (0..12).map(|_| uniform()).sum::<f64>() * deviation;
            let codes: Vec<i8> = (0..n).map(|_| bell().round() as i8).collect();
            let count = |code| codes.iter().filter(|other| **other == code).count() as f64;
            let bits = |count: f64| count * (f64::from(n) / count.max(1.0)).log2();
            let entropy: f64 = (i8::MIN..=i8::MAX).map(|code| bits(count(code)) / 8.0).sum();
            let bytes = encode(&codes, 384);
            let heads = 2 + (3 * (usize::from(bytes[1]) + 1)).div_ceil(2) + 512 / 64 * (3 + 4);
            assert!(((bytes.len() - heads) as f64) < 1.002 * entropy + 16.0, "{heads} and {entropy} bytes");
        }
    }

    #[test]
    fn what_the_encoder_never_writes_is_refused() {
        use InvalidCoding::{Length, Shape, Size, Stream, Symbols, Table};
        let refused = |bytes: &[u8], rows, error| assert_eq!(decode(bytes, rows, 1), Err(error));
        refused(&[1, 0], 0, Symbols(1, 1));
        refused(&[127, 1, 0, 8, 128], 1, Symbols(2, 127));
        refused(&[0, 1, 0, 8, 129], 1, Table(4112));
        refused(&[0, 2, 0, 0, 128, 0, 8], 1, Table(4096));
        refused(&[0, 2, 0, 8, 128, 0, 0], 1, Table(4096));
        refused(&[0, 0, 3, 0, 0, 0], 1, Length(0));
        refused(&[0, 0, 0x84, 0, 0, 0, 0x80, 0], 1, Length(0));
        refused(&[0, 0, 0x84, 0x80, 0x80, 0x80, 0x80, 1], 1, Length(0));
        refused(&[0, 0, 4, 0, 0, 0x80], 1, Size(6));
        refused(&[0, 0, 5, 0, 0, 0x80, 0, 0], 1, Stream(0));
        refused(&[0, 1, 1, 0xf0, 0xff, 6, 0, 0, 8, 0, 0, 0], 1, Stream(0));
        refused(&[0, 1, 1, 0xf0, 0xff, 6, 0, 0, 0, 0x80, 0, 0], 2, Stream(0));
        assert_eq!(decode(&[0, 0, 4, 0, 0, 0x80, 0], 64, 1 << 57), Err(Shape(64, 1 << 57)));
    }

    #[test]
    fn the_layout_never_changes() {
        let codes = [&[-1, 0, 2, 0, 0, -1, 1, 0].repeat(8)[..], &[2, 0, -1]].concat();
        let (head, lengths, second) = ([255, 3, 15, 36, 126, 233, 97, 34], [18, 4], [178, 46, 203, 29]);
        let first = [49, 129, 132, 0, 120, 239, 53, 71, 99, 17, 45, 134, 11, 244, 90, 77, 119, 40];
        assert_eq!(encode(&codes, 1), [&head[..], &lengths, &first, &second].concat());
        assert_eq!(encode(&[5; 65], 1), [5, 0, 4, 4, 0, 0, 0x80, 0, 0, 0, 0x80, 0]);
        assert_eq!((encode(&[], 1), decode(&[0, 0], 100, 0)), (vec![0, 0], Ok(vec![])));
        // A stream does without the others.
        let damaged = [&head[..], &lengths, &[7; 18], &second].concat();
        let (reader, mut out) = (Reader::new(&damaged, 67, 1).unwrap(), [0; 3]);
        assert_eq!((reader.decode_stream(1, &mut out), &out[..]), (Ok(()), &codes[64..]));
        assert_eq!(decode(&damaged, 67, 1), Err(InvalidCoding::Stream(0)));
        // Of equal symbols the smaller one gets more, and loses first.
        assert_eq!(normalize(&[1, 1, 1]), [1366, 1365, 1365]);
        assert_eq!(normalize(&[0, 1 << 20, 1 << 20, 1, 1, 1]), [0, 2046, 2047, 1, 1, 1]);
    }
}
