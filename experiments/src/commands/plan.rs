//! Plan of a search: its stages, candidates and evaluations, and how long they may take.

use std::convert::Infallible;
use std::time::Instant;

use qslm_common::candidate::Candidate;
use qslm_common::network::Member;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{evaluate_each, evaluate_each_beside};
use qslm_report::words::{grouped, speed};
use qslm_search::{Playback, StagePlan};
use serde::Serialize;

use crate::data::load_data;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, align_right, plain_table, print, print_data};
use crate::parallel;
use crate::spec::Resolved;

/// Seconds of evaluating from which the pace is told.
const SAMPLE: f64 = 1.0;

/// Printed document; its keys are part of the interface.
#[derive(Serialize)]
struct Plan {
    experiment: String,
    stages: Vec<StagePlan>,
    /// Jobs that are done before anything is measured.
    #[serde(skip_serializing_if = "is_zero")]
    jobs: usize,
    /// Candidates, the float model included; unknown where they come from outside.
    candidates_at_most: Option<u64>,
    /// Shards, each of which is one lease.
    evaluations_at_most: Option<u64>,
    tokens_per_candidate: u64,
    /// Pace of one thread on this machine.
    tokens_per_second: f64,
    threads: usize,
    /// Time on this machine, with all its threads.
    seconds_at_most: Option<f64>,
}

/// Prints what the search of `resolved` would do.
pub(super) fn show(resolved: &Resolved, output: Output) -> Outcome {
    let experiment = &resolved.experiment;
    let strategy = |error| Failure::new(Exit::Failure, format!("strategy: {error}"));
    let mut playback = Playback::new(experiment.clone(), resolved.shards, []).map_err(strategy)?;
    let Ok(_) = playback.propose(|_| Ok::<_, Infallible>(false));
    let jobs = playback.jobs();
    // What a search measures with artifacts that are not made yet, nobody can count beforehand.
    let first = playback.candidates();
    let candidates = playback.remaining_at_most().map(|remaining| first as u64 + remaining);
    // What is measured on a subset of the data costs that share.
    let (on_subset, share) = resolved.on_subset();
    let whole = candidates.map(|candidates| candidates as f64 - on_subset as f64 * (1.0 - share));
    let (pace, threads) = (tokens_per_second(resolved)?, parallel::threads(None));
    let stages = resolved.strategy.outline(experiment, first as u64);
    let mut stages = qslm_search::stages_within_limit(stages, experiment);
    stages.extend(qslm_search::stage_of_recovery(experiment));
    let plan = Plan {
        experiment: experiment.id(),
        stages,
        jobs,
        candidates_at_most: candidates,
        evaluations_at_most: candidates.map(|candidates| {
            let further = (playback.trials_per_candidate() - 1) as u64;
            (candidates + further * candidates.saturating_sub(on_subset)) * u64::from(resolved.shards)
        }),
        tokens_per_candidate: resolved.positions,
        tokens_per_second: pace,
        threads,
        seconds_at_most: whole.map(|whole| whole * resolved.positions as f64 / (pace * threads as f64)),
    };
    match output {
        Output::Json | Output::Yaml => print_data(output, &plan),
        Output::Table => plan.print(),
    }
}

fn is_zero(jobs: &usize) -> bool {
    *jobs == 0
}

/// Evaluates the float model for about a second, beside itself where the experiment asks for the divergence from it.
fn tokens_per_second(resolved: &Resolved) -> Outcome<f64> {
    let experiment = &resolved.experiment;
    let [(_, checkpoint), (_, text), (_, tokenizer), ..] = &resolved.files[..] else {
        return Err(Failure::new(Exit::Failure, "an experiment has at least three files"));
    };
    let member = Member::from(&experiment.network);
    let loaded = Checkpoint::load(checkpoint.path(), member).map_err(|error| checkpoint.failure(&error))?;
    let data = load_data(text, tokenizer, &experiment.task, &experiment.network)?;
    let float = Candidate::float(&experiment.network);
    let failed = |error: &(dyn std::error::Error + 'static)| checkpoint.failure(error);
    let model = SpikeGpt::new(&loaded, &float, experiment.backend).map_err(|error| failed(&error))?;
    let (started, mut tokens) = (Instant::now(), 0);
    for sequence in 0..data.len() {
        let (sequences, nobody) = (sequence..sequence + 1, &|| false);
        let each = match experiment.asks_for_kl() {
            true => evaluate_each_beside(&model, &model, &data, sequences, None, nobody),
            false => evaluate_each(&model, &data, sequences, None, nobody),
        };
        let each = each.map_err(|error| failed(&error))?;
        tokens += each.iter().map(|counts| counts.processed_tokens).sum::<u64>();
        if started.elapsed().as_secs_f64() > SAMPLE {
            break;
        }
    }
    Ok(tokens.max(1) as f64 / started.elapsed().as_secs_f64())
}

impl Plan {
    fn print(&self) -> Outcome {
        let mut table = plain_table();
        table.set_header(["stage", "groups", "candidates at most"]);
        for stage in &self.stages {
            table.add_row([&stage.stage, &stage.groups.to_string(), &grouped(stage.candidates_at_most)]);
        }
        align_right(&mut table, |place| place >= 1);
        let time = self.seconds_at_most.map(|seconds| std::time::Duration::from_secs_f64(seconds.min(1e9)));
        let (Some(candidates), Some(evaluations), Some(time)) =
            (self.candidates_at_most, self.evaluations_at_most, time)
        else {
            return print(&format!(
                "{}\n\nThe float model, then what it is told from outside: how many candidates, is unknown\n\
                 {} tokens each candidate, {} on each of the {} threads of this machine\n",
                self.experiment,
                grouped(self.tokens_per_candidate),
                speed(self.tokens_per_second),
                self.threads,
            ));
        };
        let jobs = match self.jobs {
            0 => String::new(),
            jobs => format!("{jobs} jobs first\n"),
        };
        print(&format!(
            "{}\n\n{table}\n\n{jobs}{} candidates at most, {} evaluations, {} tokens each candidate\n\
             at most {} on the {} threads of this machine ({} each)\n",
            self.experiment,
            grouped(candidates),
            grouped(evaluations),
            grouped(self.tokens_per_candidate),
            indicatif::HumanDuration(time),
            self.threads,
            speed(self.tokens_per_second),
        ))
    }
}
