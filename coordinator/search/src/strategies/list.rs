//! List: candidates that somebody wrote down, and the float model.

use std::collections::BTreeSet;

use qslm_common::candidate::{Candidate, CandidateId, InvalidCandidate};
use qslm_common::experiment::Experiment;
use serde::{Deserialize, Serialize};

use super::one_shot::OneShot;
use crate::{Key, Problem, Search, Strategy, written};

/// The most candidates that may be listed: all of them travel in one message.
pub const MAX_LISTED: usize = 1000;
/// The most bytes of the canonical texts of all listed candidates together.
pub const MAX_LISTED_BYTES: usize = 3_000_000;

/// Key of the list.
const CANDIDATES: &str = "strategy.candidates";

/// Listed candidates, and the float model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Canonical texts of candidates.
    pub candidates: Vec<String>,
    /// What people call them, in their order, empty where they have no word for it; absent if for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// A list that is empty or has too many candidates.
pub fn wrong_count(count: usize) -> Option<Problem> {
    let words = || format!("strategy.candidates: {count} candidates: expected 1 to {MAX_LISTED}");
    (!(1..=MAX_LISTED).contains(&count)).then(|| Problem::new(CANDIDATES, words()))
}

/// A list of too many bytes.
pub fn too_large(bytes: usize) -> Option<Problem> {
    let words = || {
        format!(
            "strategy.candidates: {bytes} bytes: expected at most {MAX_LISTED_BYTES}; make several lists of them"
        )
    };
    (bytes > MAX_LISTED_BYTES).then(|| Problem::new(CANDIDATES, words()))
}

impl List {
    /// List of candidates with what people call them, which is empty for those without a name.
    pub fn new(candidates: Vec<String>, names: Vec<String>) -> Self {
        let has_names = names.iter().any(|name| !name.is_empty());
        Self { candidates, names: if has_names { names } else { Vec::new() } }
    }

    /// Ids of the candidates, in their order, with their names.
    pub fn named(&self) -> impl Iterator<Item = (CandidateId, &str)> {
        // What is no candidate was refused with the experiment.
        let ids = self.candidates.iter().map(|text| CandidateId::of(text.as_bytes()));
        ids.zip(self.names.iter().map(String::as_str).chain(std::iter::repeat("")))
    }

    /// Names that are none, or are not as many as candidates.
    fn wrong_names(&self) -> Option<Problem> {
        let (names, candidates) = (self.names.len(), self.candidates.len());
        let words = match names {
            0 => None,
            _ if names != candidates => Some(format!("{names} names of {candidates} candidates")),
            _ => self.names.iter().find_map(|name| written::wrong_name(name)),
        };
        words.map(|words| Problem::new(CANDIDATES, format!("strategy.candidates: {words}")))
    }

    /// The first candidate, by its place from 1, that is none of the network's.
    fn wrong_candidate(&self, experiment: &Experiment) -> Option<Problem> {
        let known: BTreeSet<_> = experiment.space.codes.values().copied().collect();
        let check = |text: &String| {
            let candidate = Candidate::decode(text)?;
            candidate.validate(&experiment.network)?;
            // Artifacts are uploaded with an experiment, which has to know of them.
            match candidate.codes().find(|(_, artifact)| !known.contains(artifact)) {
                Some((unit, _)) => Err(InvalidCandidate::NoCodes(unit.to_owned())),
                None => Ok(()),
            }
        };
        let mut all = self.candidates.iter().enumerate();
        let (number, error): (usize, InvalidCandidate) =
            all.find_map(|(at, text)| Some((at + 1, check(text).err()?)))?;
        Some(Problem::new(CANDIDATES, format!("strategy.candidates: number {number}: {error}")))
    }
}

impl Strategy for List {
    const KIND: &'static str = "list";
    const ABOUT: &'static str = "Candidates that somebody wrote down. A line of JSON each: names or patterns with schemes, such \
                                 as {\"blocks.*\": \"int4:symmetric:channel\", \"emb.weight\": \"sign\"}; the longest \
                                 pattern that fits counts, what none fits stays float; \"name\" is what you call it. A line of an \
                                 export is one, too.";
    const KEYS: &'static [Key] =
        &[Key { name: "candidates", takes: "file", default: "required", means: "1 to 1000 lines" }];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let bytes = self.candidates.iter().map(String::len).sum();
        let problem = wrong_count(self.candidates.len()).or_else(|| too_large(bytes));
        let problem = problem.or_else(|| self.wrong_candidate(experiment));
        problem.or_else(|| self.wrong_names()).into_iter().collect()
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let float = std::iter::once(Candidate::float(&experiment.network));
        // What is no candidate was refused with the experiment.
        let listed = self.candidates.iter().filter_map(|text| Candidate::decode(text).ok());
        OneShot::start(Self::KIND, float.chain(listed).collect())
    }

    fn caption(&self) -> String {
        format!("{} listed candidates", self.candidates.len())
    }
}
