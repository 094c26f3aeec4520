//! Candidates that people write down: a line of JSON each, names and patterns with their schemes.
//!
//! ```text
//! {"blocks.*": "int4:symmetric:channel", "blocks.0.*": "int8:symmetric:channel", "emb.weight": "sign"}
//! ```
//!
//! `name` is what people call the candidate. What a line means is told in [`qslm_search::written`].

use std::path::Path;

use qslm_common::candidate::Candidate;
use qslm_common::network::Network;
use qslm_search::{Problem, list, written};
use serde_json::Value;

use crate::exit::{Exit, Failure, Outcome};
use crate::input::read_text;

/// Candidates of a file, in its order.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    pub candidates: Vec<Candidate>,
    /// What people call each of them; empty for those without a name.
    pub names: Vec<String>,
}

/// Reads a file of candidates.
pub fn read(path: &Path, network: &Network) -> Outcome<Listed> {
    let text = read_text(path)?;
    let lines: Vec<_> = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    // Before a single one is made sense of: lists may be very long.
    let too_long = |error: Problem| Failure::new(Exit::Usage, format!("{}: {error}", path.display()));
    // None at all is told of the file.
    if let Some(problem) = list::wrong_count(lines.len()).filter(|_| !lines.is_empty()) {
        return Err(too_long(problem));
    }
    let (mut listed, mut bytes, mut wrong) = (Listed::default(), 0, Vec::new());
    for (number, line) in lines {
        let value = serde_json::from_str::<Value>(line).map_err(|error| error.to_string());
        let read = |value| Ok((written::name(&value)?, written::candidate(&value, network)?));
        let (name, candidate) = match value.and_then(read) {
            Ok(named) => named,
            Err(what) => {
                wrong.push(format!("line {}: {what}", number + 1));
                continue;
            }
        };
        bytes += candidate.encode().len();
        if let Some(problem) = list::too_large(bytes) {
            // The rest would only make it more.
            return Err(too_long(problem));
        }
        listed.candidates.push(candidate);
        listed.names.push(name);
    }
    if !wrong.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("{}: {}", path.display(), told(&wrong))));
    }
    match listed.candidates.is_empty() {
        true => Err(Failure::new(Exit::Usage, format!("{}: no candidates", path.display()))),
        false => Ok(listed),
    }
}

/// Lines that an error names.
const TOLD: usize = 10;

/// What is wrong with lines, on one line.
fn told(wrong: &[String]) -> String {
    let more = match wrong.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    wrong[..wrong.len().min(TOLD)].join("; ") + &more
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const NETWORK: Network = Network {
        vocabulary: 64,
        channels: 16,
        hidden: 64,
        blocks: 2,
        outputs: 64,
        binary_embedding: true,
        dynamics: qslm_common::network::Dynamics::SPIKEGPT,
    };

    #[test]
    fn every_line_that_is_wrong_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}\n{\"emb.weight\": \"int99\"}\n{\n{\"blok\": \"f32\"}\n").unwrap();
        let error = read(file.path(), &NETWORK).unwrap_err().to_string();
        for line in ["line 2: ", "; line 3: ", "; line 4: "] {
            assert!(error.contains(line), "{error}");
        }
        std::fs::write(file.path(), "{\n".repeat(12)).unwrap();
        let error = read(file.path(), &NETWORK).unwrap_err().to_string();
        assert!(error.ends_with("; and 2 more") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn a_list_that_is_too_long_is_refused_at_once_whatever_the_network() {
        let network = Network { blocks: 48, ..NETWORK };
        let mut names: Vec<String> = network.units().into_iter().map(|unit| unit.name).collect();
        names.retain(|name| name != "emb.weight");
        let weights = names.iter().map(|name| (name.clone(), "int4:symmetric:channel"));
        let activations = names.iter().map(|name| (format!("activation:{name}"), "int8:symmetric:dynamic"));
        let line = serde_json::to_string(&weights.chain(activations).collect::<BTreeMap<_, _>>()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let started = std::time::Instant::now();
        for (lines, words) in
            [(900, "expected at most 3000000;"), (1001, "1001 candidates: expected 1 to 1000")]
        {
            std::fs::write(file.path(), format!("{line}\n").repeat(lines)).unwrap();
            let error = read(file.path(), &network).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }
}
