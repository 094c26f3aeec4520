//! Tells on the wire: what comes in is checked beside the driver, and what becomes of it is followed as it changes.

use std::time::Duration;

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::footprint::saving;
use qslm_common::measurement::Counts;
use qslm_common::objective::quality_loss;
use qslm_common::trial::TrialKey;
use qslm_proto::convert::{self, Invalid};
use qslm_proto::v1::told_candidate::State;
use qslm_proto::v1::{Prefix, ToldCandidate, ToldResponse};
use qslm_search::Tell;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::driver::{self, Handle, ReplaySource, ToldState, ToldView};
use crate::replay::describe;

/// Candidates and prefixes of one message, so that it stays below the 4 MB that gRPC allows by itself.
const MOST: usize = 1000;
/// Time between two looks at what changed.
const PAUSE: Duration = Duration::from_millis(50);

/// Reads a tell, on a thread that may take its time.
pub(super) async fn read_tell(
    source: ReplaySource,
    candidates: Vec<String>,
    last: bool,
) -> Result<Tell, Status> {
    let read = move || Tell::read(&candidates, last, &source.record.experiment);
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.map_err(|error| Status::internal(format!("the candidates cannot be read: {error}")))?;
    Ok(read.map_err(|error| Invalid::new("candidates", error))?)
}

/// Somebody who follows a tell.
pub(super) struct Follow {
    driver: Handle,
    source: ReplaySource,
    number: u64,
    /// Status of the experiment, which changes whenever a shard is settled.
    status: watch::Receiver<Option<driver::ExperimentStatus>>,
    /// What was sent of each candidate: its state, and how many prefixes.
    sent: Vec<(State, usize)>,
    view: ToldView,
    sender: mpsc::Sender<Result<ToldResponse, Status>>,
}

impl Follow {
    /// # Errors
    /// There is no such tell.
    pub(super) async fn begin(
        driver: Handle,
        source: ReplaySource,
        number: u64,
        sender: mpsc::Sender<Result<ToldResponse, Status>>,
    ) -> Result<Self, Status> {
        let id = source.record.experiment.id();
        let mut status = driver.watch(id.clone()).await?;
        status.borrow_and_update();
        let view = driver.told(id, number).await?;
        let sent = vec![(State::Unspecified, 0); view.candidates.len()];
        Ok(Self { driver, source, number, status, sent, view, sender })
    }

    /// Sends what is new until nothing more is to be expected, or nobody listens.
    pub(super) async fn run(mut self) {
        if let Err(Some(status)) = self.follow().await {
            drop(self.sender.send(Err(status)).await);
        }
    }

    /// The error is none if nobody listens any more.
    async fn follow(&mut self) -> Result<(), Option<Status>> {
        loop {
            self.send().await?;
            let is_open = |(state, _): &(State, usize)| *state == State::Open;
            if self.view.has_ended || !self.sent.iter().any(is_open) {
                return Ok(());
            }
            tokio::select! {
                changed = self.status.changed() => if changed.is_err() {
                    return Err(Some(self.driver.ended().await.into()));
                },
                () = self.sender.closed() => return Err(None),
            }
            tokio::time::sleep(PAUSE).await;
            self.status.borrow_and_update();
            let id = self.source.record.experiment.id();
            self.view = self.driver.told(id, self.number).await.map_err(|refusal| Some(refusal.into()))?;
        }
    }

    async fn send(&mut self) -> Result<(), Option<Status>> {
        let (mut message, mut size) = (ToldResponse::default(), 0);
        for place in 0..self.sent.len() {
            let Some(candidate) = self.news(place)? else { continue };
            size += 1 + candidate.prefixes.len();
            message.candidates.push(candidate);
            if size >= MOST {
                self.sender.send(Ok(std::mem::take(&mut message))).await.map_err(|_| None)?;
                size = 0;
            }
        }
        if !message.candidates.is_empty() {
            self.sender.send(Ok(message)).await.map_err(|_| None)?;
        }
        Ok(())
    }

    /// What is new of a candidate, which counts as sent then.
    fn news(&mut self, place: usize) -> Result<Option<ToldCandidate>, Status> {
        let Self { view, source, sent, .. } = self;
        let Some(known) = view.candidates.get(place) else { return Ok(None) };
        let (state, prefix, of) = match &known.state {
            ToldState::Open { prefix, of } => (State::Open, prefix.clone(), *of),
            ToldState::Measured(_) => (State::Measured, Vec::new(), 0),
            ToldState::Failed(_) => (State::Failed, Vec::new(), 0),
            ToldState::Pruned if sent[place].0 == State::Pruned => return Ok(None),
            ToldState::Pruned => (State::Pruned, on_record(source, &known.trial)?, source.record.shards),
        };
        let (before, told) = sent[place];
        if state == before && prefix.len() <= told {
            return Ok(None);
        }
        sent[place] = (state, prefix.len().max(told));
        let experiment: &Experiment = &source.record.experiment;
        // It was a candidate when it was told.
        let candidate = view.tell.candidates.get(place).and_then(|text| Candidate::decode(text).ok());
        let Some(candidate) = candidate else { return Ok(None) };
        let footprint_bytes = experiment.footprint(&candidate);
        let (mut measured, mut reason) = (None, String::new());
        match &known.state {
            ToldState::Failed(words) => reason.clone_from(words),
            ToldState::Measured(entry) => {
                measured = Some(describe(experiment, &candidate, entry, view.float.as_ref()));
            }
            ToldState::Open { .. } | ToldState::Pruned => {}
        }
        Ok(Some(ToldCandidate {
            place: place as u32,
            candidate: known.candidate.as_bytes().to_vec(),
            state: state.into(),
            measured,
            reason,
            footprint_bytes,
            saving: saving(&experiment.network, footprint_bytes),
            prefixes: prefixes(&prefix, of, &view.float_shards, told),
        }))
    }
}

/// Counts of the first shards of a pruned trial that are on record, without a gap.
fn on_record(source: &ReplaySource, trial: &TrialKey) -> Result<Vec<Counts>, Status> {
    // A coordinator that stops says so when it is asked next.
    let Some(store) = source.store.upgrade() else { return Ok(Vec::new()) };
    let settled = store.shard_results(trial, source.record.shards);
    let settled = settled.map_err(|error| Status::internal(error.to_string()))?;
    let first = (0..).zip(settled).take_while(|(index, (shard, _))| shard.index == *index);
    Ok(first.map(|(_, (_, evidence))| evidence.counts).collect())
}

/// Every prefix of these shards beyond the first so many.
fn prefixes(shards: &[Counts], of: u32, float: &[Counts], beyond: usize) -> Vec<Prefix> {
    let float = if float.len() == of as usize { float } else { &[] };
    let sums = sums(shards).into_iter().enumerate().skip(beyond);
    let floats = self::sums(&float[..shards.len().min(float.len())]);
    let prefix = |(index, counts): (usize, Counts)| Prefix {
        shards: index as u32 + 1,
        of,
        quality_loss: floats.get(index).map(|float| quality_loss(float, &counts)),
        counts: Some(convert::write_counts(&counts, None)),
    };
    sums.map(prefix).collect()
}

/// Sums of the first one, the first two, and so on, as far as they can be added.
fn sums(shards: &[Counts]) -> Vec<Counts> {
    let mut sums: Vec<Counts> = Vec::new();
    for shard in shards {
        let mut sum = sums.last().cloned().unwrap_or_else(|| Counts::zero(shard.spikes.len()));
        if sum.add(shard).is_err() {
            break;
        }
        sums.push(sum);
    }
    sums
}

#[cfg(test)]
mod tests {
    use qslm_common::measurement::Nll;

    use super::*;

    #[test]
    fn a_prefix_says_what_is_lost_over_the_same_shards() {
        let shard = |nats: f64| Counts {
            nll: Nll::from_nats(nats).unwrap(),
            scored_tokens: 10,
            processed_tokens: 10,
            ..Counts::zero(2)
        };
        let float = [shard(10.0), shard(30.0), shard(20.0)];
        let candidate = [shard(11.0), shard(30.0)];
        let shown = prefixes(&candidate, 3, &float, 0);
        let losses: Vec<f64> = shown.iter().map(|prefix| prefix.quality_loss.unwrap()).collect();
        assert!((losses[0] - (0.1f64.exp() - 1.0)).abs() < 1e-6, "{losses:?}");
        assert!((losses[1] - (0.05f64.exp() - 1.0)).abs() < 1e-6, "{losses:?}");
        assert_eq!((shown[1].shards, shown[1].of, shown[1].counts.as_ref().unwrap().tokens), (2, 3, 20));
        // What was said before is not said again, and shards of another cut are not compared.
        assert_eq!(prefixes(&candidate, 3, &float, 1), shown[1..]);
        assert!(prefixes(&candidate, 4, &float, 0).iter().all(|prefix| prefix.quality_loss.is_none()));
    }
}
