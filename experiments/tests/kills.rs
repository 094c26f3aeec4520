//! Real processes under fire: coordinator and workers are killed, stopped, ended and restarted, die at named points, and
//! talk through a proxy that delays, goes silent and cuts connections, all drawn from a seed. They work at an experiment, and
//! meanwhile at jobs that a second one needs. Afterwards nothing that was acknowledged is lost, nothing is recorded twice,
//! nothing that was on record was given out again, artifacts and fronts are those of an undisturbed process.
#![allow(clippy::unwrap_used)]
#![expect(clippy::disallowed_macros, reason = "what a test prints is shown by its harness")]

#[path = "kills/cluster.rs"]
mod cluster;
#[path = "kills/process.rs"]
mod process;
#[path = "kills/submitting.rs"]
mod submitting;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::{Cluster, PATIENCE};
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobKey};
use qslm_common::trial::TrialKey;
use qslm_coordinator::store::{Artifacts, Contents, Store};
use qslm_engine::jobs::Inputs;
use qslm_train::jobs;
use submitting::Submitting;
use support::{json, succeed};

/// What jobs make in this process, where nobody disturbs them; each is done once.
#[derive(Default)]
struct MadeHere(BTreeMap<JobKey, ContentHash>);

impl MadeHere {
    /// Every job of a store is made, once, and what was made is what is made here.
    fn check(&mut self, seed: u64, contents: &Contents, artifacts: &Artifacts) {
        let named = contents.jobs.keys().eq(contents.made.keys());
        assert!(named, "seed {seed}: a job without an artifact, or an artifact without a job");
        for (key, text) in &contents.jobs {
            let here = *self.0.entry(*key).or_insert_with(|| {
                let job = Job::decode(text).unwrap();
                let file = |hash: ContentHash| artifacts.folder().join(hash.to_string());
                let files = job.inputs.iter().map(|(name, of)| (name.clone(), file(of.artifact().unwrap())));
                let mut artifact = Vec::new();
                jobs::make(&job, &Inputs::new(files.collect()), &(), &mut artifact).unwrap();
                ContentHash::of(&artifact)
            });
            let made: Vec<ContentHash> = contents.made[key].keys().copied().collect();
            assert_eq!(made, [here], "seed {seed}: job {key}: {text}");
        }
    }
}

/// An experiment, another one that needs jobs, and what a process alone comes to.
struct Case {
    search: Vec<&'static str>,
    needing: Vec<&'static str>,
    /// Jobs that the other one needs.
    jobs: usize,
    fronts: [String; 2],
    /// What both measure.
    trials: BTreeSet<TrialKey>,
}

impl Case {
    fn new(folder: &Path, search: &[&'static str], needing: &[&'static str], jobs: usize) -> Self {
        let store = folder.join("reference.redb");
        let _ = std::fs::remove_file(&store);
        let to = ["--store", store.to_str().unwrap(), "--output", "json"];
        let fronts = [search, needing].map(|spec| succeed(&[&["run"], spec, &to].concat()));
        let trials = Store::open(&store).unwrap().contents().unwrap().measurements.into_keys().collect();
        Self { search: search.to_vec(), needing: needing.to_vec(), jobs, fronts, trials }
    }
}

/// One case under fire, which ceases after so many kills. Returns what was done to it, and how many processes were killed.
fn round(seed: u64, case: &Case, here: &mut MadeHere, most: u32) -> (BTreeMap<&'static str, u32>, u32) {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(seed, folder.path());
    let url = cluster.url();
    let id = succeed(&[&["submit"], &case.search[..], &["--coordinator", &url]].concat()).trim().to_owned();
    let mut submitting = Submitting::start(&case.needing, &url);
    let mut needing: Option<String> = None;
    cluster.making = true;
    while !(cluster.is_finished(&id) && needing.as_ref().is_some_and(|id| cluster.is_finished(id))) {
        assert!(
            cluster.begun.elapsed() < PATIENCE,
            "seed {seed} does not come to its end: {:?}",
            cluster.done
        );
        cluster.let_work();
        if cluster.kills < most {
            cluster.strike();
        }
        cluster.replace_dead();
        if needing.is_none() {
            needing = submitting.id();
            cluster.making = needing.is_none();
        }
    }
    cluster.stop();
    let contents = cluster.check_store();

    assert!(contents.measurements.keys().eq(&case.trials), "seed {seed}: trials on record");
    assert!(contents.failures.is_empty() && contents.shards.is_empty(), "seed {seed}: {contents:?}");
    assert_eq!(contents.made.len(), case.jobs, "seed {seed}: artifacts on record");
    let store = cluster.store();
    here.check(seed, &contents, &Artifacts::of(&store));
    let twice = cluster.recorded.iter().find(|(_, times)| **times > 1);
    assert_eq!(twice, None, "seed {seed}: recorded twice");
    for (id, reference) in [Some(id), needing].iter().flatten().zip(&case.fronts) {
        let front = succeed(&["front", id, "--store", store.to_str().unwrap(), "--output", "json"]);
        assert_eq!(front, *reference, "seed {seed}: another front");
    }
    (cluster.done, cluster.kills)
}

/// The tiered search.
const TIERED: [&str; 3] = ["experiments/specs/plain.toml", "--set", "run.shards=3"];
/// An exhaustive grid of 3 widths over 4 blocks and the head: 244 trials with the float model.
const GRID: [&str; 7] = [
    "experiments/specs/plain.toml",
    "--set",
    "space.bits=[8, 4, 3]",
    "--set",
    "strategy.kind=\"grid\"",
    "--set",
    "strategy.tier=\"block\"",
];
/// A search that needs scores of 25 matrices, eight at a time: 4 jobs. They are short, or none would come to its end
/// between two deaths of a coordinator.
const RANKED: [&str; 7] = [
    "experiments/specs/plain.toml",
    "--set",
    "space.bits=[8, 3]",
    "--set",
    "strategy={ kind = \"ranked\", metric = \"lsaq\", tier = \"block\", sequences = 2 }",
    "--set",
    "constraints.max_perplexity_increase=5.0",
];
/// One that needs static ranges of activations: 1 job.
const RANGES: [&str; 13] = [
    "experiments/specs/plain.toml",
    "--set",
    "space.bits=[8]",
    "--set",
    "space.activations={ bits = [8], range = \"static\", symmetry = \"affine\" }",
    "--set",
    "calibration.text=experiments/data/encyclopaedia.txt",
    "--set",
    "calibration.sequences=16",
    "--set",
    "strategy={ kind = \"grid\", tier = \"global\" }",
    "--set",
    "constraints.max_perplexity_increase=5.0",
];
/// As that, with calibrated codes of four blocks and the head, and what these take when they are coded: 11 jobs, one kind
/// after the other.
const CALIBRATED: [&str; 17] = [
    "experiments/specs/plain.toml",
    "--set",
    "space.bits=[8]",
    "--set",
    "space.activations={ bits = [8], range = \"static\", symmetry = \"affine\" }",
    "--set",
    "calibration.text=experiments/data/encyclopaedia.txt",
    "--set",
    "calibration.sequences=16",
    "--set",
    "space.rounding=gptq",
    "--set",
    "space.storage=[\"packed\", \"rans\"]",
    "--set",
    "strategy={ kind = \"grid\", tier = \"global\" }",
    "--set",
    "constraints.max_perplexity_increase=5.0",
];

/// A search that ends with two jobs that train, which are killed on their way and go on from their checkpoints.
const RECOVERED: [&str; 13] = [
    "experiments/specs/plain.toml",
    "--set",
    "space.bits=[4, 3, 2]",
    "--set",
    "recovery.text=experiments/data/almanac.txt",
    "--set",
    "recovery.candidates=2",
    "--set",
    "recovery.steps=12",
    "--set",
    "recovery.batch=4",
    "--set",
    "recovery.reach=1000.0",
];

/// Rounds with so many windows of the text, of so many kills at most, until so many processes were killed; prints and
/// returns what was done.
fn rounds(kills: u32, per_round: u32, windows: &'static str, first_seed: u64) -> BTreeMap<&'static str, u32> {
    let folder = tempfile::tempdir().unwrap();
    let case = |search: &[&'static str], needing: &[&'static str], jobs: usize| {
        let [search, needing] = [search, needing].map(|spec| [spec, &["--set", windows]].concat());
        Case::new(folder.path(), &search, &needing, jobs)
    };
    let cases = [case(&TIERED, &RANKED, 4), case(&GRID, &CALIBRATED, 11), case(&RECOVERED, &RANKED, 4 + 2)];
    let mut here = MadeHere::default();
    let (mut killed, mut done, begun) = (0, BTreeMap::<&str, u32>::new(), Instant::now());
    let mut seed = first_seed;
    while killed < kills || seed < first_seed + cases.len() as u64 {
        let which = (seed % cases.len() as u64) as usize;
        let (what, more) = round(seed, &cases[which], &mut here, per_round);
        killed += more;
        for (name, times) in what {
            *done.entry(name).or_default() += times;
        }
        seed += 1;
        eprintln!("{killed} kills after {} rounds, {:?}", seed - first_seed, begun.elapsed());
    }
    eprintln!(
        "{} rounds, {killed} kills, 0 lost, 0 recorded twice, 0 other fronts or artifacts: {done:?}",
        seed - first_seed
    );
    done
}

#[test]
fn nothing_is_lost_or_done_twice_under_fire() {
    rounds(40, 20, "task.windows=2", 1);
}

#[test]
#[ignore = "the long form: 1,000 kills; see CONTRIBUTING.md"]
fn nothing_is_lost_or_done_twice_under_a_thousand_kills() {
    let done = rounds(1000, u32::MAX, "task.windows=8", 1000);
    for what in ["killed while jobs were under way", "worker crashed at a point"] {
        assert!(done.contains_key(what), "{what}: never");
    }
}

/// What is on record of a job, nobody having the store open: its text, its file, and that it is made.
fn left(store: &Path) -> [bool; 3] {
    let contents = Store::open(store).unwrap().contents().unwrap();
    [contents.jobs.len() == 1, is_stored(store), contents.made.len() == 1]
}

/// True if there is one whole file more than the checkpoint, the text and the tokenizer.
fn is_stored(store: &Path) -> bool {
    let files = std::fs::read_dir(Artifacts::of(store).folder()).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let hashes: Vec<ContentHash> = names.filter_map(|name| name.parse().ok()).collect();
    assert!(hashes.iter().all(|hash| Artifacts::of(store).has(hash)), "a file is not what its name says");
    hashes.len() == 4
}

#[test]
fn a_job_is_made_whoever_dies_at_whichever_point_of_its_way_and_not_again_once_it_was_reported() {
    // Where the coordinator dies, what it leaves, and how often the job is given out until it is made. The first commit is of
    // the job, the second of what it made.
    let points = [
        ("before-commit:1", [false, false, false], 1..=2),
        ("after-commit:1", [true, false, false], 1..=2),
        ("artifact-stored:1", [true, true, false], 2..=2),
        // Its worker has the result in hand, and brings it.
        ("before-commit:2", [true, true, false], 1..=1),
        ("after-commit:2", [true, true, true], 1..=1),
        // Here it is the worker that dies.
        ("artifact-put:1", [true, true, false], 2..=2),
    ];
    let mut here = MadeHere::default();
    for (seed, (point, leaves, times)) in (0..).zip(points) {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::new(seed, folder.path());
        // A worker that a busy machine leaves no time must not count as one that vanished.
        cluster.lease_ttl_s = 5;
        let of_worker = (point == "artifact-put:1").then_some(point);
        let of_coordinator = of_worker.is_none().then(|| point.to_owned());
        assert!(cluster.start_coordinator(of_coordinator), "{point}");
        let worker = cluster.start_worker(0, of_worker);
        cluster.workers.push(worker);
        let spec = [&RANGES[..], &["--set", "task.windows=2"]].concat();
        let submitting = Submitting::start(&spec, &cluster.url());
        let store = cluster.store();
        if of_worker.is_some() {
            let status = cluster.wait_for_end(cluster.workers[0].number);
            cluster.note_worker(status);
            assert!(is_stored(&store), "{point}");
            cluster.workers[0] = cluster.start_worker(0, None);
        } else {
            let status = cluster.wait_for_end(cluster.coordinator.as_ref().unwrap().number);
            cluster.note_crash(status);
            assert_eq!(left(&store), leaves, "{point}");
            assert!(cluster.start_coordinator(None), "{point}");
        }
        submitting.wait();
        cluster.stop();
        let contents = cluster.check_store();
        here.check(seed, &contents, &Artifacts::of(&store));
        assert_eq!(cluster.granted.len(), 1, "{point}: {:?}", cluster.granted);
        let granted = cluster.granted.values().sum::<u32>();
        // A lease that goes out with the answer to a report that a newer one has overtaken is lost, and given out again at once.
        let times = *times.start()..=times.end() + 1;
        assert!(times.contains(&granted), "{point}: given out {granted} times");
        assert!(cluster.recorded.values().all(|recorded| *recorded == 1), "{point}: {:?}", cluster.recorded);
        assert_eq!(cluster.kills, 1, "{point}");
    }
}

#[test]
fn an_evaluation_longer_than_a_lease_keeps_it() {
    // Windows that start after every 4th token: 32 times the work.
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(0, folder.path());
    let submit = [
        "submit",
        "experiments/specs/plain.toml",
        "--set",
        "task.stride=2",
        "--set",
        "run.shards=1",
        "--set",
        "strategy.kind=\"grid\"",
        "--set",
        "strategy.tier=\"global\"",
        "--set",
        "space.bits=[4]",
        "--coordinator",
        &cluster.url(),
    ];
    let id = succeed(&submit).trim().to_owned();
    let begun = Instant::now();
    while !cluster.is_finished(&id) {
        cluster.let_time_pass(200);
    }
    assert!(begun.elapsed() > Duration::from_secs(3), "too quick to tell: {:?}", begun.elapsed());
    let status = json(&["get", &id, "--coordinator", &cluster.url(), "--output", "json"]);
    assert_eq!((&status["measured"], &status["failed"]), (&2.into(), &0.into()));
    cluster.stop();
    cluster.let_time_pass(100);
    assert_eq!((cluster.acknowledged.len(), cluster.done.get("lease ran out")), (2, None));
}
