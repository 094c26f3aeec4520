//! Trains a checkpoint under a scheme of all linears by the jobs of a plan, and evaluates what they leave on another text.
//!
//!     cargo run --release -p qslm-train --example trainers -- CHECKPOINT TOKENIZER TRAIN VALID SCHEME PLAN..
//!
//! A PLAN is the text of one in a job's parameters, such as
//!
//!     {"trainer":{"kind":"mrem","modules":4,"rounds":4},"window":128,"batch":16,"steps":200,"rate":1e-3,"distillation":1.0,"seed":1}
//!
//! Writes the seconds of every job as it is done; of every artifact with codes what it loses of perplexity and how many spikes
//! there are for one of the float network, population by population; and of rounds of modules how much
//! sooner they would be done side by side: the sum of a round's seconds by the longest module's.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::job::JobInput;
use qslm_common::measurement::Counts;
use qslm_common::quality::Quality;
use qslm_common::recovery::{Parameters, Recovery, kinds};
use qslm_common::scheme::Scheme;
use qslm_common::storage::CodedSizes;
use qslm_common::task::Task;
use qslm_engine::checkpoint::calibrated::CodesFile;
use qslm_engine::jobs::{BACKEND, Inputs, Loaded};
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, TokenizerFile, evaluate_each, spread};
use qslm_train::jobs::make;

type Failure = Box<dyn std::error::Error>;

/// Data that everything is measured on, and the float network's counts of it.
struct Measure {
    data: Dataset,
    float: Vec<Counts>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, checkpoint, tokenizer, train, valid, scheme, plans @ ..] = &arguments[..] else {
        return Err("expected CHECKPOINT TOKENIZER TRAIN VALID SCHEME PLAN..".into());
    };
    let scheme: Scheme = scheme.parse()?;
    let file = |name: &str, path: &String| (name.to_owned(), PathBuf::from(path));
    let files: BTreeMap<String, PathBuf> =
        [file("checkpoint", checkpoint), file("tokenizer", tokenizer), file("text", train)].into();
    let loaded = Arc::<Loaded>::default();
    let inputs = Inputs::sharing(files.clone(), loaded.clone());
    let checkpoint = inputs.checkpoint(true)?;
    let network = *checkpoint.network();
    let tokenizer = TokenizerFile::load(Path::new(tokenizer), network.vocabulary)?;
    let task = Task::Perplexity { window: 128, stride: 128, windows: None };
    let data = Dataset::load(Path::new(valid), &tokenizer, &task, &network)?;
    let float = evaluate_each(&*inputs.float(true)?, &data, 0..data.len(), None, &|| false)?;
    let measure = Measure { data, float };
    let candidate = Candidate::new(&network, |unit| if unit.is_linear() { scheme } else { Scheme::Sign })
        .with_vectors(Scheme::Half);
    let plain = network.units().iter().fold(candidate.clone(), |plain, unit| {
        plain.with([unit.name.as_str()], candidate.scheme(&unit.name).uncalibrated())
    });
    measure.say("untrained", &SpikeGpt::new(&checkpoint, &plain, BACKEND)?)?;

    let folder = std::env::temp_dir().join(format!("qslm-trainers-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for plan in plans {
        say(&format!("\n{plan}"))?;
        let hash = |name: &str| ContentHash::of(name.as_bytes());
        let (plan, backend) = (serde_json::from_str(plan)?, Backend::Native);
        let recovery = Recovery { text: hash("text"), candidates: 1, reach: 1.0, plan, backend };
        // Reading is not training: a worker reads once for all jobs of a search.
        let plan = &recovery.plan;
        let task = Task::Perplexity { window: plan.window, stride: plan.window, windows: None };
        inputs.data(&task, &network)?;
        let jobs = recovery.jobs(&network, hash("checkpoint"), hash("tokenizer"), &candidate);
        let mut rounds: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for job in jobs.ok_or("the scheme cannot be trained")? {
            let others = job.inputs.iter().filter_map(|(name, input)| match input {
                JobInput::Job(key) => Some((name.clone(), folder.join(key.to_string()))),
                JobInput::Artifact(_) => None,
            });
            let inputs = Inputs::sharing(files.clone().into_iter().chain(others).collect(), loaded.clone());
            let (mut artifact, started) = (Vec::new(), Instant::now());
            make(&job, &inputs, &(), &mut artifact)?;
            let seconds = started.elapsed().as_secs_f64();
            std::fs::write(folder.join(job.key().to_string()), &artifact)?;
            let of_job = job.parameters.clone().into_iter().collect();
            let parameters: Parameters = serde_json::from_value(serde_json::Value::Object(of_job))?;
            if let Some((module, round)) = parameters.module {
                say(&format!("round {round}, module {module}: {seconds:.1} s"))?;
                rounds.entry(round).or_default().push(seconds);
                continue;
            }
            say(&format!("{}: {seconds:.1} s", job.kind))?;
            let hash = ContentHash::of(&artifact);
            let codes = BTreeMap::from([(hash, Arc::new(CodesFile::of(artifact)?))]);
            let trained = Recovery::trained(&network, &candidate, hash, CodedSizes::NONE)
                .ok_or("nothing was trained")?;
            measure.say(&job.kind, &SpikeGpt::with_codes(&checkpoint, &trained, &codes, BACKEND)?)?;
            if job.kind == kinds::MREM_JOIN {
                for (round, seconds) in &rounds {
                    let (sum, longest) =
                        (seconds.iter().sum::<f64>(), seconds.iter().copied().fold(0.0, f64::max));
                    let times = sum / longest;
                    say(&format!(
                        "round {round}: {sum:.1} s, the longest module {longest:.1} s: {times:.2} times"
                    ))?;
                }
            }
        }
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

impl Measure {
    /// Writes how much perplexity a network loses, with its interval.
    fn say(&self, what: &str, model: &SpikeGpt) -> Result<(), Failure> {
        let each = evaluate_each(model, &self.data, 0..self.data.len(), None, &|| false)?;
        let populations = model.network().population_count();
        let sum = |each: &[Counts]| Counts::sum(populations, each);
        let (float, counts) = (sum(&self.float)?, sum(&each)?);
        let interval = spread(Quality::Perplexity, &self.float, &each).loss_interval(&float, &counts);
        let (low, high) = interval.ok_or("too little data for an interval")?;
        let loss = Quality::Perplexity.loss_against(&float, &counts);
        let ratios = counts.spikes.iter().zip(&float.spikes).map(|(own, float)| *own as f64 / *float as f64);
        let spikes: Vec<String> = ratios.map(|ratio| format!("{ratio:.2}")).collect();
        let (loss, low, high) = (100.0 * loss, 100.0 * low, 100.0 * high);
        say(&format!("{what}: {loss:+.2} % ({low:.2} to {high:.2}), spikes times {}", spikes.join(" ")))
    }
}

fn say(line: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
