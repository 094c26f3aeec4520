//! Tells: the generations of a search whose candidates come from outside.
//!
//! A tell is checked once, when it comes in, and kept as the canonical texts of its candidates. From there on it is like a
//! parameter of the experiment that came later: the same tells and results lead to the same front.

use std::collections::BTreeSet;

use qslm_common::candidate::{Candidate, InvalidCandidate};
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::scheme::Scheme;

use crate::list::{MAX_LISTED, MAX_LISTED_BYTES};
use crate::written;

/// The most bytes of the canonical texts of all that one experiment is told: they are kept in memory.
pub const MAX_TOLD_BYTES: usize = 64_000_000;

/// Tell: one generation that somebody outside proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tell {
    /// Canonical texts of the candidates.
    pub candidates: Vec<String>,
    /// True if it is the last one, after which the search ends.
    pub last: bool,
}

/// Reason why a tell is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTell {
    /// No candidate, and more is to come.
    #[error("0 candidates: expected 1 to {MAX_LISTED}, or none in the last tell")]
    None,
    /// Too many candidates.
    #[error("{0} candidates: expected at most {MAX_LISTED}; make several tells of them")]
    TooMany(usize),
    /// Too many bytes.
    #[error("{0} bytes: expected at most {MAX_LISTED_BYTES}; make several tells of them")]
    TooLarge(usize),
    /// A text that is no candidate of the experiment, by its place from 1.
    #[error("number {number}: {reason}")]
    Candidate {
        /// Place of the candidate, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl Tell {
    /// Reads the candidates of a tell, each as [`written::of_text`] does.
    ///
    /// # Errors
    /// [`InvalidTell`] names what is wrong, and where.
    pub fn read(texts: &[String], last: bool, experiment: &Experiment) -> Result<Self, InvalidTell> {
        match texts.len() {
            0 if !last => return Err(InvalidTell::None),
            count if count > MAX_LISTED => return Err(InvalidTell::TooMany(count)),
            _ => {}
        }
        let may_be = MayBe::new(experiment);
        let (mut candidates, mut bytes) = (Vec::new(), 0);
        for (index, text) in texts.iter().enumerate() {
            let candidate = may_be.read(text);
            let candidate =
                candidate.map_err(|reason| InvalidTell::Candidate { number: index + 1, reason })?;
            let text = candidate.encode();
            bytes += text.len();
            if bytes > MAX_LISTED_BYTES {
                return Err(InvalidTell::TooLarge(bytes));
            }
            candidates.push(text);
        }
        Ok(Self { candidates, last })
    }

    /// Candidates, in their order.
    pub fn decode(&self) -> impl Iterator<Item = Candidate> {
        // What is no candidate was refused when it was told.
        self.candidates.iter().filter_map(|text| Candidate::decode(text).ok())
    }

    /// Bytes of its texts.
    pub fn bytes(&self) -> usize {
        self.candidates.iter().map(String::len).sum()
    }
}

/// What candidates of an experiment may be, beyond what fits its network: an artifact cannot be handed in with a tell, nor
/// what codes take be counted.
struct MayBe<'a> {
    experiment: &'a Experiment,
    /// Units with the schemes of the space, whose codes are calibrated and counted where that is asked for.
    known: BTreeSet<(String, Scheme)>,
}

impl<'a> MayBe<'a> {
    fn new(experiment: &'a Experiment) -> Self {
        let of_space = experiment.space.unit_schemes(&experiment.network);
        Self { experiment, known: of_space.map(|(unit, scheme)| (unit.name, scheme)).collect() }
    }

    fn read(&self, text: &str) -> Result<Candidate, String> {
        let Experiment { network, space, .. } = self.experiment;
        let mut candidate = written::of_text(text, network)?;
        for (unit, scheme) in candidate.clone().schemes() {
            let counted = space.is_coded() && matches!(scheme, Scheme::Integer { .. });
            if (counted || scheme.is_calibrated()) && !self.known.contains(&(unit.to_owned(), scheme)) {
                let what = if scheme.is_calibrated() { "are calibrated" } else { "are counted" };
                return Err(format!(
                    "unit {unit}: {scheme}: codes {what} under the schemes of the space alone"
                ));
            }
            if scheme.is_calibrated() && candidate.codes_of(unit).is_none() {
                candidate = candidate.with_codes([unit], space.codes.get(unit).copied());
            }
        }
        candidate.validate(network).map_err(|error| error.to_string())?;
        let is_unknown = |artifact: &ContentHash| !space.codes.values().any(|known| known == artifact);
        let unknown = candidate.codes().find(|(_, artifact)| is_unknown(artifact));
        match unknown.map(|(unit, _)| InvalidCandidate::NoCodes(unit.to_owned())) {
            Some(error) => Err(error.to_string()),
            None => Ok(candidate),
        }
    }
}

#[cfg(test)]
mod tests {
    use qslm_testing::experiment;

    use super::*;
    use crate::External;

    fn read(texts: &[&str], last: bool) -> Result<Tell, InvalidTell> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Tell::read(&texts, last, &experiment(External {}))
    }

    #[test]
    fn candidates_are_told_in_json_or_in_words() {
        let json = r#"{"blocks.*": "int4:symmetric:tensor", "emb.weight": "sign"}"#;
        let tell = read(&[json, "emb.weight=sign head.weight=int8:symmetric:tensor", ""], false).unwrap();
        let told: Vec<Candidate> = tell.decode().collect();
        assert_eq!(told[0].scheme("blocks.0.att.key.weight").to_string(), "int4:symmetric:tensor");
        assert_eq!(told[1].scheme("head.weight").to_string(), "int8:symmetric:tensor");
        assert_eq!(told[2], Candidate::float(&experiment(External {}).network));
        assert_eq!(tell.bytes(), told.iter().map(|candidate| candidate.encode().len()).sum::<usize>());
    }

    #[test]
    fn what_cannot_be_told_is_refused_with_its_place_and_bound() {
        let refused = |texts: &[&str], last| read(texts, last).unwrap_err().to_string();
        assert_eq!(refused(&[], false), "0 candidates: expected 1 to 1000, or none in the last tell");
        assert_eq!(read(&[], true).map(|tell| tell.candidates), Ok(Vec::new()));
        let many = vec![""; 1001];
        let words = "1001 candidates: expected at most 1000; make several tells of them";
        assert_eq!(refused(&many, false), words);
        let words = "number 2: \"heed.weight\" names nothing that this network has";
        assert_eq!(refused(&["", "heed.weight=f16"], false), words);
        let calibrated = refused(&["head.weight=int4:symmetric:tensor:gptq"], false);
        assert_eq!(
            calibrated,
            "number 1: unit head.weight: int4:symmetric:tensor:gptq: codes are calibrated under the schemes of \
             the space alone"
        );
        assert!(refused(&["{"], false).starts_with("number 1: EOF"), "{}", refused(&["{"], false));
    }
}
