//! Every member of the family against logits, losses and firing rates of the original code.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::network::{Constant, Dynamics, Family, Member, Network};
use qslm_common::scheme::Scheme;
use qslm_engine::checkpoint::{Checkpoint, packed, recognise};
use qslm_engine::kernels::lif::{self, Neuron};
use qslm_engine::kernels::wkv::{self, WkvState};
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, evaluate, sequence_logits};
use safetensors::SafeTensors;
use serde_json::Value;
use support::shared;

/// A model of the golden vectors, and the member that it is.
struct Golden {
    folder: &'static str,
    member: Member,
    /// Largest difference of a logit.
    tolerance: f32,
}

fn goldens() -> Vec<Golden> {
    let of = |folder, member| Golden { folder, member, tolerance: 2e-5 };
    let rescaled = |binary_embedding| Member {
        binary_embedding,
        dynamics: Dynamics { rescale_every: 6, ..Dynamics::SPIKEGPT },
    };
    let own = |folder: &str| recognise(&folder_of(folder).join("model.pth")).unwrap().unwrap().member;
    vec![
        Golden { tolerance: 5e-5, ..of("rwkv4", Family::Rwkv4.member()) },
        of("spikegpt-float-embedding", false.into()),
        of("spikegpt-v77", true.into()),
        of("spikerugpt", Family::SpikeRuGpt.member()),
        of("myelin-output", own("myelin-output")),
        of("myelin-input", own("myelin-input")),
        of("run-rescale", rescaled(false)),
        of("run-rescale-v77", Family::SpikeGptChar.member()),
    ]
}

fn folder_of(name: &str) -> PathBuf {
    shared().join("golden/family").join(name)
}

/// What the original code gave.
struct Expected {
    bytes: Vec<u8>,
    json: Value,
}

impl Expected {
    fn read(folder: &Path) -> Self {
        let json = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        Self { bytes, json: serde_json::from_str(&json).unwrap() }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn tokens(&self) -> Vec<Vec<i64>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor("tokens").unwrap();
        let ids: Vec<i64> =
            tensor.data().as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect();
        ids.chunks(tensor.shape()[1]).map(<[i64]>::to_vec).collect()
    }

    fn data(&self, network: &Network) -> Dataset {
        Dataset::rows(&self.tokens(), network.vocabulary).unwrap()
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn float(checkpoint: &Checkpoint, backend: Backend) -> SpikeGpt {
    SpikeGpt::new(checkpoint, &Candidate::float(checkpoint.network()), backend).unwrap()
}

fn logits(model: &SpikeGpt, data: &Dataset) -> Vec<f32> {
    (0..data.len()).flat_map(|index| sequence_logits(model, data, index)).collect()
}

/// The logits of every sequence, fed one token at a time.
fn token_by_token(model: &SpikeGpt, tokens: &[Vec<i64>]) -> Vec<f32> {
    let mut all = Vec::new();
    for sequence in tokens {
        let (mut state, mut spikes) = (model.start(), vec![0; model.network().population_count()]);
        for token in sequence {
            let features = model.features(&[*token as u32], &mut state, &mut spikes);
            all.extend(model.logits(features));
        }
    }
    all
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn every_member_gives_the_logits_losses_and_firing_rates_of_the_original_code() {
    for Golden { folder, member, tolerance } in goldens() {
        let expected = Expected::read(&folder_of(folder));
        let checkpoint = Checkpoint::load(&folder_of(folder).join("model.pth"), member).unwrap();
        let data = expected.data(checkpoint.network());
        for backend in [Backend::Native, Backend::Integer, Backend::Flex, Backend::Ndarray] {
            let model = float(&checkpoint, backend);
            let difference = largest_difference(&logits(&model, &data), &expected.floats("logits"));
            assert!(difference <= tolerance, "{folder}, {backend}: logits differ by {difference}");
            let pieces = token_by_token(&model, &expected.tokens());
            let difference = largest_difference(&pieces, &expected.floats("logits"));
            assert!(difference <= tolerance, "{folder}, {backend}: token by token by {difference}");

            let counts = evaluate(&model, &data, 0..data.len(), &|| false).unwrap();
            let nll = expected.json["nll_sum"].as_f64().unwrap();
            assert!((counts.nll.nats() - nll).abs() < 1e-4, "{folder}, {backend}: {}", counts.nll.nats());
            assert_eq!(Some(counts.scored_tokens), expected.json["predicted_tokens"].as_u64());
            let rates = expected.json["firing_rates"].as_object().unwrap();
            assert_eq!(counts.spikes.len(), rates.len(), "{folder}: populations");
            let chances = counts.processed_tokens * u64::from(model.network().channels);
            for (name, spikes) in model.network().populations().iter().zip(&counts.spikes) {
                let fired = rates[name].as_f64().unwrap() * chances as f64;
                assert!(
                    (fired - *spikes as f64).abs() < 1e-6,
                    "{folder}, {backend}: {name} {spikes} {fired}"
                );
            }
        }
    }
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn a_file_of_bf16_is_widened_before_anything_is_computed() {
    let expected = Expected::read(&folder_of("rwkv4"));
    let checkpoint =
        Checkpoint::load(&folder_of("rwkv4").join("model_bf16.pth"), Family::Rwkv4.member()).unwrap();
    let data = expected.data(checkpoint.network());
    let model = float(&checkpoint, Backend::Native);
    let difference = largest_difference(&logits(&model, &data), &expected.floats("logits_bf16_weights"));
    assert!(difference <= 5e-5, "{difference}");
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn quantized_and_packed_members_measure_the_same_bits_again() {
    let scratch = tempfile::tempdir().unwrap();
    for Golden { folder, member, .. } in goldens() {
        let expected = Expected::read(&folder_of(folder));
        let checkpoint = Checkpoint::load(&folder_of(folder).join("model.pth"), member).unwrap();
        let network = *checkpoint.network();
        let data = expected.data(&network);
        let int4 = Candidate::new(&network, |unit| match unit.is_linear() || !network.binary_embedding {
            true => "int4:symmetric:channel".parse().unwrap(),
            false => Scheme::Sign,
        });
        let int4 = int4.with_vectors("int8:symmetric:tensor".parse().unwrap());
        let model = SpikeGpt::new(&checkpoint, &int4, Backend::Native).unwrap();
        let counts = evaluate(&model, &data, 0..data.len(), &|| false).unwrap();
        let path = scratch.path().join(folder).with_extension("safetensors");
        let provenance = packed::Provenance {
            qslm: "test".to_owned(),
            checkpoint: qslm_common::hash::ContentHash::of(b"model"),
            experiment: None,
            measurement: None,
            reproducible: true,
            conditions: None,
            origin: None,
        };
        packed::write(&path, &checkpoint, &int4, &(), &[], provenance).unwrap();
        // A packed file says itself what it is of.
        let again = Checkpoint::load(&path, true).unwrap();
        assert_eq!(*again.network(), network, "{folder}");
        let manifest = again.manifest().unwrap().clone();
        let model = SpikeGpt::new(&again, &manifest.to_run(), Backend::Native).unwrap();
        assert_eq!(evaluate(&model, &data, 0..data.len(), &|| false).unwrap(), counts, "{folder}");
    }
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn every_container_and_naming_gives_the_stated_logits() {
    let expected = Expected::read(&folder_of("variants"));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder_of("variants")).unwrap() {
        let mut path = entry.unwrap().path();
        if path.is_dir() {
            path.push("model.safetensors");
        } else if path.file_stem().unwrap() == "expected" {
            continue;
        }
        seen += 1;
        for (family, tensor) in [(Family::SpikeGpt, "logits_spikegpt"), (Family::Rwkv4, "logits_rwkv4")] {
            let checkpoint = Checkpoint::load(&path, family.member())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let data = expected.data(checkpoint.network());
            let model = float(&checkpoint, Backend::Native);
            let difference = largest_difference(&logits(&model, &data), &expected.floats(tensor));
            assert!(difference <= 2e-5, "{}, {family}: {difference}", path.display());
        }
    }
    assert_eq!(seen, 14);
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn what_a_file_tells_of_its_family_is_heard() {
    let told = |file: &str| recognise(&shared().join("golden/family").join(file)).unwrap();
    assert_eq!(told("spikerugpt/model.pth").unwrap().family, Family::SpikeRuGpt);
    assert_eq!(told("variants/hf_rwkv4/model.safetensors").unwrap().family, Family::Rwkv4);
    let output = told("myelin-output/model.pth").unwrap();
    assert_eq!((output.family, output.member), (Family::Myelin, Family::Myelin.member()));
    let input = told("myelin-input/model.pth").unwrap();
    assert_eq!(input.member.dynamics.placement, qslm_common::network::Placement::Before);
    assert_eq!(told("variants/myelin_orig_mod_nested.pth").unwrap().member.dynamics, Dynamics::NO_SPIKES);
    // The same tensors as RWKV-4's: nothing tells which it is.
    assert_eq!(told("spikegpt-v77/model.pth"), None);
    assert_eq!(told("rwkv4/model.pth"), None);
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn a_wrong_preset_is_refused_where_tensors_differ_and_gives_other_logits_where_not() {
    let refused = |file: &str, family: Family| {
        Checkpoint::load(&folder_of(file).join("model.pth"), family.member()).unwrap_err().to_string()
    };
    let words = refused("spikerugpt", Family::Rwkv4);
    assert!(words.starts_with("extra tensor blocks.0.lif1.log_tau"), "{words}");
    let words = refused("rwkv4", Family::SpikeRuGpt);
    assert_eq!(words, "missing tensor blocks.0.lif1.log_tau");
    for Golden { folder, member, tolerance } in goldens() {
        let expected = Expected::read(&folder_of(folder));
        for (family, _) in Family::all().filter(|(family, _)| family.member() != member) {
            let Ok(checkpoint) = Checkpoint::load(&folder_of(folder).join("model.pth"), family.member())
            else {
                continue;
            };
            if folder == "spikegpt-v77" && family == Family::SpikeGptChar {
                continue; // Three blocks, and the stream is halved after six.
            }
            let model = float(&checkpoint, Backend::Native);
            let data = expected.data(checkpoint.network());
            let difference = largest_difference(&logits(&model, &data), &expected.floats("logits"));
            assert!(difference > 100.0 * tolerance, "{folder} read as {family}: {difference}");
        }
    }
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn a_member_is_a_preset_of_a_few_values() {
    // The same function in exact arithmetic: the threshold and the gain of myelin's neuron, halved.
    let folder = folder_of("myelin-output");
    let expected = Expected::read(&folder);
    let mut member = Family::Myelin.member();
    let neuron = member.dynamics.neuron.as_mut().unwrap();
    neuron.gain = Constant::HALF;
    neuron.threshold = qslm_common::network::Parameter::Fixed(Constant::HALF);
    let checkpoint = Checkpoint::load(&folder.join("model.pth"), member).unwrap();
    let model = float(&checkpoint, Backend::Native);
    let data = expected.data(checkpoint.network());
    assert!(largest_difference(&logits(&model, &data), &expected.floats("logits")) <= 2e-5);
}

/// Spikes of sixteen neurons, and their potentials afterwards, token after token.
fn scanned(neuron: &Neuron, input: &[f32]) -> [Vec<f32>; 2] {
    let (mut v, mut spikes, mut potentials) = (vec![neuron.initial; 16], Vec::new(), Vec::new());
    for row in input.chunks(16) {
        let mut out = vec![0.0; 16];
        lif::scan(neuron, row, &mut v, &mut out, None);
        spikes.extend(out);
        potentials.extend(&v);
    }
    [spikes, potentials]
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn single_neurons_fire_and_remember_as_the_originals_do() {
    let expected = Expected::read(&folder_of("ops"));
    let input = expected.floats("x");
    let myelin = Neuron::fixed(&Family::Myelin.member().dynamics.neuron.unwrap()).unwrap();
    for (name, neuron) in [("spikingjelly", Neuron::SPIKEGPT), ("myelin", myelin)] {
        let [spikes, potentials] = scanned(&neuron, &input);
        assert_eq!(spikes, expected.floats(&format!("{name}.spikes")), "{name}");
        let difference = largest_difference(&potentials, &expected.floats(&format!("{name}.v")));
        assert!(difference <= 1e-6, "{name}: {difference}");
    }
    let learnable = Family::SpikeRuGpt.member().dynamics.neuron.unwrap();
    for index in 0..4 {
        let scalar = |name: &str| expected.floats(&format!("learnable.{index}.{name}"))[0];
        let neuron = Neuron::new(&learnable, 1.0 / scalar("tau"), scalar("threshold"));
        let [spikes, _] = scanned(&neuron, &input);
        assert_eq!(spikes, expected.floats(&format!("learnable.{index}.spikes")), "learnable {index}");
    }
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn the_recurrence_is_that_of_its_direct_definition_where_keys_are_large() {
    let expected = Expected::read(&folder_of("ops"));
    let [k, v, decay, first, y] =
        ["wkv.k", "wkv.v", "wkv.time_decay", "wkv.time_first", "wkv.y"].map(|name| expected.floats(name));
    let decay: Vec<f32> = decay.iter().map(|decay| -decay.exp()).collect();
    for sequence in 0..2 {
        let of = sequence * 40 * 12..(sequence + 1) * 40 * 12;
        let (mut state, mut out) = (WkvState::start(12), vec![0.0; 40 * 12]);
        wkv::scan(&decay, &first, &k[of.clone()], &v[of.clone()], &mut state, &mut out);
        let difference = largest_difference(&out, &y[of]);
        assert!(difference <= 3e-4, "{difference}");
    }
}
