//! Candidates as people write them down: names and patterns with their schemes.
//!
//! ```text
//! {"blocks.*": "int4:symmetric:channel", "blocks.0.*": "int8:symmetric:channel", "emb.weight": "sign"}
//! emb.weight=sign blocks.0.att.key.weight=int4:symmetric:channel vectors=f16
//! ```
//!
//! Either JSON, or words as in the column `schemes` of an export, of which the last one about a name counts. `*` stands for
//! any text. Where several patterns fit, the longest one counts; what none fits stays float. Besides matrices there are
//! `vectors`, `activation:UNIT` and `membrane:POPULATION`. A line of an export is such a line, too: its `schemes` are what
//! counts. `name` is what people call the candidate, and decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::candidate::{Candidate, InvalidCandidate};
use qslm_common::network::Network;
use serde_json::Value;

/// Key of what people call a candidate.
const NAME: &str = "name";
/// Letters of such a name.
const LONGEST_NAME: usize = 64;

/// Names and patterns with their schemes.
type Patterns = BTreeMap<String, String>;

/// The candidate that a text describes: JSON, or words.
///
/// # Errors
/// Says what is wrong with it.
pub fn of_text(text: &str, network: &Network) -> Result<Candidate, String> {
    match text.trim_start().starts_with(['{', '[', '"']) {
        true => candidate(&serde_json::from_str(text).map_err(|error| error.to_string())?, network),
        false => from_schemes(text, network),
    }
}

/// The candidate that a value describes.
///
/// # Errors
/// Says what is wrong with it.
pub fn candidate(line: &Value, network: &Network) -> Result<Candidate, String> {
    let Value::Object(object) = line else {
        return Err("expected an object of names and schemes".to_owned());
    };
    let pair = |(name, scheme): (&String, &Value)| match scheme {
        Value::String(scheme) => Ok((name.clone(), scheme.clone())),
        other => Err(format!("{name:?}: {other}: expected a scheme in quotes")),
    };
    match object.get("schemes") {
        Some(Value::String(schemes)) => from_schemes(schemes, network),
        _ => {
            let schemes = object.iter().filter(|(key, _)| *key != NAME);
            from_patterns(&schemes.map(pair).collect::<Result<_, _>>()?, network)
        }
    }
}

/// What a value calls its candidate; empty if nothing.
///
/// # Errors
/// Says what is wrong with the name.
pub fn name(line: &Value) -> Result<String, String> {
    match line.get(NAME) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(name)) => match wrong_name(name) {
            Some(words) => Err(words),
            None => Ok(name.clone()),
        },
        Some(other) => Err(format!("{NAME:?}: {other}: expected a name in quotes")),
    }
}

/// What is wrong with a name, if anything.
pub(crate) fn wrong_name(name: &str) -> Option<String> {
    let is_fine = name.chars().count() <= LONGEST_NAME && !name.chars().any(char::is_control);
    let shown: String = name.chars().take(LONGEST_NAME).collect();
    let bound = format!("expected up to {LONGEST_NAME} letters on one line");
    (!is_fine).then(|| format!("{NAME:?}: {shown:?}: {bound}"))
}

/// The candidate of an export's column `schemes`.
///
/// # Errors
/// Says what is wrong with it.
pub fn from_schemes(schemes: &str, network: &Network) -> Result<Candidate, String> {
    let pair = |word: &str| match word.split_once('=') {
        Some((name, scheme)) => Ok((name.to_owned(), scheme.to_owned())),
        None => Err(format!("{word:?}: expected NAME=SCHEME")),
    };
    from_patterns(&schemes.split_whitespace().map(pair).collect::<Result<_, _>>()?, network)
}

fn from_patterns(patterns: &Patterns, network: &Network) -> Result<Candidate, String> {
    let units: Vec<String> = network.units().into_iter().map(|unit| unit.name).collect();
    let populations = network.populations();
    let mut names: Vec<String> = units.clone();
    names.push("vectors".to_owned());
    names.extend(units.iter().map(|unit| format!("codes:{unit}")));
    names.extend(units.iter().map(|unit| format!("coded_bytes:{unit}")));
    names.extend(units.iter().map(|unit| format!("activation:{unit}")));
    names.extend(populations.iter().map(|population| format!("membrane:{population}")));
    // A name stands for itself; only patterns have to be tried one by one.
    let known: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let wild: Vec<_> = patterns.iter().filter(|(pattern, _)| pattern.contains('*')).collect();
    for pattern in patterns.keys().filter(|pattern| !known.contains(pattern.as_str())) {
        if !names.iter().any(|name| fits(pattern, name)) {
            return Err(format!("{pattern:?} names nothing that this network has"));
        }
    }
    let scheme = |name: &str| {
        let fitting = wild.iter().copied().filter(|(pattern, _)| fits(pattern, name));
        let fitting = fitting.chain(patterns.get_key_value(name));
        fitting.max_by_key(|(pattern, _)| pattern.len()).map(|(_, scheme)| scheme.as_str())
    };
    let wrong = |name: &str, error: &dyn std::fmt::Display| format!("{name}: {error}");
    let mut candidate = Candidate::float(network);
    for unit in &units {
        let unit = unit.as_str();
        if let Some(text) = scheme(unit) {
            candidate = candidate.with([unit], text.parse().map_err(|error| wrong(unit, &error))?);
        }
        if let Some(text) = scheme(&format!("codes:{unit}")) {
            let artifact = text.parse().map_err(|error| wrong(unit, &error))?;
            candidate = candidate.with_codes([unit], Some(artifact));
        }
        if let Some(text) = scheme(&format!("coded_bytes:{unit}")) {
            let bytes = text.parse().map_err(|error| wrong(unit, &error))?;
            candidate = candidate.with_coded_bytes(unit, bytes);
        }
        if let Some(text) = scheme(&format!("activation:{unit}")) {
            let activation = text.parse().map_err(|error| wrong(unit, &error))?;
            candidate = candidate.with_activations([unit], Some(activation));
        }
    }
    for population in &populations {
        if let Some(text) = scheme(&format!("membrane:{population}")) {
            let membrane = text.parse().map_err(|error| wrong(population, &error))?;
            candidate = candidate.with_membranes([population.as_str()], Some(membrane));
        }
    }
    if let Some(text) = scheme("vectors") {
        candidate = candidate.with_vectors(text.parse().map_err(|error| wrong("vectors", &error))?);
    }
    match candidate.validate(network) {
        // Those are added by whoever calibrates.
        Ok(()) | Err(InvalidCandidate::NoCodes(_)) => Ok(candidate),
        Err(error) => Err(error.to_string()),
    }
}

/// True if a pattern stands for a name. A bare `*` means matrices, not everything else besides.
fn fits(pattern: &str, name: &str) -> bool {
    let (kind, rest) = name.split_once(':').unwrap_or(("", name));
    let (wanted, pattern) = pattern.split_once(':').unwrap_or(("", pattern));
    if kind != wanted || (rest == "vectors") != (pattern == "vectors") {
        return false;
    }
    let mut parts = pattern.split('*');
    let Some(mut left) = parts.next().and_then(|first| rest.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return left.is_empty() };
    for part in middle {
        match left.split_once(part) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
    fn the_longest_pattern_that_fits_counts_and_the_rest_stays_float() {
        let line = json!({
            "blocks.*": "int4:symmetric:channel",
            "blocks.1.*.weight": "int8:symmetric:channel",
            "blocks.1.att.key.weight": "int2:symmetric:tensor",
            "emb.weight": "sign",
            "membrane:*": "fixed8:2",
        });
        let candidate = candidate(&line, &NETWORK).unwrap();
        let scheme = |unit: &str| candidate.scheme(unit).to_string();
        assert_eq!(scheme("blocks.0.ffn.key.weight"), "int4:symmetric:channel");
        assert_eq!(scheme("blocks.1.ffn.key.weight"), "int8:symmetric:channel");
        assert_eq!(scheme("blocks.1.att.key.weight"), "int2:symmetric:tensor");
        assert_eq!((scheme("emb.weight"), scheme("head.weight")), ("sign".to_owned(), "f32".to_owned()));
        assert_eq!(candidate.membranes().count(), 4);
        assert_eq!((candidate.activations().count(), candidate.vectors().to_string()), (0, "f32".to_owned()));
    }

    #[test]
    fn what_an_export_says_of_a_candidate_is_that_candidate() {
        let written = Candidate::new(&NETWORK, |unit| {
            let scheme = if unit.name.starts_with("blocks.0") { "int3:affine:group8" } else { "f16" };
            scheme.parse().unwrap()
        });
        let schemes: Vec<String> =
            written.schemes().map(|(unit, scheme)| format!("{unit}={scheme}")).collect();
        let read = candidate(&json!({ "schemes": schemes.join(" "), "stage": "block" }), &NETWORK).unwrap();
        assert_eq!(read, written);
    }

    #[test]
    fn a_candidate_may_have_a_name_which_decides_nothing() {
        let line = json!({ "name": "idea 3", "head.weight": "f16" });
        assert_eq!(name(&line), Ok("idea 3".to_owned()));
        let unnamed = json!({ "head.weight": "f16" });
        assert_eq!(candidate(&line, &NETWORK), candidate(&unnamed, &NETWORK));
        assert_eq!(name(&unnamed), Ok(String::new()));
        assert_eq!(name(&json!({ "name": 3 })).unwrap_err(), "\"name\": 3: expected a name in quotes");
        for wrong in ["a\nb".to_owned(), "a".repeat(65)] {
            assert!(name(&json!({ "name": wrong })).unwrap_err().contains("expected up to 64 letters"));
        }
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |line| candidate(&line, &NETWORK).unwrap_err();
        assert!(wrong(json!({ "blocks.7.*": "f16" })).contains("\"blocks.7.*\" names nothing"));
        assert!(wrong(json!({ "head.weight": "int9:symmetric:channel" })).contains("head.weight: "));
        assert!(wrong(json!({ "head.weight": "sign" })).contains("head.weight"));
        assert!(wrong(json!({ "head.weight": 4 })).contains("expected a scheme in quotes"));
        assert!(wrong(json!([1])).contains("expected an object"));
        assert!(wrong(json!({ "schemes": "head.weight" })).contains("expected NAME=SCHEME"));
    }

    #[test]
    fn a_name_counts_as_the_pattern_that_it_is() {
        // Longer than the name, and it fits: the star stands for nothing.
        let line = json!({ "head.weight": "f16", "*head.weight*": "int4:symmetric:channel" });
        let scheme = |line| candidate(&line, &NETWORK).unwrap().scheme("head.weight").to_string();
        assert_eq!(scheme(line), "int4:symmetric:channel");
        assert_eq!(scheme(json!({ "head.weight": "f16", "head.weigh*": "int4:symmetric:channel" })), "f16");
    }
}
