//! Candidates from outside over real sockets: asked for, told, followed and pruned by a client of the interface.
#![allow(clippy::unwrap_used)]

use qslm_common::ENGINE_VERSION;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::trial::Trial;
use qslm_coordinator::{AccessPolicy, Coordinator, Options, Ports};
use qslm_proto::v1::experiments_client::ExperimentsClient;
use qslm_proto::v1::told_candidate::State;
use qslm_proto::v1::work_client::WorkClient;
use qslm_proto::v1::{
    Capabilities, GetRequest, Lease, PruneRequest, PutArtifactRequest, ReportRequest, ShardReport,
    SpaceResponse, SubmitRequest, TellRequest, ToldCandidate, ToldRequest, shard_report,
};
use qslm_proto::{PROTOCOL, convert};
use qslm_search::External;
use qslm_testing::{experiment, measure};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

const SHARDS: u32 = 4;

struct Peers {
    people: ExperimentsClient<Channel>,
    worker: WorkClient<Channel>,
    id: String,
}

impl Peers {
    /// A coordinator with an experiment that waits for tells, and those who call it.
    async fn start(folder: &std::path::Path) -> Self {
        let coordinator = Coordinator::open(&folder.join("s.redb"), Options::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(coordinator.serve(Ports::grpc(listener), AccessPolicy::default(), stop));
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let mut people = ExperimentsClient::new(channel.clone());
        for bytes in ["checkpoint", "text", "tokenizer"] {
            let data = bytes.as_bytes().to_vec();
            let hash = ContentHash::of(&data).as_bytes().to_vec();
            let messages = tokio_stream::iter([PutArtifactRequest { hash, data, lease: 0 }]);
            people.put_artifact(messages).await.unwrap();
        }
        let experiment = experiment(External {}).encode();
        let request = SubmitRequest { experiment, shards: SHARDS, ..SubmitRequest::default() };
        let id = people.submit(request).await.unwrap().into_inner().id;
        let mut peers = Self { people, worker: WorkClient::new(channel), id };
        // The float model.
        let float = peers.lease().await;
        peers.settle(&float).await;
        peers
    }

    async fn report(&mut self, report: ReportRequest) -> Vec<Lease> {
        let backends = vec!["native".to_owned()];
        let capabilities = Some(Capabilities { backends, ..Capabilities::default() });
        let request =
            ReportRequest { engine_version: ENGINE_VERSION, protocol: PROTOCOL, capabilities, ..report };
        self.worker.report(request).await.unwrap().into_inner().leases
    }

    /// All shards that wait for a worker.
    async fn lease(&mut self) -> Vec<Lease> {
        let worker = "takes".to_owned();
        self.report(ReportRequest { worker, free_slots: 100, ..ReportRequest::default() }).await
    }

    /// Hands in what these shards give.
    async fn settle(&mut self, leases: &[Lease]) {
        let worker = "gives".to_owned();
        let finished = leases.iter().map(shard_report).collect();
        self.report(ReportRequest { worker, finished, ..ReportRequest::default() }).await;
    }

    async fn tell(&mut self, number: u64, candidates: &[String], last: bool) -> Result<u64, tonic::Status> {
        let candidates = candidates.to_vec();
        let request = TellRequest { experiment: self.id.clone(), number, candidates, last };
        Ok(self.people.tell(request).await?.into_inner().told)
    }

    async fn told(&mut self, number: u64) -> Result<Streaming<qslm_proto::v1::ToldResponse>, tonic::Status> {
        Ok(self.people.told(ToldRequest { experiment: self.id.clone(), number }).await?.into_inner())
    }
}

fn trial(lease: &Lease) -> Trial {
    lease.trial.clone().unwrap().try_into().unwrap()
}

/// Report of the share of a candidate's counts that falls into a shard.
fn shard_report(lease: &Lease) -> ShardReport {
    let trial = trial(lease);
    let whole = measure(&trial.candidate);
    let share = |n: u64| {
        let cut = |i: u32| n * u64::from(i) / u64::from(lease.of);
        cut(lease.index + 1) - cut(lease.index)
    };
    let (scored_tokens, processed_tokens) = (share(whole.scored_tokens), share(whole.processed_tokens));
    let counts = Counts { nll: Nll(share(whole.nll.0)), scored_tokens, processed_tokens, ..whole };
    ShardReport {
        lease: lease.id,
        trial: trial.key().as_bytes().to_vec(),
        index: lease.index,
        of: lease.of,
        outcome: Some(shard_report::Outcome::Counts(convert::write_counts(&counts, None))),
        ..ShardReport::default()
    }
}

/// The candidate that takes one level of every group of a tier.
fn uniform(space: &SpaceResponse, tier: &str, level: usize) -> String {
    let tier = space.tiers.iter().find(|known| known.name == tier).unwrap();
    let words = tier.groups.iter().map(|group| group.levels[level].words.as_str());
    std::iter::once(space.base.as_str()).chain(words).collect::<Vec<_>>().join(" ")
}

/// The next message that says something of a candidate.
async fn next(stream: &mut Streaming<qslm_proto::v1::ToldResponse>) -> Vec<ToldCandidate> {
    stream.message().await.unwrap().map(|message| message.candidates).unwrap_or_default()
}

fn states(candidates: &[ToldCandidate]) -> Vec<(u32, State, usize)> {
    let state = |told: &ToldCandidate| (told.place, told.state(), told.prefixes.len());
    candidates.iter().map(state).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_asks_for_the_space_tells_and_follows_what_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut peers = Peers::start(folder.path()).await;
    let space = peers.people.space(GetRequest { experiment: peers.id.clone() }).await.unwrap().into_inner();
    let names: Vec<&str> = space.tiers.iter().map(|tier| tier.name.as_str()).collect();
    assert_eq!(names, ["global", "block", "module", "matrix"]);
    let (poor, good) = (uniform(&space, "block", 4), uniform(&space, "matrix", 0));
    assert_eq!(peers.tell(1, &[poor, good], false).await.unwrap(), 1);
    let mut stream = peers.told(1).await.unwrap();
    let first = next(&mut stream).await;
    assert_eq!(states(&first), [(0, State::Open, 0), (1, State::Open, 0)]);
    assert!(first[0].footprint_bytes < first[1].footprint_bytes && first[0].saving > first[1].saving);

    let leases = peers.lease().await;
    let (poor, good) = leases.split_at(SHARDS as usize);
    peers.settle(&poor[1..2]).await;
    peers.settle(&poor[..1]).await;
    let prefixes = next(&mut stream).await;
    assert_eq!(states(&prefixes), [(0, State::Open, 2)]);
    let prefix = &prefixes[0].prefixes[1];
    assert_eq!((prefix.shards, prefix.of, prefix.counts.as_ref().unwrap().tokens), (2, SHARDS, 50));
    assert!(prefix.quality_loss.unwrap() > 0.01, "{prefix:?}");
    let prune = |places: &[u32]| PruneRequest {
        experiment: "formula".to_owned(),
        number: 1,
        places: places.to_vec(),
    };
    assert_eq!(peers.people.prune(prune(&[0])).await.unwrap().into_inner().pruned, [0]);
    assert_eq!(states(&next(&mut stream).await), [(0, State::Pruned, 0)]);
    peers.settle(good).await;
    let mut measured = next(&mut stream).await;
    while measured[0].state() != State::Measured {
        measured = next(&mut stream).await;
    }
    let entry = measured[0].measured.clone().unwrap();
    assert_eq!((measured[0].place, entry.footprint_bytes), (1, measured[0].footprint_bytes));
    assert!(entry.quality_loss.unwrap() < 0.01 && entry.schemes.contains("emb.weight=sign"), "{entry:?}");
    assert!(stream.message().await.unwrap().is_none(), "all are settled");
    assert_eq!(peers.people.prune(prune(&[0, 1])).await.unwrap().into_inner().pruned, [0]);
    // Whoever asks later is told the same, and of what was pruned how far it came.
    let mut again = peers.told(1).await.unwrap();
    let all = next(&mut again).await;
    assert_eq!(states(&all), [(0, State::Pruned, 2), (1, State::Measured, 0)]);
    assert_eq!(peers.tell(2, &[], true).await.unwrap(), 2);
    let status = peers.people.get(GetRequest { experiment: peers.id.clone() }).await.unwrap().into_inner();
    assert_eq!((status.state().as_str_name(), status.told, status.stopped), ("FINISHED", 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_refused_by_name_and_nothing_is_kept_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut peers = Peers::start(folder.path()).await;
    let float = || String::new();
    let long = vec![float(); 1001];
    let cases: [(u64, Vec<String>, &str); 5] = [
        (1, vec![], "candidates: 0 candidates: expected 1 to 1000, or none in the last tell"),
        (1, long, "candidates: 1001 candidates: expected at most 1000; make several tells of them"),
        (1, vec![float(), "x".to_owned()], "candidates: number 2: \"x\": expected NAME=SCHEME"),
        (1, vec!["[".repeat(100_000)], "candidates: number 1: recursion limit exceeded at line 1 column 128"),
        (1, vec!["head.weight=int4".to_owned()], "candidates: number 1: head.weight: "),
    ];
    for (number, candidates, words) in cases {
        let refused = peers.tell(number, &candidates, false).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(words), "{refused}");
    }
    let refused = peers.tell(0, &[float()], false).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message().contains("number 0: expected 1")),
        (Code::FailedPrecondition, true)
    );
    peers.tell(1, &[float()], false).await.unwrap();
    let refused = peers.tell(1, &[float(), float()], false).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(peers.told(2).await.unwrap_err().code(), Code::NotFound);
    let prune = |places: Vec<u32>| PruneRequest { experiment: "formula".to_owned(), number: 1, places };
    let refused = peers.people.prune(prune(vec![7])).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "place 7: tell 1 has 1 candidates, from 0")
    );
    let refused = peers.people.prune(prune(vec![0; 1001])).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "places: 1001: 1000 at most"));
    // The float model is what all else is compared with.
    assert!(peers.people.prune(prune(vec![0])).await.unwrap().into_inner().pruned.is_empty());
    let status = peers.people.get(GetRequest { experiment: peers.id.clone() }).await.unwrap().into_inner();
    assert_eq!((status.told, status.stage.as_str()), (1, "waiting for tells"));
}
