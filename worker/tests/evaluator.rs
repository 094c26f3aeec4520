//! An evaluation that goes wrong is a failure of its trial with the reason, and the worker goes on.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qslm_common::ENGINE_VERSION;
use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::network::Network;
use qslm_common::scheme::Scheme;
use qslm_common::task::{Data, Shard, Task};
use qslm_common::trial::{Protocol, Trial};
use qslm_engine::checkpoint::Checkpoint;
use qslm_worker::Evaluator;
use qslm_worker::evaluator::Files;
use qslm_worker::failure::{Cause, EvaluationFailure};

fn bundled(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../experiments").join(path)
}

fn bundled_files() -> Files {
    Files {
        checkpoint: bundled("models/wikitext2-xs.safetensors"),
        text: bundled("data/encyclopaedia.txt"),
        tokenizer: bundled("models/tokenizer.json"),
        codes: BTreeMap::new(),
    }
}

fn trial(network: Network) -> Trial {
    let Files { checkpoint, text, tokenizer, .. } = bundled_files();
    let hash = |path: PathBuf| ContentHash::of(&std::fs::read(path).unwrap());
    let protocol = Protocol {
        engine_version: ENGINE_VERSION,
        backend: Backend::default(),
        checkpoint: hash(checkpoint),
        network,
        data: Data { text: hash(text), tokenizer: hash(tokenizer) },
        task: Task::Perplexity { window: 16, stride: 16, windows: Some(2) },
        kl: false,
    };
    Arc::new(protocol).trial(Candidate::float(&network))
}

#[test]
fn a_panic_fails_the_trial_with_its_words_and_the_next_evaluation_works() {
    let files = bundled_files();
    let network = *Checkpoint::load(&files.checkpoint, true).unwrap().network();
    let evaluator = Evaluator::new(1);
    let shard = Shard { index: 0, of: 1 };
    let trial = trial(network);
    let panicked = evaluator.evaluate(&trial, &files, shard, &|| panic!("out of luck"));
    assert_eq!(
        panicked,
        Err(EvaluationFailure::evaluation(Cause::Panic, "the evaluation panicked: out of luck"))
    );
    assert_eq!(evaluator.evaluate(&trial, &files, shard, &|| true), Err(EvaluationFailure::Interrupted));
    assert_eq!(evaluator.evaluate(&trial, &files, shard, &|| false).unwrap().0.scored_tokens, 32);

    let protocol = Protocol { engine_version: ENGINE_VERSION + 1, ..Protocol::clone(&trial.protocol) };
    let newer = Trial { protocol: Arc::new(protocol), ..trial };
    let refused = evaluator.evaluate(&newer, &files, shard, &|| false);
    assert!(
        matches!(refused, Err(EvaluationFailure::Machine { reason, .. }) if reason.contains("the trial needs"))
    );
}

#[test]
fn a_divergence_is_counted_where_the_trial_asks_and_is_the_same_however_its_data_is_cut() {
    let files = bundled_files();
    let network = *Checkpoint::load(&files.checkpoint, true).unwrap().network();
    let evaluator = Evaluator::new(1);
    let plain = trial(network);
    let int3 = Candidate::new(&network, |_| "int3:symmetric:channel".parse().unwrap());
    let of = |kl, candidate: &Candidate| {
        let task = Task::Perplexity { window: 16, stride: 16, windows: Some(8) };
        let protocol = Protocol { kl, task, ..Protocol::clone(&plain.protocol) };
        Arc::new(protocol).trial(candidate.clone())
    };
    let sum = |trial: &Trial, shards: u32| {
        let shards = (0..shards).map(|index| Shard { index, of: shards });
        let counts = shards
            .map(|shard| evaluator.evaluate(trial, &files, shard, &|| false).unwrap().0)
            .collect::<Vec<_>>();
        Counts::sum(network.population_count(), &counts).unwrap()
    };
    let asked = of(true, &int3);
    assert_ne!(asked.key(), of(false, &int3).key(), "another trial");
    let whole = sum(&asked, 1);
    assert!(whole.mean_kl().unwrap() > 0.01, "{whole:?}");
    for shards in [2, 3, 8] {
        assert_eq!(sum(&asked, shards), whole);
    }
    // All else is what it is without.
    let without = sum(&of(false, &int3), 1);
    assert_eq!(Counts { kl: None, ..whole }, without);
    let float = sum(&of(true, &Candidate::float(&network)), 2);
    assert_eq!(float.kl, Some(Nll(0)));
}

/// Candidates as a search proposes them: one part after the other narrower, then others that share nothing.
#[test]
fn a_checkpoint_that_is_damaged_after_it_was_read_is_a_fault_of_the_machine_and_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("model.safetensors");
    let whole = std::fs::read(bundled_files().checkpoint).unwrap();
    std::fs::write(&checkpoint, &whole).unwrap();
    let files = Files { checkpoint, ..bundled_files() };
    let network = *Checkpoint::load(&files.checkpoint, true).unwrap().network();
    let (float, evaluator) = (trial(network), Evaluator::new(1));
    let int3 = Candidate::new(&network, |_| "int3:symmetric:channel".parse().unwrap());
    let (shard, quantized) = (Shard { index: 0, of: 1 }, float.protocol.trial(int3));
    let measure = |evaluator: &Evaluator, trial: &Trial| evaluator.evaluate(trial, &files, shard, &|| false);
    let before = measure(&evaluator, &float).unwrap();
    // A bit of the last tensor.
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&files.checkpoint, damaged).unwrap();
    let said = measure(&evaluator, &quantized);
    let words = "which was read before: it has other bytes now";
    assert!(
        matches!(&said, Err(EvaluationFailure::Machine { reason, .. }) if reason.ends_with(words)),
        "{said:?}"
    );
    assert_eq!(measure(&evaluator, &float).unwrap(), before, "what is at hand is what it was");
    std::fs::write(&files.checkpoint, whole).unwrap();
    let again = measure(&evaluator, &quantized).unwrap();
    assert_eq!(again, measure(&Evaluator::new(1), &quantized).unwrap());
}

fn candidates(network: &Network) -> Vec<Candidate> {
    let float = Candidate::float(network);
    let int = |bits: u8| format!("int{bits}:symmetric:channel").parse::<Scheme>().unwrap();
    let uniform = Candidate::new(network, |_| int(4));
    let mut all = vec![float.clone(), uniform.clone()];
    for unit in network.units() {
        all.push(float.clone().with([unit.name.as_str()], int(3)));
        all.push(uniform.clone().with([unit.name.as_str()], int(2)));
    }
    all.push(float.clone().with(["emb.weight"], Scheme::Sign));
    all.push(float.clone().with_vectors(Scheme::Half));
    let key = "blocks.2.att.key.weight";
    all.push(uniform.clone().with_activations([key], "int4:affine:dynamic".parse().ok()));
    all.push(uniform.with_membranes(["blocks.1.lif2"], "fixed5:2".parse().ok()));
    all
}

#[test]
fn candidates_that_share_a_beginning_are_measured_as_each_alone() {
    let files = bundled_files();
    let network = *Checkpoint::load(&files.checkpoint, true).unwrap().network();
    let halves = [0, 1].map(|index| Shard { index, of: 2 });
    let measure = |evaluator: &Evaluator, candidate: &Candidate| {
        let trial = Trial { candidate: candidate.clone(), ..trial(network) };
        halves.map(|shard| evaluator.evaluate(&trial, &files, shard, &|| false).unwrap())
    };
    // Plenty of room, and so little that nearly nothing is found again.
    for memory in [1 << 30, 24 << 20] {
        let shared = Evaluator::with_memory(1, Some(memory));
        for candidate in candidates(&network) {
            let alone = measure(&Evaluator::with_memory(1, Some(6 << 20)), &candidate);
            assert_eq!(measure(&shared, &candidate), alone, "{}", candidate.encode());
        }
        let reuse = shared.reuse();
        let share = reuse.computed_share(0).unwrap();
        assert!(reuse.reused > 0 || memory < 1 << 30, "{reuse:?}");
        assert!(memory < 1 << 30 || share < 0.8, "{share}");
    }
}
