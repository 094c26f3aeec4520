//! Peers that mean no good, over real sockets: whatever they send, the coordinator refuses it, keeps what it has, and
//! goes on serving others.
#![allow(clippy::unwrap_used)]

use qslm_common::ENGINE_VERSION;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::trial::TrialKey;
use qslm_coordinator::{AccessPolicy, Coordinator, Options, Ports, Quotas};
use qslm_proto::PROTOCOL;
use qslm_proto::v1::experiments_client::ExperimentsClient;
use qslm_proto::v1::work_client::WorkClient;
use qslm_proto::v1::{
    Capabilities, Counts, FetchArtifactRequest, FetchCheckpointRequest, GetRequest, JobStatus, Lease,
    ListRequest, MakeRequest, MissingArtifactsRequest, PutArtifactRequest, ReportRequest, ShardReport,
    SubmitRequest, job_status, shard_report,
};
use qslm_transport::gate::pushback;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

struct Served {
    address: String,
    folder: tempfile::TempDir,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Served {
    async fn start(door: AccessPolicy) -> Self {
        Self::on(tempfile::tempdir().unwrap(), door).await
    }

    /// Another coordinator on the same store.
    async fn again(self) -> Self {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
        Self::on(self.folder, AccessPolicy::default()).await
    }

    async fn on(folder: tempfile::TempDir, door: AccessPolicy) -> Self {
        let coordinator = Coordinator::open(&folder.path().join("s.redb"), Options::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(coordinator.serve(Ports::grpc(listener), door, stop.clone()));
        Self { address, folder, stop, serving }
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    async fn work(&self) -> WorkClient<Channel> {
        WorkClient::new(self.channel().await)
    }

    async fn experiments(&self) -> ExperimentsClient<Channel> {
        ExperimentsClient::new(self.channel().await)
    }

    /// Checks that it still does its work, and ends without an error.
    async fn ends_well(self) {
        let answer = self.work().await.report(report("honest")).await.unwrap().into_inner();
        assert!(answer.leases.is_empty() && answer.ttl_ms > 0);
        assert!(
            self.experiments().await.list(ListRequest {}).await.unwrap().into_inner().experiments.is_empty()
        );
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
    }

    fn artifacts(&self) -> Vec<String> {
        let folder = self.folder.path().join("s.redb.artifacts");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }
}

fn report(worker: &str) -> ReportRequest {
    let backends = vec!["native".to_owned()];
    ReportRequest {
        worker: worker.to_owned(),
        engine_version: ENGINE_VERSION,
        protocol: PROTOCOL,
        free_slots: 1,
        capabilities: Some(Capabilities { backends, ..Capabilities::default() }),
        ..ReportRequest::default()
    }
}

fn result(lease: u64, trial: Vec<u8>) -> ShardReport {
    let counts = Counts { nll: 1, tokens: 1, positions: 1, ..Counts::default() };
    let outcome = Some(shard_report::Outcome::Counts(counts));
    ShardReport { lease, trial, index: 0, of: 1, outcome, ..ShardReport::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_make_no_sense_are_refused_by_name() {
    let served = Served::start(AccessPolicy::default()).await;
    let mut work = served.work().await;
    let mut refused = async |change: fn(&mut ReportRequest)| {
        let mut request = report("bad");
        change(&mut request);
        let status = work.report(request).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let invalid = |words: &str| (Code::InvalidArgument, words.to_owned());
    let too_many = "free_slots: 4000000000: expected 0 to 1024";
    assert_eq!(refused(|report| report.free_slots = 4_000_000_000).await, invalid(too_many));
    let name = "worker: a name has 1 to 128 characters";
    assert_eq!(refused(|report| report.worker.clear()).await, invalid(name));
    assert_eq!(refused(|report| report.worker = "x".repeat(1_000_000)).await, invalid(name));
    let hash = "finished.trial: a content hash has 32 bytes";
    assert_eq!(refused(|report| report.finished.push(result(1, vec![0; 31]))).await, invalid(hash));
    let (code, words) =
        refused(|report| report.finished.push(ShardReport { index: 7, of: 3, ..result(1, vec![0; 32]) }))
            .await;
    assert_eq!((code, words.as_str()), (Code::InvalidArgument, "shard: 7 of 3"));
    let (code, words) = refused(|report| {
        let labels = (0..5000).map(|n| (n.to_string(), "x".to_owned())).collect();
        report.capabilities = Some(Capabilities { labels, ..Capabilities::default() });
    })
    .await;
    assert!(
        code == Code::InvalidArgument && words.starts_with("capabilities: labels: expected at most"),
        "{words}"
    );
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_protocol_or_engine_is_told_so() {
    let served = Served::start(AccessPolicy::default()).await;
    let mut work = served.work().await;
    let old = work.report(ReportRequest { protocol: 0, ..report("old") }).await.unwrap_err();
    let words = format!("the worker speaks protocol 1, the coordinator {PROTOCOL}: upgrade the older one");
    assert_eq!((old.code(), old.message()), (Code::FailedPrecondition, words.as_str()));
    let new = work.report(ReportRequest { protocol: PROTOCOL + 1, ..report("new") }).await.unwrap_err();
    assert_eq!(new.code(), Code::FailedPrecondition);
    let other = ReportRequest { engine_version: ENGINE_VERSION + 1, ..report("other") };
    assert_eq!(work.report(other).await.unwrap_err().code(), Code::FailedPrecondition);
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_nobody_leased_are_not_kept() {
    let served = Served::start(AccessPolicy::default()).await;
    let mut work = served.work().await;
    // A lease that never was, of a trial that nobody opened; and the same again and again.
    for _ in 0..3 {
        let finished = vec![result(u64::MAX, vec![7; 32]), result(3, vec![8; 32])];
        work.report(ReportRequest { finished, ..report("liar") }).await.unwrap();
    }
    drop(work);
    let path = served.folder.path().join("s.redb");
    served.stop.cancel();
    served.serving.await.unwrap().unwrap();
    let contents = qslm_coordinator::store::Store::open(&path).unwrap().contents().unwrap();
    assert!(
        contents.measurements.is_empty()
            && !contents.shards.keys().any(|(trial, ..)| { *trial == TrialKey::from_bytes([7; 32]) })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_not_what_it_was_announced_as_leaves_nothing() {
    let served = Served::start(AccessPolicy::default()).await;
    let mut experiments = served.experiments().await;
    let mut put = async |hash: Vec<u8>, chunks: Vec<Vec<u8>>| {
        let mut hash = Some(hash);
        let messages: Vec<_> = chunks
            .into_iter()
            .map(|data| PutArtifactRequest { hash: hash.take().unwrap_or_default(), data, lease: 0 })
            .collect();
        experiments.put_artifact(tokio_stream::iter(messages)).await.map_err(|status: Status| status.code())
    };
    let announced = ContentHash::of(b"honest").as_bytes().to_vec();
    assert_eq!(put(announced.clone(), vec![b"other".to_vec()]).await.unwrap_err(), Code::InvalidArgument);
    assert_eq!(put(b"../../../etc/passwd".to_vec(), vec![vec![1]]).await.unwrap_err(), Code::InvalidArgument);
    assert_eq!(put(Vec::new(), vec![vec![1]]).await.unwrap_err(), Code::InvalidArgument);
    assert!(served.artifacts().is_empty(), "{:?}", served.artifacts());
    put(announced, vec![b"hon".to_vec(), b"est".to_vec()]).await.unwrap();
    assert_eq!(served.artifacts(), [ContentHash::of(b"honest").to_string()]);
    for name in [&b"../s.redb"[..], &[0; 33]] {
        let request = FetchArtifactRequest { hash: name.to_vec() };
        assert_eq!(
            served.work().await.fetch_artifact(request).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_artifact_is_missing_to_submitters_and_named_to_workers_until_it_is_replaced() {
    let served = Served::start(AccessPolicy::default()).await;
    let (mut experiments, mut work) = (served.experiments().await, served.work().await);
    let name = ContentHash::of(b"content");
    let hash = name.as_bytes().to_vec();
    let folder = served.folder.path().join("s.redb.artifacts");
    let path = folder.join(name.to_string());
    let missing = async || {
        let request = MissingArtifactsRequest { hashes: vec![hash.clone()] };
        served.experiments().await.missing_artifacts(request).await.unwrap().into_inner().hashes.len()
    };
    let mut put = async || {
        let message = PutArtifactRequest { hash: hash.clone(), data: b"content".to_vec(), lease: 0 };
        experiments.put_artifact(tokio_stream::iter([message])).await
    };
    let mut fetch = async || {
        let request = FetchArtifactRequest { hash: hash.clone() };
        let mut chunks = work.fetch_artifact(request).await?.into_inner();
        let mut content = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            content.extend(chunk.data);
        }
        Ok::<_, Status>(content)
    };
    let refused = |fetched: Result<Vec<u8>, Status>, code, words: &str| {
        let status = fetched.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(&format!("{}: {words}", path.display())), "{status}");
    };
    refused(fetch().await, Code::NotFound, "no such file");
    assert_eq!(missing().await, 1);
    put().await.unwrap();
    assert_eq!((missing().await, fetch().await.unwrap()), (0, b"content".to_vec()));
    for damage in [&b"conten"[..], b"content and more", b""] {
        std::fs::write(&path, damage).unwrap();
        refused(fetch().await, Code::DataLoss, "damaged: its content hashes to");
        assert_eq!(missing().await, 1);
        put().await.unwrap();
        assert_eq!((missing().await, fetch().await.unwrap()), (0, b"content".to_vec()));
    }
    // A temp cleaner took them all; and then there is something else in their place.
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(missing().await, 1);
    put().await.unwrap();
    assert_eq!(fetch().await.unwrap(), b"content");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    refused(put().await.map(|_| Vec::new()), Code::Internal, "cannot store the artifact: Not a directory");
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_make_no_sense_are_refused_by_name() {
    let served = Served::start(AccessPolicy::default()).await;
    let mut experiments = served.experiments().await;
    let mut refused = async |jobs: Vec<String>| {
        let status = experiments.make(MakeRequest { jobs, retry: false }).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let invalid = |words: &str| (Code::InvalidArgument, words.to_owned());
    assert_eq!(refused(vec![]).await, invalid("jobs: 0: expected 1 to 4096"));
    assert_eq!(refused(vec![String::new(); 4097]).await, invalid("jobs: 4097: expected 1 to 4096"));
    let (code, words) = refused(vec!["{}".to_owned()]).await;
    assert!(code == Code::InvalidArgument && words.contains("missing field `version`"), "{words}");
    let large = Job::new("ranges", u64::MAX).encode();
    let (code, words) = refused(vec![large]).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(words.contains("largest = 18446744073709551615: expected 1 to 68719476736 bytes"), "{words}");
    let mut other = Job::new("ranges", 1);
    other.engine_version += 1;
    assert_eq!(refused(vec![other.encode()]).await.0, Code::FailedPrecondition);
    let hash = ContentHash::of(b"nobody has it");
    let reads = Job::new("ranges", 1).input("text", JobInput::Artifact(hash));
    let words = format!("artifact {hash} has to be uploaded first");
    assert_eq!(refused(vec![reads.encode()]).await, (Code::FailedPrecondition, words));
    served.ends_well().await;
}

/// The status of a job, and the lease under which a worker that is able to do it gets it.
async fn leased(served: &Served, job: &Job) -> (JobStatus, Option<Lease>) {
    let capabilities = Capabilities { jobs: vec![job.kind.clone()], ..report("able").capabilities.unwrap() };
    let asked = ReportRequest { capabilities: Some(capabilities), ..report("able") };
    let request = MakeRequest { jobs: vec![job.encode()], retry: true };
    let mut experiments = served.experiments().await;
    let status = experiments.make(request).await.unwrap().into_inner().jobs.remove(0);
    let lease = served.work().await.report(asked).await.unwrap().into_inner().leases.pop();
    (status, lease)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_taken_under_a_lease_alone_up_to_its_bound_and_counts_once_it_is_there() {
    let served = Served::start(AccessPolicy::default()).await;
    let job = Job::new("ranges", 10);
    let (_, lease) = leased(&served, &job).await;
    let lease = lease.unwrap();
    assert_eq!(lease.job.unwrap().text, job.encode());
    let mut work = served.work().await;
    let mut put = async |lease: u64, pieces: &[&[u8]]| {
        let hash = ContentHash::of(&pieces.concat()).as_bytes().to_vec();
        let first = |index: usize| if index == 0 { hash.clone() } else { Vec::new() };
        let pieces = pieces.iter().enumerate();
        let messages =
            pieces.map(|(i, data)| PutArtifactRequest { hash: first(i), data: data.to_vec(), lease });
        work.put_artifact(tokio_stream::iter(messages.collect::<Vec<_>>())).await
    };
    let refused = put(lease.id + 1, &[b"made"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().ends_with("is not in force, or not for a job"), "{refused}");
    let refused = put(lease.id, &[b"1234567890", b"1"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().ends_with("more than 10 bytes"), "{refused}");
    assert!(served.artifacts().is_empty(), "nothing of it is kept");
    // It says that it is made, and never put it: a fault of the worker, and the job is done again.
    let hash = ContentHash::of(b"made");
    let key = job.key();
    let said = |lease: u64| ShardReport {
        lease,
        of: 1,
        job: key.as_bytes().to_vec(),
        outcome: Some(shard_report::Outcome::Artifact(hash.as_bytes().to_vec())),
        ..ShardReport::default()
    };
    let told = |lease| ReportRequest { finished: vec![said(lease)], free_slots: 0, ..report("able") };
    served.work().await.report(told(lease.id)).await.unwrap();
    let (status, _) = leased(&served, &job).await;
    assert_eq!(status.state(), job_status::State::Pending);
    // The worker pauses; another one gets it, and puts it.
    let capabilities = Capabilities { jobs: vec![job.kind.clone()], ..report("b").capabilities.unwrap() };
    let other = ReportRequest { capabilities: Some(capabilities), ..report("other") };
    let lease = served.work().await.report(other).await.unwrap().into_inner().leases.remove(0);
    put(lease.id, &[b"ma", b"de"]).await.unwrap();
    let settles = ReportRequest { worker: "other".to_owned(), ..told(lease.id) };
    served.work().await.report(settles).await.unwrap();
    let (status, lease) = leased(&served, &job).await;
    assert_eq!((status.state(), status.artifact), (job_status::State::Made, hash.as_bytes().to_vec()));
    assert_eq!(lease, None, "it is made once");
    // Somebody tidied up: it is made again.
    std::fs::remove_dir_all(served.folder.path().join("s.redb.artifacts")).unwrap();
    let (status, _) = leased(&served, &job).await;
    assert_eq!(status.state(), job_status::State::Pending);
    served.stop.cancel();
    served.serving.await.unwrap().unwrap();
}

/// Puts an artifact under a lease.
async fn put_made(served: &Served, lease: u64, bytes: &[u8]) {
    let hash = ContentHash::of(bytes).as_bytes().to_vec();
    let message = PutArtifactRequest { hash, data: bytes.to_vec(), lease };
    served.work().await.put_artifact(tokio_stream::iter([message])).await.unwrap();
}

/// Reports what a job made under a lease, and asks for nothing more.
async fn report_made(served: &Served, job: &Job, lease: u64, bytes: &[u8]) {
    let finished = ShardReport {
        lease,
        of: 1,
        job: job.key().as_bytes().to_vec(),
        outcome: Some(shard_report::Outcome::Artifact(ContentHash::of(bytes).as_bytes().to_vec())),
        ..ShardReport::default()
    };
    let request = ReportRequest { finished: vec![finished], free_slots: 0, ..report("able") };
    served.work().await.report(request).await.unwrap();
}

/// Expects that a job made one artifact, that its file is whole, and that nobody has to make it any more.
async fn is_made(served: &Served, job: &Job, bytes: &[u8]) {
    let (status, lease) = leased(served, job).await;
    let hash = ContentHash::of(bytes);
    assert_eq!((status.state(), status.artifact), (job_status::State::Made, hash.as_bytes().to_vec()));
    assert_eq!(lease, None, "it is made");
    assert_eq!(served.artifacts(), [hash.to_string()]);
    let path = served.folder.path().join("s.redb.artifacts").join(hash.to_string());
    assert_eq!(std::fs::read(path).unwrap(), bytes);
}

/// Ends it, and expects that a job is on record with one artifact.
async fn ends_with_one_artifact(served: Served, job: &Job, bytes: &[u8]) {
    served.stop.cancel();
    served.serving.await.unwrap().unwrap();
    let store = qslm_coordinator::store::Store::open(&served.folder.path().join("s.redb")).unwrap();
    let contents = store.contents().unwrap();
    assert_eq!(contents.jobs.get(&job.key()), Some(&job.encode()));
    let made: Vec<_> = contents.made[&job.key()].keys().copied().collect();
    assert_eq!(made, [ContentHash::of(bytes)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_made_is_made_again_once_its_file_is_damaged_or_gone() {
    let mut served = Served::start(AccessPolicy::default()).await;
    let job = Job::new("ranges", 10);
    let (_, lease) = leased(&served, &job).await;
    let lease = lease.unwrap().id;
    put_made(&served, lease, b"made").await;
    report_made(&served, &job, lease, b"made").await;
    is_made(&served, &job, b"made").await;
    let path = served.folder.path().join("s.redb.artifacts").join(ContentHash::of(b"made").to_string());
    // Found by the coordinator that took it, and by one that was started since.
    let damages: [(bool, Option<&[u8]>); 5] = [
        (false, Some(b"mad")),
        (false, None),
        (true, Some(b"made and more")),
        (true, Some(b"")),
        (true, None),
    ];
    for (anew, damage) in damages {
        match damage {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        if anew {
            served = served.again().await;
        }
        let (status, lease) = leased(&served, &job).await;
        assert_eq!(status.state(), job_status::State::Pending, "{damage:?}");
        let lease = lease.unwrap().id;
        // To ask meanwhile opens it no second time.
        let (status, other) = leased(&served, &job).await;
        assert_ne!(status.state(), job_status::State::Made, "{damage:?}");
        let lease = other.map_or(lease, |other| other.id);
        put_made(&served, lease, b"made").await;
        report_made(&served, &job, lease, b"made").await;
        is_made(&served, &job, b"made").await;
    }
    ends_with_one_artifact(served, &job, b"made").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_was_put_and_not_settled_is_settled_late_or_put_again_after_a_restart() {
    let job = Job::new("ranges", 10);
    for late in [true, false] {
        let served = Served::start(AccessPolicy::default()).await;
        let (_, lease) = leased(&served, &job).await;
        let old = lease.unwrap().id;
        put_made(&served, old, b"made").await;
        let served = served.again().await;
        if late {
            // Whoever put it lives, and reports it under a lease that has ended: nobody makes it again.
            report_made(&served, &job, old, b"made").await;
        } else {
            let (status, lease) = leased(&served, &job).await;
            assert_eq!(status.state(), job_status::State::Pending);
            let lease = lease.unwrap().id;
            put_made(&served, lease, b"made").await;
            report_made(&served, &job, lease, b"made").await;
        }
        is_made(&served, &job, b"made").await;
        ends_with_one_artifact(served, &job, b"made").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_from_the_checkpoint_that_an_earlier_lease_left_until_it_is_done() {
    let served = Served::start(AccessPolicy::default()).await;
    let job = Job::new("ranges", 10);
    let (_, lease) = leased(&served, &job).await;
    let lease = lease.unwrap();
    assert!(!lease.job.unwrap().checkpoint);
    let put = async |served: &Served, lease: u64, announced: &[u8], bytes: &[u8]| {
        let hash = ContentHash::of(announced).as_bytes().to_vec();
        let message = PutArtifactRequest { hash, data: bytes.to_vec(), lease };
        served.work().await.put_checkpoint(tokio_stream::iter([message])).await
    };
    let fetch = async |served: &Served, lease: u64| {
        let request = FetchCheckpointRequest { lease };
        let mut stream = served.work().await.fetch_checkpoint(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.message().await? {
            bytes.extend(piece.data);
        }
        Ok::<_, tonic::Status>(bytes)
    };
    assert_eq!(fetch(&served, lease.id).await.unwrap_err().code(), Code::NotFound);
    for nobodys in [lease.id + 1, 0] {
        let refused = put(&served, nobodys, b"half", b"half").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert_eq!(fetch(&served, nobodys).await.unwrap_err().code(), Code::FailedPrecondition);
    }
    let refused = put(&served, lease.id, &[7; 41], &[7; 41]).await.unwrap_err();
    assert_eq!((refused.code(), refused.message().ends_with("more than 40 bytes")), (Code::OutOfRange, true));
    assert_eq!(put(&served, lease.id, b"half", b"hal").await.unwrap_err().code(), Code::DataLoss);
    put(&served, lease.id, b"a third", b"a third").await.unwrap();
    put(&served, lease.id, b"half", b"half").await.unwrap();
    // Coordinator and worker are gone; the next lease has it, unless the disk has damaged it.
    let served = served.again().await;
    let folder = served.folder.path().join("s.redb.checkpoints");
    let file = folder.join(job.key().to_string());
    let whole = std::fs::read(&file).unwrap();
    let (_, lease) = leased(&served, &job).await;
    let lease = lease.unwrap();
    assert!(lease.job.unwrap().checkpoint);
    assert_eq!(fetch(&served, lease.id).await.unwrap(), b"half");
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(fetch(&served, lease.id).await.unwrap_err().message(), "checkpoint: damaged");
    put_made(&served, lease.id, b"made").await;
    report_made(&served, &job, lease.id, b"made").await;
    assert!(!file.exists(), "it is done");
    // One that came in late goes with the next start.
    std::fs::write(&file, &whole).unwrap();
    let served = served.again().await;
    assert!(!file.exists());
    is_made(&served, &job, b"made").await;
    ends_with_one_artifact(served, &job, b"made").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_no_more_under_way_than_its_quotas() {
    let quotas = Quotas { uploads_per_client: 1, experiments_per_client: 1, artifacts_max_bytes: 1000 };
    let served = Served::start(AccessPolicy { quotas, ..AccessPolicy::default() }).await;
    // An upload that never ends.
    let (sender, messages) = tokio::sync::mpsc::channel(1);
    let hash = ContentHash::of(b"x").as_bytes().to_vec();
    sender.send(PutArtifactRequest { hash: hash.clone(), data: vec![0; 10], lease: 0 }).await.unwrap();
    let stalled = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut client = served.experiments().await;
    let stalled = tokio::spawn(async move { client.put_artifact(stalled).await });
    while served.artifacts().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut experiments = served.experiments().await;
    let mut put = async |data: Vec<u8>| {
        let hash = ContentHash::of(&data).as_bytes().to_vec();
        experiments.put_artifact(tokio_stream::iter([PutArtifactRequest { hash, data, lease: 0 }])).await
    };
    let refusal = put(vec![1]).await.unwrap_err();
    assert_eq!(refusal.message(), "127.0.0.1 has 1 uploads under way (uploads_per_client)");
    assert!(pushback(&refusal).is_some(), "{refusal}");
    stalled.abort();
    drop(sender);
    // Its place is free once the coordinator has noticed.
    while let Err(status) = put(vec![1; 600]).await {
        assert_eq!(status.code(), Code::ResourceExhausted);
        tokio::task::yield_now().await;
    }
    let refusal = put(vec![2; 600]).await.unwrap_err();
    assert_eq!(refusal.message(), "all artifacts together may take 1000 bytes (artifacts_max_bytes)");
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_with_tricks_and_experiments_that_are_none_are_refused() {
    let served = Served::start(AccessPolicy::default()).await;
    let mut experiments = served.experiments().await;
    for name in ["../../etc/passwd", "a/b", "\0", "%2e%2e", &"x".repeat(100_000)] {
        let status = experiments.get(GetRequest { experiment: name.to_owned() }).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().len() < 1000);
    }
    for text in [
        "",
        "{}",
        "[[[[[[[[",
        &"[".repeat(100_000),
        "{\"name\":\"../x\"}",
        &format!("{{\"{}\":1}}", "x".repeat(100_000)),
    ] {
        let request = SubmitRequest { experiment: text.to_owned(), shards: 1, ..SubmitRequest::default() };
        assert_eq!(experiments.submit(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_beyond_the_limit_and_compressed_ones_are_refused() {
    let served = Served::start(AccessPolicy::default()).await;
    let huge = ReportRequest { holding: (0..8 << 20).collect(), ..report("huge") };
    let status = served.work().await.max_encoding_message_size(1 << 30).report(huge).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
    // A few kilobytes that would become gigabytes: no encoding is accepted at all.
    let mut request = tonic::Request::new(report("bomb"));
    request.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    let status = served.work().await.report(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_socket_ends_the_connection_only() {
    let served = Served::start(AccessPolicy::default()).await;
    let noise: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().copied().chain([0xff; 4096]).collect(),
        (0..=255).cycle().take(100_000).collect(),
        b"PRI * HTTP/2.0\r\n\r\nSM".to_vec(),
    ];
    for bytes in noise {
        let mut socket = TcpStream::connect(&served.address).await.unwrap();
        // It may hang up before it has heard everything.
        drop(socket.write_all(&bytes).await);
        drop(socket.shutdown().await);
        let mut answer = Vec::new();
        drop(socket.read_to_end(&mut answer).await);
    }
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_too_often_is_told_when_to_come_back() {
    let served = Served::start(AccessPolicy { calls_per_second: 20, ..AccessPolicy::default() }).await;
    let mut work = served.work().await;
    let mut refusals = 0;
    for _ in 0..60 {
        if let Err(status) = work.report(ReportRequest { free_slots: 0, ..report("eager") }).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            let wait = pushback(&status).unwrap();
            assert!(wait.as_millis() <= 51, "{wait:?}");
            refusals += 1;
        }
    }
    assert!(refusals > 20, "{refusals}");
    // Only that connection.
    served.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_nobody_knows_is_ignored() {
    use prost::Message;
    // What a later version of the same protocol would send: one field more.
    let mut bytes = report("later").encode_to_vec();
    prost::encoding::encode_key(1000, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(3, &mut bytes);
    bytes.extend(b"new");
    let request = ReportRequest::decode(&bytes[..]).unwrap();
    assert_eq!(request, report("later"));
}
