//! Section on the twin without spikes: the block formats of rwkv.cpp, and the search, on both models.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Results, Task, number, output, percent, program};

/// Names in rwkv.cpp of the candidates of `rwkv4.jsonl`, in their order.
const FORMATS: [&str; 5] = ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"];
const SPEC: &str = "experiments/specs/rwkv4.toml";

/// A model of the section: a name, and the settings that make a spec of the other one its own.
struct Model {
    name: &'static str,
    store: &'static str,
    settings: &'static [&'static str],
    search: &'static [&'static str],
}

const MODELS: [Model; 2] = [
    Model {
        name: "SpikeGPT (`wikitext2-xs`)",
        store: "family-spiking",
        settings: &[
            "checkpoint.path=experiments/models/wikitext2-xs.safetensors",
            "checkpoint.family=spikegpt",
        ],
        search: &[],
    },
    Model {
        name: "RWKV-4 (`rwkv4-xs`)",
        store: "family-rwkv4",
        settings: &[],
        search: &[
            "checkpoint.path=experiments/models/rwkv4-xs.safetensors",
            "checkpoint.family=rwkv4",
            "space.embedding=quantize",
        ],
    },
];

impl Results {
    /// Formats on both models, and what the search finds within 3 %.
    pub(super) fn family(&self, page: &mut String, language: &Task) -> Result<()> {
        page.push_str(
            "## SpikeGPT and RWKV-4: the block formats of rwkv.cpp, and a search (`rwkv4.toml`, `codes.toml`)\n\n\
             The twin has the same sizes, tokenizer and text, and no spikes (`pretrain` made it). Formats are groups of 32 weights with 16-bit \
             scales, embedding and head in f16, as rwkv.cpp has them, which reports for the 169 M parameter model losses of 1.5 % \
             (Q5_1), 3.7 % (Q5_0), 10.0 % (Q4_1) and 12.1 % (Q4_0) at 67 to 70 % saved.\n\n\
             | model | format | saved % | perplexity | loss % | 95 % interval |\n|---|---|---|---|---|---|\n",
        );
        for model in &MODELS {
            let front = self.run(language, SPEC, model.store, model.settings)?;
            let float = &front["float"];
            writeln!(page, "| {} | float | 0 | {:.3} | | |", model.name, number(&float["perplexity"]))?;
            let experiment = front["experiment"].as_str().context("a front names its experiment")?;
            let rows = self.exported(experiment, model.store)?;
            // The float model is measured first, then the list in its order.
            for (format, row) in FORMATS.into_iter().zip(rows.iter().skip(1)) {
                writeln!(
                    page,
                    "| {} | {format} | {} | {:.3} | {} | {} to {} |",
                    model.name,
                    percent(&row["saving"]),
                    number(&row["perplexity"]),
                    percent(&row["quality_loss"]),
                    percent(&row["quality_loss_low"]),
                    percent(&row["quality_loss_high"]),
                )?;
            }
            let calibration = format!("calibration.text={}", self.wikitext2_train.display());
            let first = self.first.map(|first| format!("calibration.sequences={first}"));
            let settings: Vec<&str> = model
                .search
                .iter()
                .copied()
                .chain(std::iter::once(calibration.as_str()))
                .chain(first.as_deref())
                .collect();
            let front = self.run(language, "experiments/specs/codes.toml", "codes", &settings)?;
            let (chosen, interval) = (&front["chosen"], &front["chosen"]["quality_loss_interval"]);
            writeln!(
                page,
                "| {} | **`codes.toml`** | {} | {:.3} | {} | {} to {} |",
                model.name,
                percent(&chosen["saving"]),
                number(&chosen["perplexity"]),
                percent(&chosen["quality_loss"]),
                percent(&interval[0]),
                percent(&interval[1]),
            )?;
        }
        page.push('\n');
        Ok(())
    }

    /// Every measured candidate of an experiment, in the order in which it was proposed.
    fn exported(&self, experiment: &str, store: &str) -> Result<Vec<Value>> {
        let store = self.store(store);
        let arguments = ["export", experiment, "--format", "jsonl", "--store", &store.to_string_lossy()];
        let text = output(&mut program("qslm")?, &arguments)?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}
