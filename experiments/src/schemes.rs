//! The flags that describe one scheme for all units.

use std::path::Path;

use clap::{Args, ValueEnum};
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Backend;
use qslm_common::network::Network;
use qslm_common::scheme::{Granularity, Range, Rounding, Symmetry, Width};
use qslm_common::space::{Embedding, Space};
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::model::SpikeGpt;

use crate::exit::{Exit, Failure, Outcome};

/// One scheme for every matrix.
#[derive(Debug, Clone, Args)]
pub struct SchemeArgs {
    /// Store every matrix in so many bits: 2 to 8, 16 or 32
    #[arg(long)]
    bits: Option<u8>,
    /// Which weights share a scale: tensor, channel or group:N
    #[arg(long, default_value = "channel", requires = "bits")]
    granularity: Granularity,
    /// symmetric or affine
    #[arg(long, default_value = "symmetric", requires = "bits")]
    symmetry: Symmetry,
    /// nearest, truncate or stochastic:SEED
    #[arg(long, default_value = "nearest", requires = "bits")]
    rounding: Rounding,
    /// Which weights the codes span: minmax, least_squares or percentile:P
    #[arg(long, default_value = "minmax", requires = "bits")]
    range: Range,
    /// What happens to the embedding
    #[arg(long, value_enum, default_value = "quantize", requires = "bits")]
    embedding: EmbeddingArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EmbeddingArg {
    /// Like every other matrix
    Quantize,
    /// One lossless bit per weight
    Sign,
    /// Left alone
    Float,
}

impl SchemeArgs {
    /// The candidate that the flags describe; `None` if none is given.
    pub fn candidate(&self, network: &Network) -> Outcome<Option<Candidate>> {
        let Some(bits) = self.bits else { return Ok(None) };
        let usage = |error: &dyn std::error::Error| Failure::new(Exit::Usage, error);
        let space = Space {
            bits: vec![Width::try_from(bits).map_err(|error| usage(&error))?],
            symmetry: self.symmetry,
            granularity: self.granularity,
            rounding: self.rounding,
            range: self.range,
            embedding: match self.embedding {
                EmbeddingArg::Quantize => Embedding::Quantize,
                EmbeddingArg::Sign => Embedding::Sign,
                EmbeddingArg::Float => Embedding::Float,
            },
        };
        space.validate(network).map_err(|error| usage(&error))?;
        Ok(Some(space.uniform(network, 0)))
    }
    /// The network of a checkpoint, float or packed, as the flags ask for it, and the candidate that it is.
    pub fn load(
        &self,
        path: &Path,
        binary_embedding: bool,
        backend: Backend,
    ) -> Outcome<(SpikeGpt, Candidate)> {
        let loaded = Checkpoint::load(path, binary_embedding);
        let checkpoint = loaded.map_err(|error| Failure::file(path, &error))?;
        let float = Candidate::float(checkpoint.network());
        // The weights of a packed file are what its candidate made of them already.
        let (built, candidate) = match (checkpoint.manifest(), self.candidate(checkpoint.network())?) {
            (Some(_), Some(_)) => {
                let words = format!("--bits: {} is packed already", path.display());
                return Err(Failure::new(Exit::Usage, words));
            }
            (Some(manifest), None) => (float, manifest.to_candidate()),
            (None, Some(candidate)) => (candidate.clone(), candidate),
            (None, None) => (float.clone(), float),
        };
        let model = SpikeGpt::from_checkpoint(checkpoint, &built, backend);
        Ok((model.map_err(|error| Failure::new(Exit::Usage, error))?, candidate))
    }
}
