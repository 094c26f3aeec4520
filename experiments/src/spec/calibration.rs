//! Calibration of a spec: static ranges of activations and calibrated codes, where it asks for such.

use std::path::{Path, PathBuf};

use qslm_common::candidate::Candidate;
use qslm_common::experiment::check_model;
use qslm_common::hash::ContentHash;
use qslm_common::network::{EMBEDDING, Network, Unit};
use qslm_common::scheme::{Calibration, Scheme, Span};
use qslm_common::space::{Embedding, Space};
use qslm_common::task::{Data, Task};
use qslm_engine::jobs::gptq;
use qslm_engine::jobs::ranges::Ranges;

use super::refuse;
use super::space::{ActivationRangeSpec, ActivationsSpec};
use super::written::{CalibrationSpec, Spec, WrittenStrategy};
use crate::codes::{CalibratedSchemes, Calibrating, MadeCodes};
use crate::data::{load_data, warn_of_fewer};
use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;
use crate::making::Maker;

/// What calibration gave a spec.
#[derive(Default)]
pub(super) struct Calibrated {
    /// Static ranges of activations.
    pub(super) ranges: Option<Calibration>,
    /// Calibrated codes.
    pub(super) codes: MadeCodes,
    /// The data, if there is any.
    pub(super) data: Option<CalibrationData>,
}

/// The data of a calibration.
pub(super) struct CalibrationData {
    /// Task: how it is cut.
    pub(super) task: Task,
    /// Hashes of the data and the tokenizer.
    pub(super) hashes: Data,
    /// Text, or labelled sentences.
    pub(super) input: Input,
}

/// What a spec wants of calibration data.
struct Wants {
    ranges: bool,
    schemes: CalibratedSchemes,
    table: bool,
}

impl Wants {
    fn new(spec: &Spec, space: &Space, listed: &[Candidate], network: &Network) -> Self {
        let fixed = |activations: &ActivationsSpec| activations.range == ActivationRangeSpec::Static;
        let of_embedding = space.unit_schemes(network).filter(|(unit, _)| unit.name == EMBEDDING);
        let of_embedding: Vec<Scheme> = of_embedding.map(|(_, scheme)| scheme).collect();
        let mut schemes = CalibratedSchemes::of(of_embedding.into_iter().map(|scheme| (EMBEDDING, scheme)));
        schemes.all.extend(space.all_schemes().filter(|scheme| scheme.is_calibrated()));
        listed.iter().for_each(|candidate| schemes.extend(CalibratedSchemes::of(candidate.schemes())));
        Self {
            ranges: spec.space.activations.as_ref().is_some_and(fixed),
            schemes,
            table: spec.strategy.as_ref().is_some_and(WrittenStrategy::wants_table),
        }
    }

    /// The keys that want it, in words.
    fn words(&self) -> &'static str {
        match self {
            Self { ranges: true, .. } => "space.activations.range = \"static\"",
            Self { schemes, .. } if !schemes.is_empty() => "a calibrated rounding",
            Self { table: true, .. } => "strategy.table",
            _ => "",
        }
    }
}

/// The space with something in the place of what is made for it, so that all else of a spec can be checked before that.
pub(super) fn draft(space: &Space, network: &Network) -> Space {
    let mut draft = space.clone();
    let linears: Vec<String> =
        network.units().into_iter().filter(Unit::is_linear).map(|unit| unit.name).collect();
    let nothing = ContentHash::of(b"");
    let embedding = (space.embedding == Embedding::Frequency).then(|| EMBEDDING.to_owned());
    draft.codes = linears.iter().cloned().chain(embedding).map(|unit| (unit, nothing)).collect();
    if space.is_coded() {
        // Less than any codes take: what cannot be met even so cannot be met.
        for (unit, scheme) in space.unit_schemes(network) {
            draft.coded.insert(&unit.name, scheme, 1);
        }
    }
    if let Some(activations) = &mut draft.activations {
        let span = Span::new(-1.0, 1.0).ok();
        let ranges = linears.into_iter().filter_map(|unit| Some((unit, span?))).collect();
        activations.calibration = Some(Calibration { data: nothing, sequences: 1, ranges });
    }
    draft
}

/// Has `maker` make what the spec's schemes and activations need of its calibration data. `space` is the spec's without it.
pub(super) fn calibrate(
    path: &Path,
    spec: &Spec,
    (space, listed): (&Space, &[Candidate]),
    [checkpoint, tokenizer]: [(ContentHash, &Input); 2],
    task: &Task,
    network: &Network,
    maker: &dyn Maker,
) -> Outcome<Calibrated> {
    let wants = Wants::new(spec, space, listed, network);
    match (wants.words(), &spec.calibration) {
        ("", None) => Ok(Calibrated::default()),
        ("", Some(_)) => {
            let words = "[calibration] is for space.activations with range = \"static\", for calibrated roundings, and for \
                         strategy.table";
            Err(refuse(path, &words))
        }
        (words, None) => {
            Err(refuse(path, &format!("{words} needs a [calibration] table that names its data")))
        }
        (_, Some(calibration)) => {
            let (file, task) = data(path, calibration, task)?;
            check_model(network, &task).map_err(|error| refuse(path, &format!("calibration: {error}")))?;
            let damping = calibration.damping.unwrap_or(gptq::DAMPING);
            if !(0.0..=gptq::MOST_DAMPING).contains(&damping) {
                let most = gptq::MOST_DAMPING;
                return Err(refuse(path, &format!("calibration.damping = {damping}: expected 0 to {most}")));
            }
            let input = Input::data(&file, &task)?;
            let sequences = load_data(&input, tokenizer.1, &task, network)?;
            warn_of_fewer("calibration.sequences", Some(calibration.sequences), &input, &sequences);
            let data = Data { text: input.hash()?, tokenizer: tokenizer.0 };
            let files = [checkpoint, (data.text, &input), tokenizer];
            let ranges = wants.ranges.then(|| {
                let ranges = Ranges { task: task.clone(), member: network.into() };
                let made = maker.make_one(&ranges.job(checkpoint.0, &data), &files)?;
                Ranges::read(&made).map_err(|error| Failure::new(Exit::Failure, error))
            });
            let ranges = ranges.transpose()?;
            let calibrating = Calibrating {
                task: task.clone(),
                data: data.clone(),
                files: &files,
                checkpoint: checkpoint.0,
                damping,
                act_order: calibration.act_order,
            };
            let codes = calibrating.make(network, &wants.schemes, maker)?;
            Ok(Calibrated { ranges, codes, data: Some(CalibrationData { task, hashes: data, input }) })
        }
    }
}

fn data(path: &Path, calibration: &CalibrationSpec, task: &Task) -> Outcome<(PathBuf, Task)> {
    let one = || refuse(path, &"calibration: name one file, text or labelled, of the task's kind");
    let file = calibration.file().ok_or_else(one)?;
    let task = calibration.task(task);
    task.validate().map_err(|error| refuse(path, &format!("calibration.{error}")))?;
    Ok((path.parent().unwrap_or(Path::new("")).join(file), task))
}
