//! `qslm run`: a whole experiment in one process, the same code as the distributed form.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use qslm_common::demands::Demands;
use qslm_common::experiment::Experiment;
use qslm_coordinator::store::Artifacts;
use qslm_program::limits;
use qslm_proto::v1::RetryRequest;
use qslm_proto::v1::experiment_status::State;
use qslm_search::AnyStrategy;
use qslm_worker::capabilities::detect;
use qslm_worker::{Agent, ArtifactCache, CHECKPOINT_EVERY, CrashPlan, Evaluator};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::{Embedded, submit};
use crate::exit::{Exit, Failure, Outcome};
use crate::finished::{Finished, WhenStuck, until_ended};
use crate::making::HereWith;
use crate::output::{Output, print};
use crate::place::{Made, OutputPlace};
use crate::spec::{Resolved, resolve};

/// Run an experiment here: coordinator and workers in one process.
///
/// Every result is kept in the store. Run the same command again after an interruption and it goes on;
/// run it on a finished experiment and it answers at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm run experiments/specs/quickstart.toml
  qslm run spec.toml --store sweep.redb --workers 8
  qslm run experiments/specs/wikitext2.toml --set task.text=wiki.valid.tokens --set task.windows=64
  qslm run spec.toml --output json > front.json
  qslm run spec.toml --retry-failed          # when the cause of failed trials is gone

Exit codes: 0 done, 1 failure or stuck (nothing can be evaluated here, and why), 2 bad spec, 3 missing file, 4 store in use,
6 finished with failed trials or no candidate within the constraints, 130 interrupted.")]
pub struct Run {
    /// The experiment's spec
    #[arg(value_name = "SPEC.toml")]
    spec: PathBuf,
    /// Keep results in this file; inputs and the front are kept beside it [default: runs/NAME.redb]
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// Evaluations at a time, one thread each [default: one per core]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Option<u32>,
    /// Change a value of the spec, such as task.windows=64
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Measure again what failed before; the search goes on from there as if it had not
    #[arg(long)]
    retry_failed: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

impl Run {
    /// Runs, shows progress, and prints the front.
    pub async fn run(self) -> Outcome {
        let resolved = resolve(&self.spec, &self.settings)?;
        let Experiment { backend, recovery, .. } = &resolved.experiment;
        for backend in
            [Some(*backend), recovery.as_ref().map(|recovery| recovery.backend)].into_iter().flatten()
        {
            qslm_engine::backend::check(backend).map_err(|error| Failure::new(Exit::Usage, error))?;
        }
        if matches!(resolved.strategy, AnyStrategy::External(_)) {
            let words = "strategy.kind = \"external\": nobody can tell this process any candidates; start qslm-coordinator \
                         and a worker, then qslm submit and qslm tell";
            return Err(Failure::new(Exit::Usage, format!("{}: {words}", self.spec.display())));
        }
        let name = &resolved.experiment.name;
        let store = self.store.unwrap_or_else(|| Path::new("runs").join(format!("{name}.redb")));
        let cores = || std::thread::available_parallelism().map_or(1, usize::from) as u32;
        let workers = self.workers.unwrap_or_else(cores);

        // An evaluation has a thread, an agent a connection, of which both ends are here, and a file now and then.
        let room = limits::ensure_threads(workers as usize);
        let room = room.and_then(|()| limits::ensure_files(32 + 4 * workers as usize));
        room.with_context(|| format!("workers = {workers}"))?;
        let interrupted = qslm_program::cancelled_by_signals()?;
        let embedded = Embedded::start(&store).await?;
        let outcome = search(&embedded, &resolved, workers, self.retry_failed, &interrupted).await;
        let front = match outcome {
            Ok(Some(finished)) => {
                let path = store.with_file_name(format!("{}.front.json", resolved.experiment.id()));
                let inputs: Vec<_> = resolved.files.iter().map(|(_, file)| file.named()).collect();
                let place = OutputPlace::new(&path, Made::Front, &inputs, true);
                place.and_then(|place| place.write(finished.json.as_bytes())).map(|()| (finished, path))
            }
            Ok(None) => {
                Err(Failure::new(Exit::Interrupted, "interrupted; run the same command again to go on"))
            }
            Err(failure) => Err(failure),
        };
        let (finished, path) = embedded.stop_after(front).await?;
        let artifacts = Artifacts::of(&store).folder().to_owned();
        tokio::task::block_in_place(|| {
            let more = finished.with_more(&resolved, &HereWith(&artifacts))?;
            finished.show_with_more(self.output, &more, &resolved)
        })?;
        if self.output == Output::Table {
            let evaluated = finished.evaluated;
            let (store, front) = (store.display(), path.display());
            // Of interest to whoever wants to know where the time went.
            let shown = finished.computed_share.filter(|_| tracing::enabled!(tracing::Level::INFO));
            let arithmetic = shown.map_or(String::new(), |share| {
                let percent = share * 100.0;
                format!("Arithmetic: {percent:.0} % of the products that measuring each candidate alone would take\n")
            });
            print(&format!(
                "\nEvaluated in this run: {evaluated}\n{arithmetic}Results: {store}\nFront:   {front}\n"
            ))?;
        }
        finished.verdict()
    }
}

/// Submits and waits. `None` if interrupted.
async fn search(
    embedded: &Embedded,
    resolved: &Resolved,
    workers: u32,
    retry_failed: bool,
    interrupted: &CancellationToken,
) -> Outcome<Option<Finished>> {
    let mut client = embedded.connect().await?;
    // Demands are for choosing among workers; here there is one machine.
    let resolved = &Resolved { demands: Demands::default(), ..resolved.clone() };
    let mut status = submit(&mut client, resolved, None).await?;
    if retry_failed {
        let request = RetryRequest { experiment: status.id, trials: Vec::new() };
        status = client.retry(request).await?.into_inner();
    }
    let stop = CancellationToken::new();
    let mut agents = JoinSet::new();
    let evaluator = Arc::new(Evaluator::new(workers as usize));
    if status.state() == State::Running {
        let cache = ArtifactCache::new(embedded.artifacts.clone(), u64::MAX).map_err(anyhow::Error::from)?;
        let cache = Arc::new(cache);
        let capabilities = detect(BTreeMap::new());
        for index in 0..workers {
            let name = format!("local-{index}");
            // The store may hold other experiments that were interrupted; they are not what was asked for.
            let experiment = Some(status.id.clone());
            let (evaluator, cache) = (evaluator.clone(), cache.clone());
            let agent = Agent {
                name,
                slots: 1,
                experiment,
                evaluator,
                cache,
                spool: None,
                capabilities: capabilities.clone(),
                traces: None,
                tally: Arc::default(),
                checkpoint_every: CHECKPOINT_EVERY,
                token_patience: Duration::ZERO,
                until_done: false,
                crash_at: CrashPlan::default(),
            };
            let (connector, stop) = (embedded.connector()?, stop.clone());
            agents.spawn(async move { agent.run(connector, stop).await });
        }
        tracing::debug!(tokens = resolved.positions, "tokens per trial");
    }
    let watched = tokio::select! {
        watched = until_ended(&mut client, &status.id, WhenStuck::Fail) => Some(watched),
        () = interrupted.cancelled() => None,
        // An agent ends by itself only with an error that no retry mends.
        Some(agent) = agents.join_next() => Some(Err(match agent {
            Ok(Err(error)) => error.into(),
            _ => Failure::new(Exit::Failure, "a worker ended unexpectedly"),
        })),
    };
    stop.cancel();
    while agents.join_next().await.is_some() {}
    match watched {
        None => Ok(None),
        Some(status) => {
            let mut finished = Finished::read(&mut client, &status?.id).await?;
            let spared = finished.arithmetic_spared(resolved) as u64;
            finished.computed_share = evaluator.reuse().computed_share(spared);
            Ok(Some(finished))
        }
    }
}
