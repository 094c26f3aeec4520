//! Section on tables of sensitivities: how well cheap ones rank matrices, and what a search by them finds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::network::{Network, Unit};
use qslm_common::task::{Data, Task as Protocol};
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::gptq::{self, units_of};
use qslm_engine::jobs::output_errors::OutputErrors;
use qslm_engine::jobs::{BACKEND, Inputs, UnitLosses};
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, evaluate};
use qslm_train::jobs::{FisherLosses, make};

use super::{Results, Task, number, percent};

/// Scheme at which matrices are ranked.
const SCHEMES: [&str; 2] = ["int3:full:channel:f16", "int2:full:channel:f16"];
/// Windows of the calibration text, and windows of the validation text on which a matrix alone is measured.
const CALIBRATION: u32 = 128;
const MEASURED: u32 = 256;

impl Results {
    /// Rank correlations, and the end of a search.
    pub(super) fn tables(&self, page: &mut String, language: &Task) -> Result<()> {
        page.push_str(
            "## Tables of sensitivities (`codes.toml`, `fit = \"regression\"`)\n\n\
             What a matrix loses alone, the rest float, is measured on 256 windows of the validation text; tables are of 128 \
             windows of the training text. First Spearman's rank correlation with what was measured, over all matrices and over \
             those of the blocks, rounded to the nearest code:\n\n\
             | table | 3 bits, all | blocks | 2 bits, all | blocks |\n|---|---|---|---|---|\n",
        );
        let ranked = Ranked::of(self)?;
        for (table, losses) in [("Fisher information", &ranked.fisher), ("outputs", &ranked.outputs)] {
            write!(page, "| {table} |")?;
            for scheme in SCHEMES {
                let pairs = |blocks: bool| -> Vec<(f64, f64)> {
                    let units = ranked.units.iter().filter(|unit| !blocks || unit.block().is_some());
                    let of = |losses: &UnitLosses, unit: &Unit| {
                        losses[&unit.name][&scheme.parse().expect("a scheme")]
                    };
                    units.map(|unit| (of(losses, unit), of(&ranked.measured, unit))).collect()
                };
                write!(page, " {:.2} | {:.2} |", spearman(&pairs(false)), spearman(&pairs(true)))?;
            }
            page.push('\n');
        }
        page.push_str(
            "\nThen what `allocate` finds within 3 %, groups measured alone (61 evaluations on 256 windows before) or shared out by a table (13 of them); regret is the bytes that the \
             table costs:\n\n\
             | sensitivities | measured on all windows | bytes | saved % | loss % | regret |\n|---|---|---|---|---|---|\n",
        );
        let mut least = None;
        for (words, table) in [
            ("measured", ""),
            ("Fisher information", ", table=\"fisher\""),
            ("outputs", ", table=\"outputs\""),
        ] {
            let strategy =
                format!("strategy={{kind=\"allocate\", tier=\"matrix\", sensitivity_sequences=256{table}}}");
            let calibration = format!("calibration.text={}", self.wikitext2_train.display());
            let front =
                self.run(language, "experiments/specs/codes.toml", "codes", &[&calibration, &strategy])?;
            let chosen = &front["chosen"];
            let bytes = number(&chosen["footprint_bytes"]);
            let regret = 100.0 * (bytes / *least.get_or_insert(bytes) - 1.0);
            writeln!(
                page,
                "| {words} | {:.0} | {bytes:.0} | {} | {} | {regret:+.1} % |",
                number(&front["measured"]),
                percent(&chosen["saving"]),
                percent(&chosen["quality_loss"]),
            )?;
        }
        page.push('\n');
        Ok(())
    }
}

/// Losses of matrices by scheme, as three ways see them.
struct Ranked {
    units: Vec<Unit>,
    measured: UnitLosses,
    fisher: UnitLosses,
    outputs: UnitLosses,
}

impl Ranked {
    fn of(results: &Results) -> Result<Self> {
        let models = PathBuf::from("experiments/models");
        let files = |text: &PathBuf| -> Inputs {
            let named = [
                ("checkpoint", models.join("wikitext2-xs.safetensors")),
                ("tokenizer", models.join("tokenizer.json")),
                ("text", text.clone()),
            ];
            Inputs::new(named.into_iter().map(|(name, file)| (name.to_owned(), file)).collect())
        };
        let calibration = files(&results.wikitext2_train);
        let checkpoint = calibration.checkpoint(true)?;
        let network = *checkpoint.network();
        let protocol = |windows: u32| {
            let windows = Some(results.first.unwrap_or(windows).min(windows));
            Protocol::Perplexity { window: 128, stride: 128, windows }
        };
        let units: Vec<Unit> = network.units().into_iter().filter(Unit::is_linear).collect();
        let hash = ContentHash::of(b"");
        let data = Data { text: hash, tokenizer: hash };
        let asked = |units: &[Unit]| -> Vec<(String, String)> {
            let of = |unit: &Unit| SCHEMES.map(|scheme| (unit.name.clone(), scheme.to_owned()));
            units.iter().flat_map(of).collect()
        };
        let made = |job: &Job| {
            let mut artifact = Vec::new();
            make(job, &calibration, &(), &mut artifact).map(|()| artifact)
        };
        let task = protocol(CALIBRATION);
        let job = FisherLosses { task: task.clone(), member: true.into(), units: asked(&units) };
        let fisher = FisherLosses::read(&made(&job.job(hash, &data, []))?)?;
        let mut outputs = UnitLosses::new();
        for part in 0..gptq::parts(&network) {
            let units = asked(&units_of(&network, part));
            let job = OutputErrors { task: task.clone(), member: true.into(), part, units };
            outputs.extend(OutputErrors::read(&made(&job.job(hash, &data, None))?)?);
        }
        let validation = files(&results.wikitext2).data(&protocol(MEASURED), &network)?;
        let measured = measured(&checkpoint, &units, &validation, &network)?;
        Ok(Self { units, measured, fisher, outputs })
    }
}

/// What units lose alone, in nats per token.
fn measured(
    checkpoint: &Checkpoint,
    units: &[Unit],
    data: &Dataset,
    network: &Network,
) -> Result<UnitLosses> {
    let float = Candidate::float(network);
    let nats = |candidate: &Candidate| -> Result<f64> {
        let model = SpikeGpt::new(checkpoint, candidate, BACKEND)?;
        let counts = evaluate(&model, data, 0..data.len(), &|| false)?;
        Ok(counts.nll.nats() / counts.scored_tokens as f64)
    };
    let before = nats(&float)?;
    let mut losses = UnitLosses::new();
    for unit in units {
        let mut of_unit = BTreeMap::new();
        for scheme in SCHEMES {
            let scheme = scheme.parse().context("a scheme")?;
            let candidate = float.clone().with([unit.name.as_str()], scheme);
            of_unit.insert(scheme, nats(&candidate)? - before);
        }
        losses.insert(unit.name.clone(), of_unit);
    }
    Ok(losses)
}

/// Spearman's rank correlation of pairs.
fn spearman(pairs: &[(f64, f64)]) -> f64 {
    let ranks = |of: fn(&(f64, f64)) -> f64| {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by(|a, b| of(&pairs[*a]).total_cmp(&of(&pairs[*b])));
        let mut ranks = vec![0.0; pairs.len()];
        order.into_iter().enumerate().for_each(|(rank, place)| ranks[place] = rank as f64);
        ranks
    };
    let (left, right) = (ranks(|pair| pair.0), ranks(|pair| pair.1));
    let squares: f64 = left.iter().zip(&right).map(|(a, b)| (a - b) * (a - b)).sum();
    let n = pairs.len() as f64;
    1.0 - 6.0 * squares / (n * (n * n - 1.0)).max(1.0)
}
