//! The flags that describe one scheme for all units, and the network that they make of a checkpoint.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::cost::{Costs, Device, Subject};
use qslm_common::measurement::Counts;
use qslm_common::network::Network;
use qslm_common::scheme::{
    Activation, ActivationRange, Bits, Calibration, Granularity, Membrane, Range, Rounding, Scales, Scheme,
    Symmetry, Width,
};
use qslm_common::space::{Embedding, InvalidSpace, Space, VectorSpace};
use qslm_common::storage::CodedSizes;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::checkpoint::calibrated::CodeSource;
use qslm_engine::jobs::ranges;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::Dataset;

use crate::exit::{Exit, Failure, Outcome};
use crate::fetched;
use crate::input::{Input, read_checkpoint};
use crate::member::MemberArgs;
use crate::storage::{CodesFiles, StorageArgs, sizes};

/// The checkpoint that a command works on.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Checkpoint in PyTorch or safetensors format, float or packed, or the index of one in several files; or its address, such
    /// as hf://OWNER/NAME/FILE
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,
    #[command(flatten)]
    pub member: MemberArgs,
    /// Backend, which computes matrix products: native, integer, flex or ndarray; cuda or wgpu in programs built
    /// for them
    #[arg(long, default_value_t)]
    pub backend: Backend,
}

impl ModelArgs {
    /// Puts a file in the place of an address.
    pub fn find(&mut self) -> Outcome {
        fetched::find([&mut self.checkpoint]).map(drop)
    }

    /// Reads the file.
    pub fn read(&self) -> Outcome<Checkpoint> {
        read_checkpoint(&self.checkpoint, self.member.member(&self.checkpoint)?)
    }

    /// The network as the file stores it, float or packed.
    pub fn load(&self) -> Outcome<LoadedModel> {
        self.load_read(self.read()?)
    }

    /// The network of a checkpoint that was read, as its file stores it.
    pub fn load_read(&self, checkpoint: Checkpoint) -> Outcome<LoadedModel> {
        let float = Candidate::float(checkpoint.network());
        let (built, candidate, sizes) = match checkpoint.manifest() {
            Some(manifest) => (manifest.to_run(), manifest.to_candidate(), manifest.sizes()),
            None => (float.clone(), float, CodedSizes::default()),
        };
        Ok(LoadedModel { model: self.build(checkpoint, &built, &())?, candidate, sizes })
    }

    /// The network of a checkpoint that was read, under a candidate with calibrated codes from `codes`.
    pub fn build(
        &self,
        checkpoint: Checkpoint,
        candidate: &Candidate,
        codes: &dyn CodeSource,
    ) -> Outcome<SpikeGpt> {
        qslm_engine::backend::check(self.backend).map_err(|error| Failure::new(Exit::Usage, error))?;
        let model = SpikeGpt::from_checkpoint(checkpoint, candidate, codes, self.backend);
        model.map_err(|error| Failure::new(Exit::Usage, error))
    }
}

/// A network that was built, what it is, and what it takes.
pub struct LoadedModel {
    /// The network.
    pub model: SpikeGpt,
    /// The candidate that it is.
    pub candidate: Candidate,
    /// Bytes of its entropy-coded codes.
    pub sizes: CodedSizes,
}

impl LoadedModel {
    /// Costs on a device of it as it was measured.
    pub fn costs(&self, counts: &Counts, device: &Device) -> Costs {
        device.costs_of(
            &Subject::new(device, self.model.network(), &self.candidate, counts).stored(&self.sizes),
        )
    }
}

/// One scheme for every matrix.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "One scheme for every matrix")]
pub struct SchemeArgs {
    /// Bits of every matrix: 2 to 8, 16 or 32
    #[arg(long, group = "matrices")]
    bits: Option<u8>,
    /// Scheme of every matrix, such as ec:0.70:channel:f16, in place of --bits and what goes with them
    #[arg(long, value_name = "SCHEME", group = "matrices", conflicts_with_all = ["granularity", "symmetry", "rounding", "range", "scales"])]
    scheme: Option<Scheme>,
    /// Granularity, the weights that share a scale: tensor, channel or group:N
    #[arg(long, default_value = "channel", requires = "bits")]
    granularity: Granularity,
    /// Symmetry of weights: symmetric, affine with a zero point, full (as many levels on either side of zero, up to 7 bits),
    /// or ternary (2 bits in the place of 1.6)
    #[arg(long, default_value = "symmetric", requires = "bits")]
    symmetry: Symmetry,
    /// Rounding of weights: nearest, truncate (down), stochastic:SEED, or gptq, descent, slim and frequency, which take calibration
    #[arg(long, default_value = "nearest", requires = "bits")]
    rounding: Rounding,
    /// Range of weights that the codes span: minmax, least_squares or percentile:P [default: least_squares below 4 bits,
    /// else minmax]
    #[arg(long, requires = "bits")]
    range: Option<Range>,
    /// Scales of weights: f32, f16 or pow2
    #[arg(long, default_value = "f16", requires = "bits")]
    scales: Scales,
    /// Scheme of the embedding
    #[arg(long, value_enum, default_value = "quantize", requires = "matrices")]
    embedding: EmbeddingArg,
    /// Bits of one-dimensional parameters (layer norms, mixing, decay), which else stay float: 2 to 8, 16 or 32
    #[arg(long, value_name = "BITS", requires = "matrices")]
    vector_bits: Option<u8>,
    /// Bits of activations, which is what enters every linear: 2 to 8
    #[arg(long, value_name = "BITS")]
    activation_bits: Option<u8>,
    /// Symmetry of activations: symmetric, or affine with a zero point
    #[arg(long, default_value = "affine", requires = "activation_bits")]
    activation_symmetry: Symmetry,
    /// Bits of membrane potentials, in fixed point: 2 to 16
    #[arg(long, value_name = "BITS")]
    membrane_bits: Option<u8>,
    /// Bits of a membrane potential before the point [default: 2, or fewer if there are no more]
    #[arg(long, value_name = "BITS", requires = "membrane_bits")]
    membrane_integer_bits: Option<u8>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EmbeddingArg {
    /// Like every other matrix
    Quantize,
    /// Like every other matrix, with --rounding frequency its rows as well
    Frequency,
    /// One lossless bit per weight
    Sign,
    /// 32-bit floats
    Float,
}

/// The range of codes of 2 and 3 bits where the range that somebody names may be none: least squares, because the whole
/// range costs half of the quality there.
pub fn usual_narrow_range(named: Option<Range>) -> Option<Range> {
    named.is_none().then_some(Range::LeastSquares)
}

impl SchemeArgs {
    /// The candidate that the flags describe; `None` if none is given. Activations take their ranges from
    /// `calibration`, or else from each token.
    pub fn candidate(
        &self,
        network: &Network,
        calibration: Option<&Calibration>,
    ) -> Outcome<Option<Candidate>> {
        if self.is_empty() {
            return Ok(None);
        }
        let usage = |error: &dyn std::error::Error| Failure::new(Exit::Usage, error);
        let width = |bits| Width::try_from(bits).map_err(|error| usage(&error));
        let ladder = match (self.bits, self.scheme) {
            (None, None) => None,
            (Some(bits), _) => Some((vec![width(bits)?], Vec::new())),
            (None, Some(scheme)) => Some((Vec::new(), vec![scheme])),
        };
        let mut candidate = match ladder {
            None => Candidate::float(network),
            Some((bits, schemes)) => {
                let vectors = self.vector_bits.map(width).transpose()?;
                let space = Space { schemes, ..self.space(bits, vectors) };
                match space.validate(network) {
                    // Those are made of what the flags say, and a file may be stored in any way.
                    Ok(()) | Err(InvalidSpace::NoCodes(_) | InvalidSpace::Uncoded(_)) => {}
                    Err(error) => return Err(usage(&error)),
                }
                space.uniform(network, 0).with_vectors(space.vector_scheme(0))
            }
        };
        if let Some(bits) = self.activation_bits {
            if !self.activation_symmetry.is_general() {
                let words = format!(
                    "--activation-symmetry {}: expected symmetric or affine",
                    self.activation_symmetry
                );
                return Err(Failure::new(Exit::Usage, words));
            }
            let bits = Bits::new(bits).map_err(|_| {
                Failure::new(Exit::Usage, format!("--activation-bits {bits}: expected 2 to 8"))
            })?;
            for unit in network.units().iter().filter(|unit| unit.is_linear()) {
                let range = match calibration.and_then(|calibration| calibration.ranges.get(&unit.name)) {
                    Some(span) => ActivationRange::Static(*span),
                    None => ActivationRange::Dynamic,
                };
                let scheme = Activation { bits, symmetry: self.activation_symmetry, range };
                candidate = candidate.with_activations([unit.name.as_str()], Some(scheme));
            }
        }
        if let Some(bits) = self.membrane_bits {
            let integer_bits = self.membrane_integer_bits.unwrap_or_else(|| bits.saturating_sub(1).min(2));
            let membrane = Membrane::new(bits, integer_bits).map_err(|error| usage(&error))?;
            let populations = network.populations();
            candidate = candidate.with_membranes(populations.iter().map(String::as_str), Some(membrane));
        }
        Ok(Some(candidate))
    }

    /// True if activations are quantized.
    pub fn quantizes_activations(&self) -> bool {
        self.activation_bits.is_some()
    }

    /// True if no flag is given.
    pub fn is_empty(&self) -> bool {
        self.bits.is_none()
            && self.scheme.is_none()
            && self.activation_bits.is_none()
            && self.membrane_bits.is_none()
    }

    fn space(&self, bits: Vec<Width>, vectors: Option<Width>) -> Space {
        let embedding = match self.embedding {
            EmbeddingArg::Quantize => Embedding::Quantize,
            EmbeddingArg::Frequency => Embedding::Frequency,
            EmbeddingArg::Sign => Embedding::Sign,
            EmbeddingArg::Float => Embedding::Float,
        };
        Space {
            symmetry: self.symmetry,
            granularity: self.granularity,
            rounding: self.rounding,
            range: self.range.unwrap_or_default(),
            narrow_range: usual_narrow_range(self.range),
            scales: self.scales,
            vectors: vectors.map(|width| VectorSpace { bits: vec![width] }),
            ..Space::of(bits, embedding)
        }
    }

    /// The network of a checkpoint, float or packed, as the flags ask for it, and the candidate that it is. `calibrate`
    /// gives the candidate its calibrated codes, `storage` says what a file of it takes.
    pub fn load(
        &self,
        model: &ModelArgs,
        calibration: Option<&Calibration>,
        storage: Option<&StorageArgs>,
        calibrate: impl FnOnce(&Network, Candidate) -> Outcome<(Candidate, CodesFiles)>,
    ) -> Outcome<LoadedModel> {
        if self.is_empty() {
            return model.load();
        }
        let checkpoint = model.read()?;
        if checkpoint.manifest().is_some() {
            let words = format!("--bits: {} is packed already", model.checkpoint.display());
            return Err(Failure::new(Exit::Usage, words));
        }
        let float = Candidate::float(checkpoint.network());
        let candidate = self.candidate(checkpoint.network(), calibration)?.unwrap_or(float);
        let (candidate, codes) = calibrate(checkpoint.network(), candidate)?;
        let storage = storage.map_or_else(Vec::new, |storage| storage.or(&[]));
        let sizes = sizes(&storage, &checkpoint, &candidate, &codes)?;
        let model = model.build(checkpoint, &candidate, &codes)?;
        Ok(LoadedModel { model, candidate, sizes })
    }
}

/// The ranges of a float checkpoint's activations over all of `data`, which was read from `input`.
pub fn calibrate_on(
    checkpoint: &Checkpoint,
    backend: Backend,
    data: &Dataset,
    input: &Input,
) -> Outcome<Calibration> {
    let float = Candidate::float(checkpoint.network());
    let model =
        SpikeGpt::new(checkpoint, &float, backend).map_err(|error| Failure::new(Exit::Usage, error))?;
    ranges::see(&model, data, input.hash()?, &()).map_err(|error| input.failure(&error))
}
