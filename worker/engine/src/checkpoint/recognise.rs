//! Recognition: which member of the family a checkpoint is of, where its names, sizes or own words tell.
//!
//! SpikeGPT and RWKV-4 have the same tensors under the same names, so most files tell nothing. Some do: transformers' names are
//! RWKV-4's, a learned leak is SpikeRuGPT's, spikegpt-myelin writes its configuration into the file, and the published sizes of
//! RWKV-4 are nobody else's.

use std::collections::HashMap;
use std::path::Path;

use pytorch_reader::PickleValue;
use pytorch_reader::PytorchReader;
use qslm_common::network::{
    Constant, Dynamics, Family, LOG_TAU, LOG_THRESHOLD, Member, Neuron, Parameter, Placement,
};

use super::file::{self, TensorFile};
use super::naming::{Dialect, Naming};
use super::{CheckpointError, shape};

/// What a file tells of the family of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// Family.
    pub family: Family,
    /// The member: the family's preset, or what the file says of itself.
    pub member: Member,
    /// What told it, as the end of a sentence.
    pub because: String,
}

/// Sizes of published RWKV-4 models that no published SpikeGPT has: name, V, D, L.
const RWKV4: [(&str, u32, u32, u32); 7] = [
    ("RWKV-4 Pile 169M", 50_277, 768, 12),
    ("RWKV-4 Pile 430M", 50_277, 1024, 24),
    ("RWKV-4 Pile 1B5", 50_277, 2048, 24),
    ("RWKV-4 Pile 3B", 50_277, 2560, 32),
    ("RWKV-4 World 0.1B", 65_536, 768, 12),
    ("RWKV-4 World 0.4B", 65_536, 1024, 24),
    ("RWKV-4 World 1.5B", 65_536, 2048, 24),
];

/// The family of the network of a file, if it tells; `None` for a packed file, which says all of it itself.
///
/// # Errors
/// [`CheckpointError`] if the file cannot be read, or describes a network that is none of the family.
pub fn recognise(path: &Path) -> Result<Option<Recognised>, CheckpointError> {
    let mut file = file::open(path)?;
    if file.packed()?.is_some() {
        return Ok(None);
    }
    let preset = |family: Family, because: &str| {
        Some(Recognised { family, member: family.member(), because: because.to_owned() })
    };
    let names = file.names();
    let naming = Naming::read(&names, &file.metadata())?;
    let ends_with = |scalar: &str| naming.names().any(|name| name.ends_with(scalar));
    Ok(match naming.dialect() {
        Some(Dialect::Transformers) => preset(Family::Rwkv4, "its names are those of transformers' RWKV-4"),
        Some(Dialect::Myelin) => match configuration(&file, path)? {
            Some(member) => {
                let because = "its configuration is spikegpt-myelin's".to_owned();
                Some(Recognised { family: Family::Myelin, member, because })
            }
            None => preset(Family::Myelin, "its names are spikegpt-myelin's"),
        },
        None if ends_with(LOG_TAU) && ends_with(LOG_THRESHOLD) => {
            preset(Family::SpikeRuGpt, "its populations have a learned leak and threshold")
        }
        None => {
            // What does not fit is told where it is loaded.
            let sizes = shape::network(&naming.shapes(&file.shapes()), true.into(), |_| true).ok();
            let published = sizes.and_then(|(network, _)| {
                let has = |(_, v, d, l): &&(&str, u32, u32, u32)| {
                    (network.vocabulary, network.channels, network.blocks) == (*v, *d, *l)
                };
                RWKV4.iter().find(has)
            });
            published.and_then(|(name, ..)| preset(Family::Rwkv4, &format!("its sizes are those of {name}")))
        }
    })
}

/// Vocabulary that a checkpoint of spikegpt-myelin holds beside its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vocabulary {
    /// Ids are bytes.
    Bytes,
    /// Ids are indices of these characters.
    Characters(Vec<String>),
    /// The text of a `tokenizer.json`.
    Tokenizer(String),
}

/// The vocabulary inside a PyTorch file; `None` if it holds none.
///
/// # Errors
/// [`CheckpointError`] if it cannot be read, or its vocabulary is of another kind.
pub fn vocabulary(path: &Path) -> Result<Option<Vocabulary>, CheckpointError> {
    let Some(PickleValue::Dict(mut entries)) = entry(path, "vocabulary")? else { return Ok(None) };
    let kind = match entries.get("type") {
        Some(PickleValue::String(kind)) => kind.clone(),
        _ => String::new(),
    };
    let refuse = |given: String| CheckpointError::Configuration {
        key: "vocabulary",
        given,
        expected: "bytes, characters or a tokenizer_json",
    };
    match (kind.as_str(), entries.remove("tokens"), entries.remove("tokenizer_json")) {
        (_, _, Some(PickleValue::String(json))) => Ok(Some(Vocabulary::Tokenizer(json))),
        ("byte", ..) => Ok(Some(Vocabulary::Bytes)),
        ("character", Some(PickleValue::List(tokens)), _) => {
            let character = |token: PickleValue| match token {
                PickleValue::String(token) => Ok(token),
                other => Err(refuse(format!("{other:?}"))),
            };
            tokens.into_iter().map(character).collect::<Result<_, _>>().map(Vocabulary::Characters).map(Some)
        }
        _ => Err(refuse(format!("{kind:?}"))),
    }
}

/// What a checkpoint of spikegpt-myelin says of its network; `None` if it says nothing.
fn configuration(file: &TensorFile, path: &Path) -> Result<Option<Member>, CheckpointError> {
    let TensorFile::PyTorch(_) = file else { return Ok(None) };
    match entry(path, "config")? {
        Some(PickleValue::Dict(config)) => member(&config).map(Some),
        _ => Ok(None),
    }
}

/// An entry of a PyTorch file that is no tensor, by its key.
fn entry(path: &Path, key: &str) -> Result<Option<PickleValue>, CheckpointError> {
    let whole =
        PytorchReader::read_pickle_data(path, None).map_err(|error| file::refuse("PyTorch", &error))?;
    Ok(match whole {
        PickleValue::Dict(mut whole) => whole.remove(key),
        _ => None,
    })
}

/// The member that a configuration of spikegpt-myelin describes. What it leaves out is as its defaults have it.
fn member(config: &HashMap<String, PickleValue>) -> Result<Member, CheckpointError> {
    let refuse = |key: &'static str, expected: &'static str| CheckpointError::Configuration {
        key,
        given: config.get(key).map_or("nothing".to_owned(), |value| format!("{value:?}")),
        expected,
    };
    let yes = |key: &'static str, default: bool| match config.get(key) {
        None => Ok(default),
        Some(PickleValue::Bool(value)) => Ok(*value),
        Some(_) => Err(refuse(key, "true or false")),
    };
    let number = |key: &'static str, default: f64| match config.get(key) {
        None => Ok(default),
        Some(PickleValue::Float(value)) => Ok(*value),
        Some(PickleValue::Int(value)) => Ok(*value as f64),
        Some(_) => Err(refuse(key, "a number")),
    };
    for key in ["model_type", "attention"] {
        if config.get(key).is_some_and(|value| *value != PickleValue::String("rwkv".to_owned())) {
            return Err(refuse(key, "\"rwkv\""));
        }
    }
    if number("lif_reset", 0.0)? != 0.0 {
        return Err(refuse("lif_reset", "0"));
    }
    let constant =
        |key, value: f64| Constant::new(value as f32).ok_or_else(|| refuse(key, "a finite number"));
    let leak = constant("lif_tau", 1.0 - 1.0 / number("lif_tau", 2.0)?)?;
    let threshold = constant("lif_threshold", number("lif_threshold", 1.0)?)?;
    let preset = Family::Myelin.member();
    let neuron = preset.dynamics.neuron.map(|neuron| Neuron {
        leak: Parameter::Fixed(leak),
        threshold: Parameter::Fixed(threshold),
        ..neuron
    });
    let dynamics = match (yes("spiking", true)?, yes("spike_input", false)?) {
        (false, _) => Dynamics::NO_SPIKES,
        (true, true) => Dynamics { neuron, placement: Placement::Before, ..preset.dynamics },
        (true, false) => Dynamics { neuron, ..preset.dynamics },
    };
    dynamics.validate()?;
    Ok(Member { binary_embedding: yes("spike_embedding", true)?, dynamics })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entries: &[(&str, PickleValue)]) -> HashMap<String, PickleValue> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    }

    #[test]
    fn a_configuration_says_all_of_its_network() {
        assert_eq!(member(&config(&[])).unwrap(), Family::Myelin.member());
        let one = config(&[
            ("lif_tau", PickleValue::Float(4.0)),
            ("lif_threshold", PickleValue::Int(2)),
            ("spike_input", PickleValue::Bool(true)),
            ("spike_embedding", PickleValue::Bool(false)),
            ("model_type", PickleValue::String("rwkv".to_owned())),
            ("something_new", PickleValue::Int(3)),
        ]);
        let Member { binary_embedding, dynamics } = member(&one).unwrap();
        let neuron = dynamics.neuron.unwrap();
        assert!(!binary_embedding && dynamics.placement == Placement::Before);
        assert_eq!((neuron.leak.fixed(), neuron.threshold.fixed()), (Some(0.75), Some(2.0)));
        let silent = member(&config(&[("spiking", PickleValue::Bool(false))])).unwrap();
        assert_eq!(silent.dynamics, Dynamics::NO_SPIKES);
    }

    #[test]
    fn what_a_configuration_may_not_say_is_named() {
        let refused = |key: &str, value| member(&config(&[(key, value)])).unwrap_err().to_string();
        assert_eq!(
            refused("lif_reset", PickleValue::Float(0.1)),
            "config.lif_reset = Float(0.1): expected 0"
        );
        let words = refused("attention", PickleValue::String("softmax".to_owned()));
        assert!(words.contains("expected \"rwkv\""), "{words}");
        assert!(refused("spiking", PickleValue::Int(1)).contains("true or false"));
        assert!(refused("lif_tau", PickleValue::Float(0.0)).contains("lif_tau"));
        assert!(refused("lif_threshold", PickleValue::Float(0.0)).contains("threshold = 0"));
    }
}
