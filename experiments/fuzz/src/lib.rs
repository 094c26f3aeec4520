//! Everything that reads what strangers wrote, one function each: whatever the bytes, it returns, in bounded time and
//! memory, and what it takes it can write and read again.
//!
//! A fuzzer feeds them for as long as one likes (`experiments/fuzz/run`); with `cargo test` they see real inputs, cut and
//! changed by chance.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;

use prost::Message;
use qslm_common::candidate::{Candidate, InvalidCandidate};
use qslm_common::demands::{Capabilities, Demands};
use qslm_common::job::Job;
use qslm_common::network::{Family, Member, Network};
use qslm_common::trial::Trial;
use qslm_engine::checkpoint::calibrated::CodesFile;
use qslm_engine::checkpoint::{Checkpoint, recognise, vocabulary};
use qslm_engine::quant::rans;
use qslm_engine::task::TokenizerFile;
use qslm_proto::v1;
use qslm_search::written;
use tempfile::NamedTempFile;

/// A checkpoint file, PyTorch's or safetensors, float or packed.
///
/// # Panics
/// If a checkpoint is taken whose tensors are not those of its network.
pub fn checkpoint(data: &[u8]) {
    as_file(data, |path| {
        // What it tells of its family, and a vocabulary inside.
        let (_told, _vocabulary) = (recognise(path), vocabulary(path));
        for member in [true.into(), false.into(), Family::SpikeRuGpt.member()] {
            let member: Member = member;
            let Ok(checkpoint) = Checkpoint::load(path, member) else { continue };
            for unit in checkpoint.network().units() {
                assert_eq!(checkpoint.tensor(&unit.name).len(), unit.rows * unit.columns);
            }
        }
    });
}

/// An artifact with calibrated codes, and entropy-coded codes after two bytes of a shape.
///
/// # Panics
/// If codes are taken that are not as many as the matrix has, or that other bytes of theirs do not give again.
pub fn codes(data: &[u8]) {
    if let Ok(file) = CodesFile::of(data.to_vec()) {
        for (unit, about) in file.units() {
            for scheme in ["int3:full:channel:f16:gptq:least_squares", "int2:ternary:tensor:gptq"] {
                let Ok(scheme) = scheme.parse() else { continue };
                let shape = (about.rows.min(1 << 12), about.columns.min(1 << 12));
                if let Ok(codes) = file.codes(unit, shape, scheme) {
                    assert_eq!(codes.values.len(), shape.0 * shape.1);
                }
            }
        }
    }
    let [rows, columns, coded @ ..] = data else { return };
    let (rows, columns) = (usize::from(*rows), usize::from(*columns));
    if let Ok(codes) = rans::decode(coded, rows, columns) {
        assert_eq!(codes.len(), rows * columns);
        assert_eq!(rans::decode(&rans::encode(&codes, columns), rows, columns), Ok(codes));
    }
}

/// A `tokenizer.json` or a vocabulary of RWKV World, for a vocabulary of 2,048; the rest of the data after a zero byte is encoded.
///
/// # Panics
/// If a token is not below the vocabulary.
pub fn tokenizer(data: &[u8]) {
    let (json, text) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], String::from_utf8_lossy(&data[end + 1..]).into_owned()),
        None => (data, "The lighthouse keeper\n".to_owned()),
    };
    as_file(json, |path| {
        let Ok(tokenizer) = TokenizerFile::load(path, 2048) else { return };
        if let Ok(ids) = tokenizer.encode(&text) {
            assert!(ids.iter().all(|id| *id < 2048), "a token beyond the vocabulary");
        }
    });
}

/// A spec as people write it.
pub fn spec(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        qslm::spec_problems(text);
    }
}

/// A candidate's canonical text, or what a program tells in its place.
///
/// # Panics
/// If a candidate is not what its own text says, or what is told is none of the network's.
pub fn candidate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(told) = written::of_text(text, &TOLD) {
        let fits = told.validate(&TOLD);
        // Codes are added by whoever has them.
        assert!(matches!(fits, Ok(()) | Err(InvalidCandidate::NoCodes(_))), "{fits:?}");
    }
    let Ok(candidate) = Candidate::decode(text) else { return };
    let again = candidate.encode();
    assert_eq!(Candidate::decode(&again), Ok(candidate.clone()), "{again:?}");
    assert_eq!(again, text, "one form only, since it is what an id is the hash of");
}

/// Network that candidates are told of.
const TOLD: Network = Network {
    vocabulary: 64,
    channels: 16,
    hidden: 64,
    blocks: 2,
    outputs: 64,
    binary_embedding: true,
    dynamics: qslm_common::network::Dynamics::SPIKEGPT,
};

/// A message of the protocol, and what becomes of it; the first byte says which.
///
/// # Panics
/// If a trial, an experiment or a job is not what its own message says.
pub fn wire(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 5 {
        0 => {
            let Ok(message) = v1::Trial::decode(body) else { return };
            let Ok(trial) = Trial::try_from(message) else { return };
            assert_eq!(Trial::try_from(v1::Trial::from(&trial)), Ok(trial));
        }
        1 => {
            let Ok(message) = v1::ReportRequest::decode(body) else { return };
            for report in &message.finished {
                drop(qslm_proto::convert::shard(report.index, report.of));
                drop(qslm_proto::convert::hash("trial", &report.trial));
            }
            drop(message.capabilities.map(Capabilities::try_from));
        }
        2 => {
            let Ok(message) = v1::SubmitRequest::decode(body) else { return };
            drop(message.demands.map(Demands::try_from));
            let Ok(experiment) = qslm_search::decode(&message.experiment) else { return };
            assert_eq!(qslm_search::decode(&experiment.encode()), Ok(experiment));
        }
        3 => {
            let Ok(message) = v1::MakeRequest::decode(body) else { return };
            for job in message.jobs.iter().filter_map(|text| Job::decode(text).ok()) {
                assert_eq!(Job::decode(&job.encode()), Ok(job));
            }
        }
        _ => drop(v1::ReportResponse::decode(body)),
    }
}

/// Hands the bytes over as a file, the same one every time.
fn as_file(data: &[u8], read: impl FnOnce(&std::path::Path)) {
    thread_local! {
        static FILE: RefCell<Option<NamedTempFile>> = const { RefCell::new(None) };
    }
    FILE.with_borrow_mut(|file| {
        if file.is_none() {
            *file = NamedTempFile::new().ok();
        }
        let Some(file) = file else { return };
        let written = File::create(file.path()).and_then(|mut file| file.write_all(data));
        if written.is_ok() {
            read(file.path());
        }
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use qslm_common::scheme::Scheme;
    use qslm_engine::checkpoint::calibrated::{CalibratedUnit, CodesWriter};
    use qslm_engine::quant::{Statistics, Weights, quantize};

    use super::*;

    /// The bundled inputs, which a fuzzer starts from, too.
    fn seed(path: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
    }

    /// The text of the bundled model's float candidate.
    fn candidate_text() -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/wikitext2-xs.safetensors");
        let checkpoint = Checkpoint::load(&path, true).unwrap();
        Candidate::float(checkpoint.network()).encode().into_bytes()
    }

    /// An artifact with the codes of a small matrix, and these entropy-coded after its shape.
    fn codes_files() -> Vec<Vec<u8>> {
        let unit = "blocks.0.att.key.weight";
        let scheme: Scheme = "int3:full:channel:f16:gptq:least_squares".parse().unwrap();
        let Scheme::Integer { format, quantizer } = scheme.uncalibrated() else { panic!("{scheme}") };
        let values: Vec<f32> = (0..200 * 7).map(|i| (i as f32 * 0.7).sin()).collect();
        let weights = Weights { values: &values, columns: 7, unit };
        let codes = quantize(weights, format, quantizer, &Statistics::NONE);
        let coded = [&[200, 7][..], &rans::encode(&codes.values, 7)].concat();
        let mut writer = CodesWriter::default();
        let about = CalibratedUnit { rows: 200, columns: 7, tokens: 5, damping: 0.1, dead_columns: 0 };
        writer.unit(unit, about);
        writer.codes(unit, scheme, codes);
        vec![writer.finish().unwrap(), coded]
    }

    fn any_of(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let places = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
        (prop::sample::select(seeds), places, any::<prop::sample::Index>(), any::<bool>()).prop_map(
            |(mut bytes, places, end, cut)| {
                for (place, byte) in places {
                    // Most of what is structure stands at the beginning.
                    let within = bytes.len().min(4096);
                    bytes[place.index(within)] = byte;
                }
                if cut {
                    bytes.truncate(end.index(bytes.len()));
                }
                bytes
            },
        )
    }

    /// A vocabulary of RWKV World.
    const WORLD: &[u8] = b"1 'a' 1\n2 b'\\xc3' 1\n3 \"'\" 1\n4 'keeper\\n' 7\n5 '\\u2603' 3\n";

    #[test]
    fn what_is_right_is_taken() {
        checkpoint(&seed("models/wikitext2-xs.safetensors"));
        checkpoint(&seed("../worker/engine/tests/data/tiny/model.pth"));
        tokenizer(&seed("models/tokenizer.json"));
        spec(&seed("specs/plain.toml"));
        assert!(qslm::spec_problems(std::str::from_utf8(&seed("specs/edge.toml")).unwrap()).is_empty());
        candidate(&candidate_text());
        let [artifact, coded] = &codes_files()[..] else { panic!("two seeds") };
        codes(artifact);
        assert_eq!(rans::decode(&coded[2..], 200, 7).map(|codes| codes.len()), Ok(1400));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_broken_checkpoint_is_refused(
            data in any_of(vec![seed("../worker/engine/tests/data/tiny/model.pth"), seed("models/wikitext2-xs.safetensors")]),
        ) {
            checkpoint(&data);
        }

        #[test]
        fn broken_codes_are_refused(data in any_of(codes_files())) {
            codes(&data);
        }

        #[test]
        fn a_broken_tokenizer_is_refused(data in any_of(vec![seed("models/tokenizer.json"), WORLD.to_vec()])) {
            tokenizer(&data);
        }

        #[test]
        fn a_broken_spec_is_refused(data in any_of(vec![seed("specs/plain.toml"), seed("specs/edge.toml")])) {
            spec(&data);
        }

        #[test]
        fn a_broken_candidate_is_refused(data in any_of(vec![candidate_text()])) {
            candidate(&data);
        }

        #[test]
        fn a_broken_word_of_a_candidate_is_refused(data in any_of(vec![
            br#"{"blocks.*": "int4:symmetric:channel", "emb.weight": "sign", "membrane:*": "fixed8:2"}"#.to_vec(),
            b"emb.weight=sign activation:head.weight=int8:affine:dynamic vectors=f16".to_vec(),
        ])) {
            candidate(&data);
        }

        #[test]
        fn a_broken_message_is_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
            wire(&data);
        }
    }
}
