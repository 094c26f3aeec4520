//! Sections on recovery: what training brings back, by which trainer, beside the float model after the same training.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Results, Task, percent, quality};

/// Head of the tables.
const COLUMNS: &str = "| saved % | quality | loss % | 95 % interval |\n|---|---|---|---|---|\n";

impl Results {
    /// Packed codes.
    pub(super) fn recovery(&self, page: &mut String, language: &Task) -> Result<()> {
        page.push_str(
            "## Recovery: quantization-aware training (`recover.toml`)\n\n\
             Trained on the training text alone, 16 windows of 128 tokens a step, a quarter of the loss the divergence from the float \
             model and the rest cross entropy; whole validation text, packed files. The model is under-trained: the float model after \
             the same steps stands below, and a trained candidate is to be compared with both.\n\n\
             | setting ",
        );
        page.push_str(COLUMNS);
        let first = self.trained(language, "recover", "recover", &[])?;
        packed_rows(page, language, "", &first)?;
        // How far runs scatter that ought to be as good.
        let second = self.trained(language, "recover", "recover-1", &["recovery.seed=1"])?;
        packed_rows(page, language, ", windows in another order", &second)?;
        control(page, language, &first)
    }

    /// Entropy-coded codes, with their length in the loss.
    pub(super) fn coded_recovery(&self, page: &mut String, language: &Task) -> Result<()> {
        page.push_str(
            "## Recovery of entropy-coded codes (`recover-coded.toml`)\n\n\
             One step for each matrix; the mean length of the codes is part of the loss, at a price. Trained as above, 800 steps unless \
             said otherwise; bytes are those of the file.\n\n\
             | setting ",
        );
        page.push_str(COLUMNS);
        let settings: [(&str, &[&str]); 4] = [
            ("a quarter distillation, 0.17 nats a bit", &[]),
            ("a quarter distillation, 0.12 nats a bit", &["recovery.bit_cost=0.12"]),
            ("distillation alone, 0.08 nats a bit", &["recovery.distillation=1.0", "recovery.bit_cost=0.08"]),
            (
                "distillation alone, 0.04 nats a bit, 1,600 steps",
                &["recovery.distillation=1.0", "recovery.bit_cost=0.04", "recovery.steps=1600"],
            ),
        ];
        let mut with_control = None;
        for (index, (words, settings)) in settings.into_iter().enumerate() {
            let name = format!("recover-coded-{index}");
            let document = self.trained(language, "recover-coded", &name, settings)?;
            let all = document["front"].as_array().context("no front")?;
            let of_training =
                |row: &&Value| row["schemes"]["head.weight"].as_str().is_some_and(|s| s.contains("trained"));
            row(page, language, words, all.iter().find(of_training).context("nothing was trained")?)?;
            with_control = with_control.or(Some(document).filter(|document| !document["control"].is_null()));
        }
        with_control.map_or(Ok(()), |document| control(page, language, &document))
    }

    /// Trainers of other papers, on uniform codes.
    pub(super) fn trainers(&self, page: &mut String, language: &Task) -> Result<()> {
        page.push_str(
            "## Trainers: EfficientQAT and MREM (`trainers.toml`)\n\n\
             Uniform codes per channel. `block_ap` learns from the float model's values alone, 100 steps for each block; `e2e_qp` moves the steps of frozen codes for 100 more, by distillation. `mrem` learns 4 modules side by side in 4 rounds, 200 steps each. Published for LLaMA-2-7B at 2 bits: \
             EfficientQAT 6.86 in place of 5.47 (GPTQ far above), Block-AP alone 7.65. Without training, and calibrated: section \
             \"Codes\".\n\n\
             | setting ",
        );
        page.push_str(COLUMNS);
        let trainers: [(&str, &str, &[&str]); 3] = [
            ("block_ap", "block_ap", &["recovery.trainer=block_ap", "recovery.end_to_end_steps=0"]),
            ("block_ap, then e2e_qp", "efficient", &["recovery.trainer=block_ap"]),
            ("mrem", "mrem", &["recovery.trainer=mrem", "recovery.steps=200", "recovery.rate=2e-4"]),
        ];
        for (words, name, settings) in trainers {
            let document = self.trained(language, "trainers", &format!("trainers-{name}"), settings)?;
            let all = document["front"].as_array().context("no front")?;
            for candidate in all {
                let head = candidate["schemes"]["head.weight"].as_str().unwrap_or_default();
                if let Some(bits) = head.strip_prefix("int").filter(|_| head.contains("trained")) {
                    let bits = bits.split(':').next().unwrap_or_default();
                    row(page, language, &format!("{bits} bits, {words}"), candidate)?;
                }
            }
        }
        page.push('\n');
        Ok(())
    }

    /// The classifier.
    pub(super) fn classifier(&self, page: &mut String, sentiment: &Task) -> Result<()> {
        page.push_str(
            "## Recovery of the classifier (`sst2-recover.toml`)\n\n\
             400 steps of 16 sentences of the training split, by distillation alone; all dev sentences, entropy-coded files. One sentence is 0.11 \
             points.\n\n\
             | setting ",
        );
        page.push_str(COLUMNS);
        let document = self.trained(sentiment, "sst2-recover", "sst2-recover", &[])?;
        for candidate in document["front"].as_array().context("no front")? {
            let head = candidate["schemes"]["head.weight"].as_str().unwrap_or_default();
            if let Some(head) = head.strip_suffix(":trained").or(head.strip_suffix(":trained:least_squares"))
            {
                let vectors = candidate["vectors"].as_str().unwrap_or("f32");
                row(page, sentiment, &format!("head `{head}`, vectors `{vectors}`"), candidate)?;
            }
        }
        control(page, sentiment, &document)
    }

    /// The front of a spec whose recovery learns from the task's training data.
    fn trained(&self, task: &Task, spec: &str, name: &str, settings: &[&str]) -> Result<Value> {
        let data = match task.quality {
            "accuracy" => format!("recovery.labelled={}", self.sst2_train.display()),
            _ => format!("recovery.text={}", self.wikitext2_train.display()),
        };
        let steps = self.first.map(|first| format!("recovery.steps={first}"));
        let all: Vec<&str> =
            std::iter::once(data.as_str()).chain(settings.iter().copied()).chain(steps.as_deref()).collect();
        self.run(task, &format!("experiments/specs/{spec}.toml"), name, &all)
    }
}

/// The packed candidates of a front after training, the smallest first.
fn packed_rows(page: &mut String, task: &Task, order: &str, document: &Value) -> Result<()> {
    for candidate in document["front"].as_array().context("no front")? {
        let schemes = candidate["schemes"].as_object().context("no schemes")?;
        let head = schemes["head.weight"].as_str().unwrap_or_default();
        let ternary =
            schemes.values().filter(|scheme| scheme.as_str().is_some_and(|s| s.contains("ternary")));
        let (head, ternary) = (head.split(':').next().unwrap_or_default(), ternary.count());
        let words = match ternary {
            29 => format!("all 29 matrices ternary{order}"),
            _ => format!("head {head}, {ternary} of 29 matrices ternary, the rest 2 bits{order}"),
        };
        row(page, task, &words, candidate)?;
    }
    Ok(())
}

fn row(page: &mut String, task: &Task, words: &str, row: &Value) -> Result<()> {
    let interval = &row["quality_loss_interval"];
    let key = if task.quality == "accuracy" { "accuracy" } else { "perplexity" };
    writeln!(
        page,
        "| {words} | {} | {} | {} | {} to {} |",
        percent(&row["saving"]),
        quality(task, &row[key]),
        percent(&row["quality_loss"]),
        percent(&interval[0]),
        percent(&interval[1]),
    )?;
    Ok(())
}

/// The float model after the same training, if there is such.
fn control(page: &mut String, task: &Task, document: &Value) -> Result<()> {
    let control = &document["control"];
    if control.is_null() {
        page.push('\n');
        return Ok(());
    }
    let interval = &control["quality_loss_interval"];
    writeln!(
        page,
        "\nThe float model after the same {} steps: {} {}, {} % ({} to {}).\n",
        control["steps"],
        task.quality,
        quality(task, &control["quality"]),
        percent(&control["quality_loss"]),
        percent(&interval[0]),
        percent(&interval[1]),
    )?;
    Ok(())
}
