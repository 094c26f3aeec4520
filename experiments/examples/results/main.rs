//! Makes RESULTS.md: runs the specs of published claims and the comparisons beside them, and prints what came out.
//!
//!     cargo build --release --workspace
//!     cargo run --release --example results -- --wikitext2 wikitext-2/valid.txt --wikitext2-train wikitext-2/train.txt \
//!         --sst2 sst2/dev.tsv --sst2-train sst2/train.tsv > experiments/RESULTS.md
//!
//! Every number is read from the JSON that `qslm` prints; stores are kept under `runs/`, so that a second run is quick.

mod family;
mod optuna;
mod recovery;
mod strategies;
mod tables;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::Value;

/// Make RESULTS.md out of real runs.
#[derive(Debug, Parser)]
struct Results {
    /// WikiText-2's validation text, one paragraph a line
    #[arg(long, value_name = "FILE")]
    wikitext2: PathBuf,
    /// SST-2's dev sentences, `sentence TAB label`
    #[arg(long, value_name = "FILE")]
    sst2: PathBuf,
    /// WikiText-2's training text, with which codes are calibrated
    #[arg(long, value_name = "FILE")]
    wikitext2_train: PathBuf,
    /// SST-2's training sentences, likewise
    #[arg(long, value_name = "FILE")]
    sst2_train: PathBuf,
    /// Make one section alone, without the head of the page
    #[arg(long, value_enum)]
    only: Option<Section>,
    /// Stop after so many windows and sentences: for trying this program out
    #[arg(long, value_name = "N")]
    first: Option<u32>,
    /// Folder of the stores
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    stores: PathBuf,
}

/// A section that can be made alone.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Section {
    Codes,
    /// Recovery of packed codes
    Recovery,
    /// Recovery of entropy-coded codes
    Coded,
    /// Trainers of other papers
    Trainers,
    /// Recovery of the classifier
    Classifier,
    /// Strategies at as many evaluations, and budgets of bytes
    Strategies,
    /// Tables of sensitivities
    Tables,
    /// SpikeGPT beside its twin without spikes
    Family,
}

/// A task with the flags that name its files.
struct Task<'a> {
    title: &'static str,
    /// Results of the paper, in words.
    published: &'static str,
    spec: &'static str,
    checkpoint: &'static str,
    /// `--text` or `--labelled`.
    data_flag: &'static str,
    /// The key of the same in a spec.
    data_key: &'static str,
    data: &'a Path,
    quality: &'static str,
}

const WIDTHS: [&str; 5] = ["8", "6", "4", "3", "2"];

fn main() -> Result<()> {
    let results = Results::parse();
    let language = Task {
        title: "WikiText-2",
        published: "QSLM (arXiv 2601.00679) reports, for the 216 M parameter model, up to 86.5 % less memory, up to 20 % less \
                    power, and a perplexity of 23.2; the abstract does not say that one setting reaches all of it.",
        spec: "experiments/specs/wikitext2.toml",
        checkpoint: "experiments/models/wikitext2-xs.safetensors",
        data_flag: "--text",
        data_key: "task.text",
        data: &results.wikitext2,
        quality: "perplexity",
    };
    let sentiment = Task {
        title: "SST-2",
        published: "QSLM reports up to 86.5 % less memory and up to 84.4 % accuracy.",
        spec: "experiments/specs/sst2.toml",
        checkpoint: "experiments/models/sst2-xs.safetensors",
        data_flag: "--labelled",
        data_key: "task.labelled",
        data: &results.sst2,
        quality: "accuracy",
    };
    if let Some(section) = results.only {
        let mut page = String::new();
        match section {
            Section::Codes => results.codes(&mut page, &language, &sentiment)?,
            Section::Recovery => results.recovery(&mut page, &language)?,
            Section::Coded => results.coded_recovery(&mut page, &language)?,
            Section::Trainers => results.trainers(&mut page, &language)?,
            Section::Classifier => results.classifier(&mut page, &sentiment)?,
            Section::Strategies => results.strategies(&mut page, &language)?,
            Section::Tables => results.tables(&mut page, &language)?,
            Section::Family => results.family(&mut page, &language)?,
        }
        return std::io::Write::write_all(&mut std::io::stdout(), page.as_bytes()).context("standard output");
    }
    let mut page = String::from(HEAD);
    if let Some(first) = results.first {
        writeln!(page, "**A trial of the first {first} windows and sentences only.**\n")?;
    }
    for task in [&language, &sentiment] {
        results.task(&mut page, task)?;
    }
    results.codes(&mut page, &language, &sentiment)?;
    results.tables(&mut page, &language)?;
    results.family(&mut page, &language)?;
    results.recovery(&mut page, &language)?;
    results.coded_recovery(&mut page, &language)?;
    results.trainers(&mut page, &language)?;
    results.classifier(&mut page, &sentiment)?;
    results.four_bits(&mut page, &[&language, &sentiment])?;
    results.importance(&mut page, &language)?;
    results.all_tensors(&mut page, &[&sentiment, &language])?;
    results.inner(&mut page, &[&language, &sentiment])?;
    results.sensitivity(&mut page, &[&language, &sentiment])?;
    std::io::Write::write_all(&mut std::io::stdout(), page.as_bytes()).context("standard output")
}

const HEAD: &str = "\
# Results

Made by `cargo run --release --example results` (its first lines say how); nothing here is typed by hand. The models are
this project's own, of 1.4 and 1.1 million parameters (`experiments/models`), so the published numbers beside them are of
another size of model: what can be compared is how much is saved at which loss.

- *saved*: share of the float model's bytes, as the packed file stores them.
- *loss*: `PPL / PPL0 - 1`, or the drop in accuracy in points. *p*: paired randomization test over windows or sentences
  against the float model (`qslm compare`); a loss with p below 0.05 is called significant.
- *energy*: microjoules per token by the default table (45 nm, weights from DRAM, one sequence at a time); *arithmetic*:
  the part without memory traffic; *published*: arithmetic as spiking papers count it, in nanojoules.
- Unless said otherwise: symmetric, per channel, nearest, min-max, the binary embedding in its one lossless bit,
  activations and membranes in float.

";

/// Codes as the paper's would be: what a section says nothing else of.
const PLAIN: [&str; 4] = ["--range", "minmax", "--scales", "f32"];

impl Results {
    /// Uniform widths, the search's choice, and its front.
    fn task(&self, page: &mut String, task: &Task) -> Result<()> {
        let front = self.run(task, task.spec, task.spec, &[])?;
        writeln!(
            page,
            "## {}: uniform widths, the tiered search, its front\n\n{}\n",
            task.title, task.published
        )?;
        writeln!(
            page,
            "| setting | saved % | {} | loss % | p | energy | saved % | arithmetic | published |",
            task.quality
        )?;
        writeln!(page, "|---|---|---|---|---|---|---|---|---|")?;
        let mut float_done = false;
        for bits in WIDTHS {
            let report =
                self.compare(task, &[&PLAIN[..], &["--bits", bits, "--embedding", "sign"]].concat())?;
            if !float_done {
                let costs = &report["costs_before"];
                let before = quality(task, &report["before"]);
                writeln!(
                    page,
                    "| float | 0 | {before} | | | {} | 0 | {} | {} |",
                    micro(&costs["energy"]),
                    micro(&costs["energy_arithmetic"]),
                    nano(&costs["published_energy"])
                )?;
                float_done = true;
            }
            writeln!(page, "| {bits} bits |{}", comparison(task, &report))?;
        }
        let published =
            self.compare(task, &[&PLAIN[..], &["--bits", "4", "--embedding", "quantize"]].concat())?;
        writeln!(page, "| 4 bits, embedding too |{}", comparison(task, &published))?;
        let chosen = front["chosen"]["candidate"].as_str().context("nothing was chosen")?;
        let path = self.front_path(task.spec, &front)?;
        let report = self.compare(task, &["--front", &path, "--candidate", chosen])?;
        writeln!(page, "| **QSLM's choice** |{}", comparison(task, &report))?;
        let (measured, volume) = (&front["measured"], &front["hypervolume"]);
        writeln!(
            page,
            "\nThe search measured {measured} candidates; hypervolume {:.4}. Its front:\n",
            number(volume)
        )?;
        writeln!(page, "| candidate | bytes | saved % | {} | loss % | energy | firing rate |", task.quality)?;
        writeln!(page, "|---|---|---|---|---|---|---|")?;
        for row in front["front"].as_array().context("no front")? {
            let id = row["candidate"].as_str().unwrap_or_default();
            let mark = if id == chosen { "**" } else { "" };
            let value = if row["perplexity"].is_null() { &row["accuracy"] } else { &row["perplexity"] };
            writeln!(
                page,
                "| {mark}{}{mark} | {} | {} | {} | {} | {} | {:.4} |",
                &id[..12],
                row["footprint_bytes"],
                percent(&row["saving"]),
                quality(task, value),
                percent(&row["quality_loss"]),
                micro(&row["costs"]["energy"]),
                number(&row["firing_rate"]),
            )?;
        }
        page.push('\n');
        Ok(())
    }

    /// Codes that are all used, calibrated rounding, entropy coding, and searches over them.
    fn codes(&self, page: &mut String, language: &Task, sentiment: &Task) -> Result<()> {
        page.push_str(
            "## Codes: all used, calibrated, entropy-coded (`codes.toml`, `packed-codes.toml`, `sst2-codes.toml`)\n\n\
             Uniform schemes of WikiText-2: scales and vectors of 16 bits and least-squares ranges unless said otherwise; GPTQ with \
             the second moments of 128 windows of the training text, and so with coordinate descent, after which *frequency* gives \
             rows of the head a bit more or less. *rans*: the same file entropy-coded, not a number changed.\n\n\
             | scheme | saved % | with rans | loss % | 95 % interval |\n|---|---|---|---|---|\n",
        );
        let train = self.wikitext2_train.display().to_string();
        let sequences = self.first.unwrap_or(128).to_string();
        let calibration = ["--calibration", &train, "--calibration-sequences", &sequences];
        let usual =
            ["--scales", "f16", "--vector-bits", "16", "--range", "least_squares", "--embedding", "sign"];
        let uniform = |bits, symmetry, rounding| {
            let scheme = ["--bits", bits, "--symmetry", symmetry, "--rounding", rounding];
            let calibrated: &[&str] = if rounding == "nearest" { &[] } else { &calibration };
            [&usual[..], &scheme, calibrated].concat()
        };
        let step = |step| {
            [&["--scheme", step, "--vector-bits", "16", "--embedding", "sign"], &calibration[..]].concat()
        };
        let rows = [
            (
                "4 bits symmetric, min-max, 32-bit scales and vectors",
                [&PLAIN[..], &["--bits", "4", "--embedding", "sign"]].concat(),
            ),
            ("4 bits full", uniform("4", "full", "nearest")),
            ("4 bits full, gptq", uniform("4", "full", "gptq")),
            ("4 bits full, descent", uniform("4", "full", "descent")),
            ("4 bits full, frequency", uniform("4", "full", "frequency")),
            ("3 bits full", uniform("3", "full", "nearest")),
            ("3 bits full, gptq", uniform("3", "full", "gptq")),
            ("3 bits full, descent", uniform("3", "full", "descent")),
            ("3 bits full, frequency", uniform("3", "full", "frequency")),
            ("2 bits full", uniform("2", "full", "nearest")),
            ("2 bits full, gptq", uniform("2", "full", "gptq")),
            ("2 bits full, gptq, act-order", [&uniform("2", "full", "gptq")[..], &["--act-order"]].concat()),
            ("2 bits full, descent", uniform("2", "full", "descent")),
            ("2 bits full, frequency", uniform("2", "full", "frequency")),
            ("ternary", uniform("2", "ternary", "nearest")),
            ("ternary, gptq", uniform("2", "ternary", "gptq")),
            ("ternary, descent", uniform("2", "ternary", "descent")),
            ("step 0.50 of a matrix, gptq", step("ec:0.50:tensor:gptq")),
            ("step 0.70 of a matrix, gptq", step("ec:0.70:tensor:gptq")),
            ("step 0.70 of a row, gptq", step("ec:0.70:channel:f16:gptq")),
            ("step 0.70 of a row, descent", step("ec:0.70:channel:f16:descent")),
            ("step 0.70 of a row, frequency", step("ec:0.70:channel:f16:frequency")),
        ];
        let groups =
            |bits, rounding| [&uniform(bits, "full", rounding)[..], &["--granularity", "group:32"]].concat();
        let rows = rows.into_iter().chain([
            ("3 bits full, groups of 32, gptq", groups("3", "gptq")),
            ("3 bits full, groups of 32, slim", groups("3", "slim")),
            ("2 bits full, groups of 32, gptq", groups("2", "gptq")),
            ("2 bits full, groups of 32, slim", groups("2", "slim")),
        ]);
        for (words, flags) in rows {
            let coded = self.compare(language, &[&flags[..], &["--storage", "rans"]].concat())?;
            // Codes without a width are for storage by rans. Else what is packed says so itself.
            let saved = match words.starts_with("step") {
                true => "-".to_owned(),
                false => percent(&self.compare_on(language, &flags, Some(1))?["saving"]),
            };
            let interval = &coded["loss_interval"];
            writeln!(
                page,
                "| {words} | {saved} | {} | {} | {} to {} |",
                percent(&coded["saving"]),
                percent(&coded["loss"]),
                percent(&interval[0]),
                percent(&interval[1]),
            )?;
        }
        page.push_str(
            "\n*slim* is SliM-LLM (arXiv 2405.14917), which reports, in groups of 128, perplexities of 6.40 against GPTQ's 6.55 for \
             LLaMA-7B at 3 bits (5.68 in float) and 14.6 against 152 at 2 bits, and 6.24 against 6.29 for LLaMA-2-7B at 3 bits.\n\
             \nSearches over such codes within the bound of the specs (3 % of perplexity, one point of accuracy), the loss on all \
             of the data.\n\n\
             | spec | saved % | quality | loss % | 95 % interval | candidates |\n|---|---|---|---|---|---|\n",
        );
        let train = |key: &str, file: &Path| format!("{key}={}", file.display());
        for (task, spec, calibration) in [
            (language, "packed-codes", train("calibration.text", &self.wikitext2_train)),
            (language, "codes", train("calibration.text", &self.wikitext2_train)),
            (sentiment, "sst2-codes", train("calibration.labelled", &self.sst2_train)),
        ] {
            let first = self.first.map(|first| format!("calibration.sequences={first}"));
            let settings: Vec<&str> =
                std::iter::once(&calibration).chain(&first).map(String::as_str).collect();
            let front = self.run(task, &format!("experiments/specs/{spec}.toml"), spec, &settings)?;
            let chosen = &front["chosen"];
            let value =
                if chosen["perplexity"].is_null() { &chosen["accuracy"] } else { &chosen["perplexity"] };
            let interval = &chosen["quality_loss_interval"];
            writeln!(
                page,
                "| `{spec}.toml` | {} | {} | {} | {} to {} | {} |",
                percent(&chosen["saving"]),
                quality(task, value),
                percent(&chosen["quality_loss"]),
                percent(&interval[0]),
                percent(&interval[1]),
                front["measured"],
            )?;
        }
        page.push('\n');
        Ok(())
    }

    /// "4 bits save 70 % without significant loss."
    fn four_bits(&self, page: &mut String, tasks: &[&Task]) -> Result<()> {
        page.push_str(
            "## \"4 bits save 70 % without significant loss\" (`four-bits.toml`)\n\n\
             Uniform 4 bits in the forms that published work uses.\n\n\
             | task | setting | saved % | quality | loss % | 95 % interval | p | verdict |\n|---|---|---|---|---|---|---|---|\n",
        );
        for task in tasks {
            for (words, flags) in [
                ("per channel, embedding in one bit", &["--embedding", "sign"][..]),
                ("groups of 32, embedding in one bit", &["--granularity", "group:32", "--embedding", "sign"]),
                ("per channel, embedding too", &["--embedding", "quantize"]),
                ("per tensor, embedding too", &["--granularity", "tensor", "--embedding", "quantize"]),
            ] {
                let report = self.compare(task, &[&PLAIN[..], &["--bits", "4"], flags].concat())?;
                let interval = &report["loss_interval"];
                let verdict =
                    if number(&report["p_value"]) < 0.05 { "significant" } else { "not significant" };
                writeln!(
                    page,
                    "| {} | {words} | {} | {} | {} | {} to {} | {} | {verdict} |",
                    task.title,
                    percent(&report["saving"]),
                    quality(task, &report["after"]),
                    percent(&report["loss"]),
                    percent(&interval[0]),
                    percent(&interval[1]),
                    p_value(&report),
                )?;
            }
        }
        page.push('\n');
        Ok(())
    }

    /// Importance against uniform.
    fn importance(&self, page: &mut String, task: &Task) -> Result<()> {
        page.push_str(
            "## Bits by importance against the same bits everywhere (`lsaq.toml`)\n\n\
             LSAQ (arXiv 2412.18135) reports more quality than uniform bits at the same memory. Blocks (and the head) in the \
             order of a measure, the first of them narrower; the smallest candidate within 5 % of perplexity.\n\n\
             | order | candidates | chosen: saved % | perplexity | loss % | hypervolume |\n|---|---|---|---|---|---|\n",
        );
        let uniform = "strategy={ kind = \"grid\", tier = \"global\" }".to_owned();
        let ranked = |metric: &str| format!("strategy.metric={metric}");
        let mut orders = vec![("uniform".to_owned(), uniform)];
        for metric in ["lsaq", "weight_error", "membrane_drift", "kl_divergence", "task_loss"] {
            orders.push((metric.to_owned(), ranked(metric)));
        }
        for (name, setting) in orders {
            let spec = "experiments/specs/lsaq.toml";
            // One store for all orders: what they share is measured once.
            let front = self.run(task, spec, "lsaq", &[&setting])?;
            let chosen = &front["chosen"];
            writeln!(
                page,
                "| {name} | {} | {} | {} | {} | {:.4} |",
                front["measured"],
                percent(&chosen["saving"]),
                quality(task, &chosen["perplexity"]),
                percent(&chosen["quality_loss"]),
                number(&front["hypervolume"]),
            )?;
        }
        page.push('\n');
        Ok(())
    }

    /// Affine int8 on all tensors against matrices only.
    fn all_tensors(&self, page: &mut String, tasks: &[&Task]) -> Result<()> {
        page.push_str(
            "## Affine int8 on all tensors against matrices only (`int8-all-tensors.toml`)\n\n\
             Seen elsewhere: int8 on all tensors costs about 7 points of SST-2 accuracy, on the matrices about none. One scale per \
             tensor, the embedding like every other matrix; each one-dimensional parameter is a tensor.\n\n\
             | task | tensors | saved % | quality | loss % | p |\n|---|---|---|---|---|---|\n",
        );
        let matrices = ["--symmetry", "affine", "--granularity", "tensor", "--bits"];
        for task in tasks {
            for (words, more) in [
                ("matrices only", &["8"][..]),
                ("all", &["8", "--vector-bits", "8"]),
                ("all, 4 bits", &["4", "--vector-bits", "4"]),
                ("matrices only, 4 bits", &["4"]),
            ] {
                let flags = [&PLAIN[..], &matrices, more].concat();
                let report = self.compare(task, &flags)?;
                writeln!(
                    page,
                    "| {} | {words} | {} | {} | {} | {} |",
                    task.title,
                    percent(&report["saving"]),
                    quality(task, &report["after"]),
                    percent(&report["loss"]),
                    p_value(&report),
                )?;
            }
        }
        page.push('\n');
        Ok(())
    }

    /// Activations and membranes.
    fn inner(&self, page: &mut String, tasks: &[&Task]) -> Result<()> {
        page.push_str(
            "## Activations and membranes\n\n\
             Weights at 8 bits per channel, the embedding in one; activations affine, each token's own range; membranes in fixed \
             point with 2 bits before the point.\n\n\
             | task | activations | membranes | quality | loss % | p | arithmetic | energy |\n|---|---|---|---|---|---|---|---|\n",
        );
        for task in tasks {
            for (activations, membranes) in
                [("8", ""), ("6", ""), ("4", ""), ("", "8"), ("", "6"), ("", "4"), ("8", "8"), ("6", "6")]
            {
                let mut flags = [&PLAIN[..], &["--bits", "8", "--embedding", "sign"]].concat();
                if !activations.is_empty() {
                    flags.extend(["--activation-bits", activations]);
                }
                if !membranes.is_empty() {
                    flags.extend(["--membrane-bits", membranes]);
                }
                let report = self.compare(task, &flags)?;
                let costs = &report["costs_after"];
                let name =
                    |bits: &str| if bits.is_empty() { "float".to_owned() } else { format!("{bits} bits") };
                writeln!(
                    page,
                    "| {} | {} | {} | {} | {} | {} | {} | {} |",
                    task.title,
                    name(activations),
                    name(membranes),
                    quality(task, &report["after"]),
                    percent(&report["loss"]),
                    p_value(&report),
                    micro(&costs["energy_arithmetic"]),
                    micro(&costs["energy"]),
                )?;
            }
        }
        page.push('\n');
        Ok(())
    }

    /// Section on how well cheap measures rank.
    fn sensitivity(&self, page: &mut String, tasks: &[&Task]) -> Result<()> {
        page.push_str(
            "## Which cheap measure ranks units as the task loss does?\n\n\
             Every unit alone at so many bits; Spearman's rank correlation with the rise of the loss over the first windows or \
             sentences (`qslm sensitivity`).\n\n\
             | task | bits | sequences | kl_divergence | weight_error | membrane_drift | lsaq |\n|---|---|---|---|---|---|---|\n",
        );
        for task in tasks {
            let sequences = self.first.unwrap_or(256).min(256).to_string();
            for bits in ["4", "3", "2"] {
                let mut arguments = Self::data(task, None);
                arguments.extend(["--windows", &sequences, "--mini-batch", "16"].map(str::to_owned));
                arguments.extend(PLAIN.map(str::to_owned));
                arguments
                    .extend(["--bits", bits, "--embedding", "sign", "--output", "json"].map(str::to_owned));
                let report = qslm("sensitivity", &arguments)?;
                let rho = &report["rank_correlation"];
                let cell = |name: &str| rho[name].as_f64().map_or("-".to_owned(), |rho| format!("{rho:+.3}"));
                writeln!(
                    page,
                    "| {} | {bits} | {sequences} | {} | {} | {} | {} |",
                    task.title,
                    cell("kl_divergence"),
                    cell("weight_error"),
                    cell("membrane_drift"),
                    cell("lsaq"),
                )?;
            }
        }
        Ok(())
    }

    /// Runs a spec, with its store named after `name`; the front.
    fn run(&self, task: &Task, spec: &str, name: &str, settings: &[&str]) -> Result<Value> {
        let mut arguments = vec![spec.to_owned(), "--output".to_owned(), "json".to_owned()];
        arguments.extend(["--store".to_owned(), self.store(name).display().to_string()]);
        let file = format!("{}={}", task.data_key, task.data.display());
        arguments.extend(["--set".to_owned(), file]);
        if let Some(first) = self.first {
            let key = if task.quality == "accuracy" { "sentences" } else { "windows" };
            arguments.extend(["--set".to_owned(), format!("task.{key}={first}")]);
        }
        for setting in settings {
            arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
        }
        qslm("run", &arguments)
    }

    fn store(&self, name: &str) -> PathBuf {
        let name = Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.stores.join(format!("results-{name}.redb"))
    }

    fn front_path(&self, name: &str, front: &Value) -> Result<String> {
        let id = front["experiment"].as_str().context("a front names its experiment")?;
        Ok(self.store(name).with_file_name(format!("{id}.front.json")).display().to_string())
    }

    fn compare(&self, task: &Task, flags: &[&str]) -> Result<Value> {
        self.compare_on(task, flags, self.first)
    }

    /// Compares on the first so many windows or sentences, or all.
    fn compare_on(&self, task: &Task, flags: &[&str], first: Option<u32>) -> Result<Value> {
        let mut arguments = Self::data(task, first);
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        arguments.extend(["--output".to_owned(), "json".to_owned()]);
        qslm("compare", &arguments)
    }

    /// The flags that name checkpoint and data.
    fn data(task: &Task, first: Option<u32>) -> Vec<String> {
        let data = task.data.display().to_string();
        let tokenizer = "experiments/models/tokenizer.json";
        let mut flags = vec!["--checkpoint", task.checkpoint, "--tokenizer", tokenizer, "--window", "128"];
        flags.extend([task.data_flag, &data]);
        let mut flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
        if let Some(first) = first {
            flags.extend(["--windows".to_owned(), first.to_string()]);
        }
        flags
    }
}

/// Runs `qslm` and reads its JSON.
fn qslm(command: &str, arguments: &[String]) -> Result<Value> {
    qslm_program::say(format_args!("qslm {command} {}", arguments.join(" ")));
    let arguments: Vec<&str> = std::iter::once(command).chain(arguments.iter().map(String::as_str)).collect();
    Ok(serde_json::from_str(&output(&mut program("qslm")?, &arguments)?)?)
}

/// One of our programs, beside this one.
fn program(name: &str) -> Result<Command> {
    let here = std::env::current_exe().context("this program")?;
    let folder = here.parent().and_then(Path::parent).context("the folder of this program")?;
    let path = folder.join(name);
    ensure!(path.exists(), "{}: is not built: cargo build --release --workspace", path.display());
    Ok(Command::new(path))
}

/// What a program prints, if it ends well.
fn output(command: &mut Command, arguments: &[&str]) -> Result<String> {
    let output = command.args(arguments).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| arguments.join(" "))?;
    ensure!(output.status.success(), "{}: {}", arguments.join(" "), output.status);
    String::from_utf8(output.stdout).with_context(|| arguments.join(" "))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn percent(value: &Value) -> String {
    // Adding zero makes -0.00 into 0.00.
    format!("{:.2}", (number(value) * 1e4).round() / 100.0 + 0.0)
}

fn micro(value: &Value) -> String {
    format!("{:.3}", number(value) * 1e6)
}

fn nano(value: &Value) -> String {
    format!("{:.1}", number(value) * 1e9)
}

fn quality(task: &Task, value: &Value) -> String {
    match task.quality {
        "accuracy" => format!("{} %", percent(value)),
        _ => format!("{:.3}", number(value)),
    }
}

fn p_value(report: &Value) -> String {
    let p = number(&report["p_value"]);
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

/// The cells of a comparison in a task's first table.
fn comparison(task: &Task, report: &Value) -> String {
    let (before, after) = (&report["costs_before"], &report["costs_after"]);
    let saved = 1.0 - number(&after["energy"]) / number(&before["energy"]);
    format!(
        " {} | {} | {} | {} | {} | {:.2} | {} | {} |",
        percent(&report["saving"]),
        quality(task, &report["after"]),
        percent(&report["loss"]),
        p_value(report),
        micro(&after["energy"]),
        saved * 100.0,
        micro(&after["energy_arithmetic"]),
        nano(&after["published_energy"]),
    )
}
