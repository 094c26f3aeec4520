//! An evaluation that goes wrong is a failure of its trial with the reason, and the worker goes on.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use qslm_common::ENGINE_VERSION;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Backend;
use qslm_common::hash::ContentHash;
use qslm_common::network::Network;
use qslm_common::task::{Data, Shard, Task};
use qslm_common::trial::Trial;
use qslm_engine::checkpoint::Checkpoint;
use qslm_worker::Evaluator;
use qslm_worker::evaluator::{Failure, Files};

fn bundled(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../experiments").join(path)
}

fn trial(network: Network) -> Trial {
    let hash = ContentHash::of(b"");
    Trial {
        engine_version: ENGINE_VERSION,
        backend: Backend::default(),
        checkpoint: hash,
        network,
        data: Data { text: hash, tokenizer: hash },
        task: Task::Perplexity { window: 16, stride: 16, windows: Some(2) },
        candidate: Candidate::float(&network),
    }
}

#[test]
fn a_panic_fails_the_trial_with_its_words_and_the_next_evaluation_works() {
    let files = Files {
        checkpoint: bundled("models/wikitext2-xs.safetensors"),
        text: bundled("data/encyclopaedia.txt"),
        tokenizer: bundled("models/tokenizer.json"),
    };
    let network = *Checkpoint::load(&files.checkpoint, true).unwrap().network();
    let evaluator = Evaluator::new(1);
    let shard = Shard { index: 0, of: 1 };
    let trial = trial(network);
    let panicked = evaluator.evaluate(&trial, &files, shard, &|| panic!("out of luck"));
    assert_eq!(panicked, Err(Failure::Final("the evaluation panicked: out of luck".to_owned())));
    assert_eq!(evaluator.evaluate(&trial, &files, shard, &|| true), Err(Failure::Interrupted));
    assert_eq!(evaluator.evaluate(&trial, &files, shard, &|| false).unwrap().tokens, 32);

    let newer = Trial { engine_version: ENGINE_VERSION + 1, ..trial };
    let refused = evaluator.evaluate(&newer, &files, shard, &|| false);
    assert!(matches!(refused, Err(Failure::Retryable(words)) if words.contains("the trial needs")));
}
