//! The engine against logits, losses and firing rates of the published training code.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, evaluate, evaluate_each_beside, sequence_logits};
use safetensors::SafeTensors;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny");

fn model(backend: Backend) -> SpikeGpt {
    let checkpoint = Checkpoint::load(&Path::new(DATA).join("model.pth"), true).unwrap();
    SpikeGpt::new(&checkpoint, &Candidate::float(checkpoint.network()), backend).unwrap()
}

struct Expected {
    tokens: Vec<Vec<i64>>,
    logits: Vec<f32>,
    json: serde_json::Value,
}

fn expected() -> Expected {
    let bytes = std::fs::read(Path::new(DATA).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = file.tensor("tokens").unwrap();
    let ids: Vec<i64> = tokens.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect();
    let logits = file.tensor("logits").unwrap();
    let json = std::fs::read_to_string(Path::new(DATA).join("expected.json")).unwrap();
    Expected {
        tokens: ids.chunks(tokens.shape()[1]).map(<[i64]>::to_vec).collect(),
        logits: logits.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        json: serde_json::from_str(&json).unwrap(),
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn all_backends_give_the_published_logits_losses_and_firing_rates() {
    let expected = expected();
    for backend in [Backend::Native, Backend::Integer, Backend::Flex, Backend::Ndarray] {
        let model = model(backend);
        let data = Dataset::rows(&expected.tokens, model.network().vocabulary).unwrap();
        let logits: Vec<f32> = (0..data.len()).flat_map(|i| sequence_logits(&model, &data, i)).collect();
        let difference = largest_difference(&logits, &expected.logits);
        assert!(difference < 1e-4, "{backend}: logits differ by {difference}");

        let counts = evaluate(&model, &data, 0..data.len(), &|| false).unwrap();
        let nll = expected.json["nll_sum"].as_f64().unwrap();
        assert!((counts.nll.nats() / nll - 1.0).abs() < 1e-5, "{backend}: nll {}", counts.nll.nats());
        assert_eq!(Some(counts.scored_tokens), expected.json["predicted_tokens"].as_u64());
        let rates = counts.firing_rates(model.network().channels);
        for (name, rate) in model.network().populations().iter().zip(rates) {
            let expected = expected.json["firing_rates"][name].as_f64().unwrap();
            assert!((rate - expected).abs() < 1e-6, "{backend}: {name} {rate} {expected}");
        }
    }
}

#[test]
fn the_divergence_is_that_of_the_logits_on_every_backend_and_none_of_the_float_model_itself() {
    let expected = expected();
    let checkpoint = Checkpoint::load(&Path::new(DATA).join("model.pth"), true).unwrap();
    let network = *checkpoint.network();
    let data = Dataset::rows(&expected.tokens, network.vocabulary).unwrap();
    let int4 = Candidate::new(&network, |unit| match unit.is_linear() {
        true => "int4:symmetric:channel".parse().unwrap(),
        false => qslm_common::scheme::Scheme::Float,
    });
    let logs = |row: &[f32]| {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        row.iter().map(|x| f64::from(*x) - sum.ln()).collect::<Vec<f64>>()
    };
    for backend in [Backend::Native, Backend::Integer, Backend::Flex, Backend::Ndarray] {
        let float = model(backend);
        let quantized = SpikeGpt::new(&checkpoint, &int4, backend).unwrap();
        let kl = |model: &SpikeGpt| {
            let each = evaluate_each_beside(&float, model, &data, 0..data.len(), None, &|| false).unwrap();
            each.iter().map(|counts| counts.kl.unwrap().nats()).sum::<f64>()
        };
        let mut direct = 0.0;
        for index in 0..data.len() {
            let (before, after) =
                (sequence_logits(&float, &data, index), sequence_logits(&quantized, &data, index));
            let outputs = network.outputs as usize;
            // The last token of a row predicts nothing.
            let rows = before.chunks(outputs).zip(after.chunks(outputs)).rev().skip(1);
            for (p, q) in rows.map(|(before, after)| (logs(before), logs(after))) {
                direct += p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            }
        }
        assert!(direct > 0.1, "{backend}: {direct} nats");
        assert!((kl(&quantized) - direct).abs() < 1e-6, "{backend}: {} and {direct}", kl(&quantized));
        assert_eq!(kl(&model(backend)), 0.0, "{backend}: another copy of the float model");
    }
}

#[test]
fn a_sequence_cut_anywhere_gives_the_whole_sequences_logits() {
    let tokens: Vec<u32> = expected().tokens[0].iter().map(|id| *id as u32).collect();
    for backend in [Backend::Native, Backend::Integer, Backend::Flex, Backend::Ndarray] {
        let model = model(backend);
        let run = |cuts: &[usize]| {
            let (mut state, mut spikes, mut features) = (model.start(), vec![0; 8], Vec::new());
            let mut start = 0;
            for end in cuts.iter().copied().chain([tokens.len()]) {
                features.extend(model.features(&tokens[start..end], &mut state, &mut spikes));
                start = end;
            }
            (model.logits(features), spikes)
        };
        let (whole, spikes) = run(&[]);
        let token_by_token: Vec<usize> = (1..tokens.len()).collect();
        for cuts in [&token_by_token[..], &[0], &[1], &[17, 40], &[63]] {
            let (pieces, sum) = run(cuts);
            assert!(largest_difference(&pieces, &whole) < 1e-5, "{backend}: cut at {cuts:?}");
            assert_eq!(sum, spikes);
        }
    }
}

#[test]
fn a_sign_embedding_gives_the_float_embeddings_loss_to_the_bit() {
    let checkpoint = Checkpoint::load(&Path::new(DATA).join("model.pth"), true).unwrap();
    let float = Candidate::float(checkpoint.network());
    let sign = float.clone().with(["emb.weight"], qslm_common::scheme::Scheme::Sign);
    let data = Dataset::rows(&expected().tokens, checkpoint.network().vocabulary).unwrap();
    let counts = |candidate: &Candidate| {
        let model = SpikeGpt::new(&checkpoint, candidate, Backend::Native).unwrap();
        evaluate(&model, &data, 0..data.len(), &|| false).unwrap()
    };
    assert_eq!(counts(&float), counts(&sign));
}
