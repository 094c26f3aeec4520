//! Sections on strategies: what each finds in as many evaluations, and what a budget of bytes gets.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Results, Task, number, percent};

/// Seeds of strategies that draw.
const SEEDS: [u32; 5] = [1, 2, 3, 4, 5];
/// Half of a 95 % interval of the mean of five, by the deviation of one: Student's t of 4 degrees over the root of 5.
const HALF_INTERVAL: f64 = 2.776 / 2.236_067_977_5;
/// Strategy that is asked for no best candidate, and spreads what it measures over all sizes.
const WHOLE_FRONT: &str = "allocate, without a bound";
/// Trade-off by which the least loss within a budget is chosen.
const LEAST_LOSS: &str = r#"trade_off={kind="weighted_sum", mu=0.0}"#;
/// Budgets in kB: from all at the last level to more than anybody needs.
const BUDGETS: std::ops::RangeInclusive<u32> = 0..=19;

impl Results {
    /// Hypervolumes at about as many evaluations.
    pub(super) fn strategies(&self, page: &mut String, language: &Task) -> Result<()> {
        page.push_str(
            "## Strategies at about a hundred evaluations (`strategies.toml`)\n\n\
             Codes as above, calibrated on the training text; the first 128 windows of the validation text. Hypervolume is \
             that of perplexity and bytes; saved is the most within 3 % of perplexity. Strategies that draw have five seeds, their mean and half of its 95 % interval; the others always take one \
             path. `Optuna` is its samplers by way of the strategy `external`, with loss and bytes as objectives. `haq` and `memory_driven` stay within a budget, here nine tenths saved, and see little of the front. \
             Where the loss is bounded, `qslm`, `beam` and `allocate` spend their evaluations at the bound, and say less of the rest of the front: `allocate` comes by the most saved so, and by a smaller hypervolume than without a bound.\n\n\
             | strategy | evaluations | hypervolume | saved % |\n|---|---|---|---|\n",
        );
        let strategies: [(&str, &str, bool); 10] = [
            ("qslm", r#"kind="qslm""#, false),
            ("qslm, plain", r#"kind="qslm", plain=true"#, false),
            ("allocate", r#"kind="allocate", tier="matrix""#, false),
            (WHOLE_FRONT, r#"kind="allocate", tier="matrix""#, false),
            ("beam of 2, modules", r#"kind="beam", tier="module", width=2"#, false),
            ("evolve", r#"kind="evolve", tier="matrix", population=20, generations=5"#, true),
            ("surrogate", r#"kind="surrogate", tier="matrix", initial=40, iterations=6, batch=10"#, true),
            ("random", r#"kind="random", tier="matrix", trials=100"#, true),
            ("haq", r#"kind="haq", tier="matrix", episodes=100"#, true),
            ("memory_driven", r#"kind="memory_driven", tier="matrix""#, false),
        ];
        for (words, strategy, draws) in strategies {
            let within = ["haq", "memory_driven"].contains(&words);
            let one = |seed: Option<u32>| {
                let seed = seed.map(|seed| format!(", seed={seed}")).unwrap_or_default();
                let mut settings = vec![format!("strategy={{{strategy}{seed}}}")];
                if within {
                    settings.extend(["constraints={min_saving=0.9}", LEAST_LOSS].map(str::to_owned));
                }
                if words == WHOLE_FRONT {
                    let most = "max_candidates=101";
                    settings.extend(["constraints={}", LEAST_LOSS, most].map(str::to_owned));
                }
                self.searched(language, &settings)
            };
            let fronts: Vec<Value> = match draws {
                true => SEEDS.into_iter().map(|seed| one(Some(seed))).collect::<Result<_>>()?,
                false => vec![one(None)?],
            };
            write_row(page, words, &fronts)?;
        }
        for (words, sampler) in [("Optuna, TPE", "tpe"), ("Optuna, NSGA-II", "nsga2")] {
            let fronts: Vec<Value> = SEEDS
                .into_iter()
                .map(|seed| self.by_optuna(sampler, seed, &self.settings_of(language, &[])))
                .collect::<Result<_>>()?;
            write_row(page, words, &fronts)?;
        }
        page.push('\n');
        self.budgets(page, language)
    }

    /// What budgets of bytes get, by allocation, after one table of sensitivities.
    fn budgets(&self, page: &mut String, language: &Task) -> Result<()> {
        page.push_str(
            "Budgets in bytes, by `allocate`, which measures groups alone once for all of them:\n\n\
             | budget | bytes | of the budget | loss % | 95 % interval |\n|---|---|---|---|---|\n",
        );
        for step in BUDGETS {
            let budget = 380_000 + 820_000 * u64::from(step) / u64::from(*BUDGETS.end());
            let front = self.searched(
                language,
                &[
                    r#"strategy={kind="allocate", tier="matrix"}"#.to_owned(),
                    format!("constraints={{max_footprint_bytes={budget}}}"),
                    LEAST_LOSS.to_owned(),
                ],
            )?;
            let chosen = &front["chosen"];
            let interval = &chosen["quality_loss_interval"];
            writeln!(
                page,
                "| {budget} | {} | {:.2} % | {} | {} to {} |",
                chosen["footprint_bytes"],
                100.0 * number(&chosen["footprint_bytes"]) / budget as f64,
                percent(&chosen["quality_loss"]),
                percent(&interval[0]),
                percent(&interval[1]),
            )?;
        }
        page.push('\n');
        Ok(())
    }

    /// Settings of the spec that all strategies share, with more on top.
    fn settings_of(&self, language: &Task, more: &[String]) -> Vec<String> {
        let mut all = vec![
            format!("{}={}", language.data_key, language.data.display()),
            format!("calibration.text={}", self.wikitext2_train.display()),
            // Fewer where this is tried out.
            format!("task.windows={}", self.first.unwrap_or(128)),
        ];
        all.extend_from_slice(more);
        all
    }

    fn searched(&self, language: &Task, settings: &[String]) -> Result<Value> {
        let all = self.settings_of(language, settings);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        self.run(language, "experiments/specs/strategies.toml", "strategies", &all)
            .with_context(|| settings.join(" "))
    }
}

/// A row of the table: what the fronts of one strategy have, by the mean over its seeds.
fn write_row(page: &mut String, words: &str, fronts: &[Value]) -> Result<()> {
    let of = |read: &dyn Fn(&Value) -> f64| fronts.iter().map(read).collect::<Vec<_>>();
    writeln!(
        page,
        "| {words} | {:.0} | {} | {} |",
        mean(&of(&|front| number(&front["measured"]))),
        with_interval(&of(&|front| number(&front["hypervolume"])), 4),
        with_interval(&of(&most_saved), 2),
    )?;
    Ok(())
}

/// Largest saving in percent of a front's candidates that lose at most 3 %.
fn most_saved(front: &Value) -> f64 {
    let all = front["front"].as_array().into_iter().flatten();
    let within = all.filter(|row| number(&row["quality_loss"]) <= 0.03);
    100.0 * within.map(|row| number(&row["saving"])).fold(0.0, f64::max)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The mean, and half of its 95 % interval where there are several values.
fn with_interval(values: &[f64], digits: usize) -> String {
    let mean = mean(values);
    if values.len() < 2 {
        return format!("{mean:.digits$}");
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (values.len() - 1) as f64).sqrt();
    format!("{mean:.digits$} ± {:.digits$}", HALF_INTERVAL * deviation)
}
