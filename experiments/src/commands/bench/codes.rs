//! `qslm bench codes`: how fast weights become codes, and codes bytes: second moments, their factor, GPTQ, entropy coding.

use std::time::Instant;

use clap::Args;
use qslm_common::scheme::Scheme;
use qslm_engine::jobs::gptq;
use qslm_engine::quant::{InputMoments, Statistics, Weights, quantize, rans};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{check, show};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, peak_memory_bytes};

/// Measure calibrated codes and entropy coding on matrices of a network's shapes, one thread each
#[derive(Debug, Args)]
pub struct CodesBench {
    /// Channels D of the network: its matrices are D x D, 4D x D, D x 4D and, for the head, V x D
    #[arg(long, default_value_t = 128)]
    channels: u32,
    /// Vocabulary V
    #[arg(long, default_value_t = 2048)]
    vocabulary: u32,
    /// Tokens of the calibration data
    #[arg(long, default_value_t = 16_384)]
    tokens: u32,
    /// Scheme of the codes
    #[arg(long, default_value = "int3:full:channel:f16:gptq:least_squares")]
    scheme: Scheme,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed row; its keys are part of the interface.
#[derive(Serialize)]
struct CodesTiming {
    matrix: String,
    rows: usize,
    columns: usize,
    moments_seconds: f64,
    factor_seconds: f64,
    codes_seconds: f64,
    encode_seconds: f64,
    decode_seconds: f64,
    bits_per_weight: f64,
    peak_memory_mib: Option<u64>,
}

impl CodesBench {
    pub(super) fn run(self) -> Outcome {
        check("--channels", self.channels, 1 << 13)?;
        check("--vocabulary", self.vocabulary, 1 << 18)?;
        check("--tokens", self.tokens, 1 << 22)?;
        let Scheme::Integer { .. } = self.scheme else {
            let words = format!("--scheme {}: expected one of integers", self.scheme);
            return Err(Failure::new(Exit::Usage, words));
        };
        let (channels, vocabulary) = (self.channels as usize, self.vocabulary as usize);
        let shapes = [
            ("att", channels, channels),
            ("ffn.key", 4 * channels, channels),
            ("ffn.value", channels, 4 * channels),
            ("head", vocabulary, channels),
        ];
        let mut rows = Vec::new();
        for (matrix, count, columns) in shapes {
            rows.push(self.measure(matrix, count, columns)?);
        }
        let columns = [
            "matrix",
            "rows",
            "columns",
            "moments_seconds",
            "factor_seconds",
            "codes_seconds",
            "encode_seconds",
            "decode_seconds",
            "bits_per_weight",
            "peak_memory_mib",
        ];
        show(&rows, &columns, self.output)
    }

    fn measure(&self, matrix: &str, rows: usize, columns: usize) -> Outcome<CodesTiming> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::new(Exit::Failure, format!("{matrix}: {error}"));
        let Scheme::Integer { format, quantizer } = self.scheme else {
            return Err(failed(&"the scheme is none of integers"));
        };
        let weights = normal(rows * columns, 1);
        // Drawn once and read again, or drawing would take longer than summing up.
        let inputs = normal(256 * columns, 2);
        let mut moments = InputMoments::new(columns);
        let begun = Instant::now();
        for _ in 0..self.tokens.div_ceil(256) {
            moments.add(&inputs);
        }
        let hessian = moments.finish().ok_or_else(|| failed(&"the inputs are not finite"))?;
        let moments_seconds = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let factor = hessian.factor(gptq::DAMPING, false).map_err(|error| failed(&error))?;
        let factor_seconds = begun.elapsed().as_secs_f64();
        let statistics = Statistics { inputs: Some(&factor), ..Statistics::NONE };
        let begun = Instant::now();
        let weights = Weights { values: &weights, columns, unit: matrix };
        let codes = quantize(weights, format, quantizer, &statistics);
        let codes_seconds = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let coded = rans::encode(&codes.values, columns);
        let encode_seconds = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let decoded = rans::decode(&coded, rows, columns).map_err(|error| failed(&error))?;
        let decode_seconds = begun.elapsed().as_secs_f64();
        if decoded != codes.values {
            return Err(failed(&"what was decoded is not what was coded"));
        }
        Ok(CodesTiming {
            matrix: matrix.to_owned(),
            rows,
            columns,
            moments_seconds,
            factor_seconds,
            codes_seconds,
            encode_seconds,
            decode_seconds,
            bits_per_weight: coded.len() as f64 * 8.0 / (rows * columns) as f64,
            peak_memory_mib: peak_memory_bytes().map(|bytes| bytes >> 20),
        })
    }
}

/// About a normal variable: sums of uniform ones.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| (0..6).map(|_| rng.random::<f32>()).sum::<f32>() - 3.0).collect()
}
