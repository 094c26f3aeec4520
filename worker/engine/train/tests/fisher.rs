//! Fisher information: what it is in closed form where there is one, and what it says of losses that are measured.
#![allow(clippy::unwrap_used)]

mod shared;

use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::task::{Data, Task};
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::BACKEND;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::evaluate;
use qslm_train::fisher::{Fisher, loss};
use qslm_train::jobs::FisherLosses;
use qslm_train::tensors::Tensors;

use shared::inputs;

const HEAD: &str = "head.weight";

fn checkpoint() -> Checkpoint {
    (*inputs().checkpoint(true).unwrap()).clone()
}

fn of(checkpoint: &Checkpoint, sequences: &[&[u32]], seed: u64, threads: usize) -> Tensors {
    let mut fisher = Fisher::new(checkpoint.network(), &Tensors::of_checkpoint(checkpoint), seed, threads);
    sequences.iter().for_each(|tokens| fisher.add(tokens));
    fisher.finish()
}

#[test]
fn of_the_head_it_is_the_variance_of_its_softmax_times_the_square_of_its_input() {
    let checkpoint = checkpoint();
    let network = checkpoint.network();
    let tokens: Vec<u32> = (0..24).map(|i| i * 7 % network.vocabulary).collect();
    let model = SpikeGpt::new(&checkpoint, &Candidate::float(network), BACKEND).unwrap();
    let mut spikes = vec![0; network.population_count()];
    let features = model.features(&tokens, &mut model.start(), &mut spikes);
    let logits = model.logits(features.clone());
    let (channels, outputs) = (network.channels as usize, network.outputs as usize);
    let mut expected = vec![0.0; outputs * channels];
    for (x, logits) in features.chunks(channels).zip(logits.chunks(outputs)) {
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        for (row, logit) in expected.chunks_mut(channels).zip(logits) {
            let p = f64::from(*logit).exp() / sum;
            row.iter_mut().zip(x).for_each(|(sum, x)| *sum += p * (1.0 - p) * f64::from(*x).powi(2));
        }
    }
    // As many draws of the same sequence as it takes to come near it.
    let repeated = vec![tokens.as_slice(); 500];
    let fisher = of(&checkpoint, &repeated, 5, 2);
    let column = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>();
    for j in 0..channels {
        let drawn = column(&mut fisher.get(HEAD).iter().skip(j).step_by(channels).map(|x| f64::from(*x)));
        let exact = column(&mut expected.iter().skip(j).step_by(channels).copied()) / tokens.len() as f64;
        assert!((drawn / exact - 1.0).abs() < 0.15, "column {j}: {drawn} {exact}");
    }
}

#[test]
fn threads_change_no_bit_of_it_and_another_seed_does() {
    let checkpoint = checkpoint();
    let sequences: Vec<Vec<u32>> =
        (0..5).map(|k| (0..9 + k).map(|i| (i * i + k) % checkpoint.network().vocabulary).collect()).collect();
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let one = of(&checkpoint, &sequences, 1, 1);
    assert_eq!(one, of(&checkpoint, &sequences, 1, 3));
    assert_ne!(one, of(&checkpoint, &sequences, 2, 1));
    assert!(one.iter().all(|(_, values)| values.iter().all(|x| x.is_finite() && *x >= 0.0)));
    assert!(one.get("blocks.0.ffn.key.weight").iter().any(|x| *x > 0.0));
    assert!(one.get("blocks.0.ln1.weight").iter().any(|x| *x > 0.0));
}

#[test]
fn the_loss_of_a_rounded_head_is_what_was_measured() {
    let checkpoint = checkpoint();
    let network = *checkpoint.network();
    let task = Task::Perplexity { window: 32, stride: 32, windows: None };
    let schemes = ["f16", "int6:full:channel:f16", "int4:full:channel:f16", "int3:full:channel:f16"];
    let mut units: Vec<(String, String)> =
        schemes.map(|scheme| (HEAD.to_owned(), scheme.to_owned())).to_vec();
    units.push(("blocks.1.att.key.weight".to_owned(), schemes[2].to_owned()));
    let data = Data { text: ContentHash::of(b"t"), tokenizer: ContentHash::of(b"k") };
    let parameters = FisherLosses { task: task.clone(), member: true.into(), units };
    let job: Job = parameters.job(ContentHash::of(b"c"), &data, []);
    let losses = FisherLosses::read(&shared::made_of(&job, &inputs(), &()).unwrap()).unwrap();
    assert!(losses["blocks.1.att.key.weight"][&schemes[2].parse().unwrap()] > 0.0);

    let dataset = inputs().data(&task, &network).unwrap();
    let measured = |candidate: &Candidate| {
        let model = SpikeGpt::new(&checkpoint, candidate, BACKEND).unwrap();
        let counts = evaluate(&model, &dataset, 0..dataset.len(), &|| false).unwrap();
        counts.nll.nats() / counts.scored_tokens as f64
    };
    let float = Candidate::float(&network);
    for text in &schemes[2..] {
        let rounded = float.clone().with([HEAD], text.parse().unwrap());
        let (predicted, lost) = (losses[HEAD][&text.parse().unwrap()], measured(&rounded) - measured(&float));
        // It is of other text than the network was trained on, whose tokens are not quite as if the network drew them.
        assert!(predicted > lost / 3.0 && predicted < 3.0 * lost, "{text}: {predicted} {lost}");
    }
    let wrong = FisherLosses { units: vec![("head".to_owned(), "f16".to_owned())], ..parameters };
    let error = shared::made_of(&wrong.job(ContentHash::of(b"c"), &data, []), &inputs(), &()).unwrap_err();
    assert_eq!(error.to_string(), "units: head f16: no matrix of the part");
    assert_eq!(loss(&[2.0, 0.5], &[0.5, -2.0]), 1.25);
}
