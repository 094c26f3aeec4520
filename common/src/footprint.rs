//! Bytes of a candidate, exactly as the exported file stores them.
//!
//! A unit's codes are packed without gaps over the whole matrix and padded to a byte; every scale is a 32-bit
//! float, or as its scheme says; every zero point is one byte. One-dimensional parameters are 32-bit floats unless
//! the candidate stores them otherwise, each as a row of its own. Where a table says what entropy-coded codes take, the
//! smaller of both counts. Headers of the file format are not counted.

use crate::candidate::Candidate;
use crate::network::{Network, Unit};
use crate::scheme::{Scheme, Symmetry};
use crate::storage::CodedSizes;

/// Bytes of one 32-bit float.
const FLOAT: u64 = 4;

/// Bytes of one 16-bit float.
const HALF: u64 = 2;

/// Bytes of `unit` stored under `scheme`: packed codes, scales and zero points.
pub fn unit_bytes(unit: &Unit, scheme: Scheme) -> u64 {
    matrix_bytes(unit.rows, unit.columns, scheme)
}

/// Bytes of `unit` in a file that takes entropy-coded codes where they are smaller.
pub fn stored_bytes(unit: &Unit, scheme: Scheme, sizes: &CodedSizes) -> u64 {
    let packed = unit_bytes(unit, scheme);
    match (scheme, sizes.get(&unit.name, scheme)) {
        (Scheme::Integer { format, .. }, Some(coded)) => {
            let codes = format.code_bytes(unit.rows as u64 * unit.columns as u64);
            packed - codes + codes.min(coded)
        }
        _ => packed,
    }
}

/// Bytes of all parameters outside matrices under `candidate`.
pub fn vector_bytes(network: &Network, candidate: &Candidate) -> u64 {
    let one = |elements| matrix_bytes(1, elements, candidate.vectors());
    one(network.channels as usize) * network.vector_count() + one(1) * network.scalar_count()
}

fn matrix_bytes(rows: usize, columns: usize, scheme: Scheme) -> u64 {
    let weights = rows as u64 * columns as u64;
    match scheme {
        Scheme::Float => weights * FLOAT,
        Scheme::Half => weights * HALF,
        Scheme::Sign => weights.div_ceil(8),
        Scheme::Integer { format, .. } => {
            let widths = (scheme.widths(rows, columns) as u64).div_ceil(4);
            let codes = format.code_bytes(weights);
            let scales = format.granularity.scales(rows, columns) as u64;
            let zero_point = match format.symmetry {
                Symmetry::Symmetric | Symmetry::Full | Symmetry::Ternary => 0,
                Symmetry::Affine => 1,
            };
            codes + widths + scales * (format.scales.bytes() + zero_point)
        }
    }
}

/// Bytes of the whole network under `candidate`, which has to be one of this network.
pub fn footprint_bytes(network: &Network, candidate: &Candidate) -> u64 {
    let matrix = |(unit, scheme): (&str, Scheme)| {
        let (rows, columns) = network.shape_of(unit);
        matrix_bytes(rows, columns, scheme)
    };
    candidate.schemes().map(matrix).sum::<u64>() + vector_bytes(network, candidate)
}

/// Bytes of the whole network in a file that takes entropy-coded codes where they are smaller.
pub fn file_bytes(network: &Network, candidate: &Candidate, sizes: &CodedSizes) -> u64 {
    if sizes.is_empty() {
        return footprint_bytes(network, candidate);
    }
    let units = network.units().into_iter();
    let all = units.map(|unit| stored_bytes(&unit, candidate.scheme(&unit.name), sizes));
    all.sum::<u64>() + vector_bytes(network, candidate)
}

/// Bytes of the whole network in 32-bit floats.
pub fn float_bytes(network: &Network) -> u64 {
    network.parameters() * FLOAT
}

/// The share of the float bytes that `bytes` leaves out: `1 - bytes / float_bytes`. Negative if larger.
pub fn saving(network: &Network, bytes: u64) -> f64 {
    1.0 - bytes as f64 / float_bytes(network) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::PUBLISHED;

    fn uniform(scheme: &str) -> u64 {
        let scheme = scheme.parse().unwrap();
        footprint_bytes(&PUBLISHED, &Candidate::new(&PUBLISHED, |_| scheme))
    }

    #[test]
    fn float_is_four_bytes_a_parameter() {
        assert_eq!(float_bytes(&PUBLISHED), 861_597_696);
        assert_eq!(uniform("f32"), 861_597_696);
    }

    #[test]
    fn uniform_savings_are_those_of_the_widths() {
        let saving = |bits: u8| saving(&PUBLISHED, uniform(&format!("int{bits}:symmetric:tensor")));
        assert!((super::saving(&PUBLISHED, uniform("f16")) - 0.5).abs() < 1e-3);
        for (bits, expected) in [(8, 0.75), (6, 0.8125), (4, 0.875)] {
            // The one-dimensional parameters (0.07 %) stay in float.
            assert!((saving(bits) - expected).abs() < 1e-3, "{bits} bits: {}", saving(bits));
        }
    }

    #[test]
    fn vectors_are_rows_of_their_own() {
        let float = Candidate::float(&PUBLISHED);
        assert_eq!(vector_bytes(&PUBLISHED, &float), 155_136 * 4);
        let eight = float.with_vectors("int8:affine:tensor".parse().unwrap());
        // 202 vectors with a scale and a zero point each.
        assert_eq!(vector_bytes(&PUBLISHED, &eight), 155_136 + 202 * 5);
    }

    #[test]
    fn one_bit_for_the_embedding_saves_17_4_percent() {
        let emb = &PUBLISHED.units()[0];
        let saved = unit_bytes(emb, Scheme::Float) - unit_bytes(emb, Scheme::Sign);
        assert_eq!((saved as f64 / float_bytes(&PUBLISHED) as f64 * 1e3).round(), 174.0);
    }

    #[test]
    fn every_byte_is_counted() {
        let unit = Unit {
            name: "head.weight".to_owned(),
            rows: 3,
            columns: 5,
            place: crate::network::UnitPlace::Head,
        };
        let bytes = |scheme: &str| unit_bytes(&unit, scheme.parse().unwrap());
        assert_eq!(bytes("f32"), 60);
        assert_eq!(bytes("f16"), 30);
        assert_eq!(bytes("sign"), 2);
        assert_eq!(bytes("int3:symmetric:tensor"), 6 + 4);
        assert_eq!(bytes("int3:full:channel:f16"), 6 + 3 * 2);
        assert_eq!(bytes("int2:ternary:channel"), 3 + 3 * 4);
        assert_eq!(bytes("int3:affine:channel:pow2"), 6 + 3 * (1 + 1));
        assert_eq!(bytes("int3:affine:tensor"), 6 + 5);
        assert_eq!(bytes("int4:symmetric:channel"), 8 + 3 * 4);
        assert_eq!(bytes("int4:affine:group2"), 8 + 9 * 5);
        assert_eq!(bytes("int3:full:group2:f16:slim"), 6 + 9 * 2 + 1);
        assert_eq!(bytes("int3:full:channel:f16:frequency"), 6 + 3 * 2 + 1);
        let scheme = "int4:symmetric:channel".parse().unwrap();
        let stored = |coded| {
            let mut sizes = CodedSizes::default();
            sizes.insert("head.weight", scheme, coded);
            stored_bytes(&unit, scheme, &sizes)
        };
        assert_eq!(
            [stored(5), stored(8), stored(9)],
            [5 + 12, 8 + 12, 8 + 12],
            "plain where coding does not pay"
        );
    }
}
