//! Statistics of a float checkpoint's matrices and of what enters them.

use std::collections::BTreeMap;
use std::path::Path;

use qslm_common::candidate::Candidate;
use qslm_common::network::{Member, Unit};
use qslm_common::scheme::Scheme;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::{BACKEND, gptq};
use qslm_engine::model::SpikeGpt;
use qslm_engine::quant::{InputStatistics, Statistics, WeightStatistics, Weights, entropy, quantize};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::input::read_checkpoint;
use crate::inputs::DataArgs;
use crate::output::{align_right, plain_table};
use crate::parallel;

/// Widths whose entropy is told: of codes that are all used, with the range of least squared error.
const WIDTHS: [u8; 4] = [2, 3, 4, 6];

/// Statistics of a matrix; its keys are part of the interface.
#[derive(Debug, Clone, Serialize)]
pub(super) struct UnitStatistics {
    unit: String,
    /// Excess kurtosis of a row, the mean over rows: 0 of normal weights.
    kurtosis: f64,
    /// Largest weight of a row over its root mean square, the largest over rows.
    max_over_rms: f64,
    /// Bits that an entropy coder takes for a code, by width.
    entropy: BTreeMap<u8, f64>,
    /// Largest second moment of an input over the median one.
    #[serde(skip_serializing_if = "Option::is_none")]
    inputs_max_over_median: Option<f64>,
    /// Condition of the damped Hessian.
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<f64>,
    /// Share of the loss that GPTQ leaves on wide grids.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_by_gptq: Option<f64>,
}

/// Statistics of all matrices of a float checkpoint, in the network's order; of their inputs, too, if data is named.
pub(super) fn of(path: &Path, member: Member, data: &DataArgs) -> Outcome<Vec<UnitStatistics>> {
    let checkpoint = read_checkpoint(path, member)?;
    if checkpoint.manifest().is_some() {
        let words = format!("--statistics: {} is packed already: take the float one", path.display());
        return Err(Failure::new(Exit::Usage, words));
    }
    let inputs = if data.is_given() { of_inputs(&checkpoint, data)? } else { BTreeMap::new() };
    let units = checkpoint.network().units();
    parallel::map(units.len(), parallel::threads(None), |index| {
        let unit = &units[index];
        let inputs = inputs.get(&unit.name);
        let values = checkpoint.tensor(&unit.name);
        let WeightStatistics { kurtosis, max_over_rms } = WeightStatistics::of(&values, unit.columns);
        Ok(UnitStatistics {
            unit: unit.name.clone(),
            kurtosis,
            max_over_rms,
            entropy: WIDTHS.into_iter().map(|bits| (bits, entropy_at(&values, unit, bits))).collect(),
            inputs_max_over_median: inputs.map(|inputs| inputs.max_over_median),
            condition: inputs.map(|inputs| inputs.condition),
            left_by_gptq: inputs.map(|inputs| inputs.left_by_gptq),
        })
    })
}

fn entropy_at(values: &[f32], unit: &Unit, bits: u8) -> f64 {
    let scheme = format!("int{bits}:full:channel:f16:least_squares").parse();
    let Ok(Scheme::Integer { format, quantizer }) = scheme else { return 0.0 };
    let weights = Weights { values, columns: unit.columns, unit: &unit.name };
    entropy(&quantize(weights, format, quantizer, &Statistics::NONE).values)
}

fn of_inputs(checkpoint: &Checkpoint, data: &DataArgs) -> Outcome<BTreeMap<String, InputStatistics>> {
    let network = checkpoint.network();
    let data = data.load(network)?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failure, error);
    let float =
        SpikeGpt::new(checkpoint, &Candidate::float(network), BACKEND).map_err(|error| failed(&error))?;
    let of_part = |part: usize| {
        let units = gptq::units_of(network, part as u32);
        let hessians = gptq::see(&float, &data, part as u32, &units, &(), data.len() as u64);
        let hessians = hessians.map_err(|error| failed(&error))?;
        let mut all = Vec::new();
        for (unit, hessian) in units.into_iter().zip(hessians) {
            let statistics = InputStatistics::of(&hessian, gptq::DAMPING);
            all.push((unit.name, statistics.map_err(|error| failed(&error))?));
        }
        Ok::<_, Failure>(all)
    };
    let parts = parallel::map(gptq::parts(network) as usize, parallel::threads(None), of_part)?;
    Ok(parts.into_iter().flatten().collect())
}

/// As a table, with what its columns say.
pub(super) fn table(all: &[UnitStatistics]) -> String {
    let mut table = plain_table();
    let mut header = vec!["unit".to_owned(), "kurtosis".to_owned(), "max/rms".to_owned()];
    header.extend(WIDTHS.map(|bits| format!("H at {bits}")));
    let with_inputs = all.iter().any(|unit| unit.condition.is_some());
    if with_inputs {
        header.extend(["inputs max/median", "condition", "left by gptq"].map(str::to_owned));
    }
    table.set_header(header);
    align_right(&mut table, |place| place >= 1);
    for unit in all {
        let mut row =
            vec![unit.unit.clone(), format!("{:+.2}", unit.kurtosis), format!("{:.2}", unit.max_over_rms)];
        row.extend(unit.entropy.values().map(|bits| format!("{bits:.2}")));
        if with_inputs {
            let cell = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
            row.extend([unit.inputs_max_over_median, unit.condition, unit.left_by_gptq].map(cell));
        }
        table.add_row(row);
    }
    let mut text = format!(
        "\n{table}\n\nkurtosis above 1 or max/rms above 6: outliers, which rotations, codebooks and outlier lists are for. H: bits \
         that an entropy\ncoder takes for a code of so many bits.\n"
    );
    if with_inputs {
        text.push_str(
            "inputs max/median above 10: act-order and column scales may pay. left by gptq: share of the loss of rounding each \
             weight on its own.\n",
        );
    }
    text
}
