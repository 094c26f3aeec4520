//! The canonical text of a candidate: what travels, what is stored and what is hashed; there is no second
//! form.
//!
//! A header, a line per unit in name order, then one for the one-dimensional parameters, then a line per unit whose
//! codes an artifact holds, then a line per quantized activation, then a line per quantized membrane; what has no
//! line is float, or follows from the weights. Only canonical texts
//! are read, so that a candidate has one text and one id. A later version adds lines; absent lines keep old
//! ids.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};
use std::str::FromStr;

use super::{Candidate, Held, InvalidCandidate};
use crate::hash::{ContentHash, named_hash};
use crate::scheme::{InvalidScheme, Scheme};

/// First line of the canonical encoding. A later version adds lines, it never changes these.
pub(super) const HEADER: &str = "qslm candidate 1";

/// First words of the line of one-dimensional parameters: `vectors all SCHEME`.
const VECTORS: [&str; 2] = ["vectors", "all"];
/// Words around the unit in the line of codes that an artifact holds: `weights UNIT from HASH`, with the bytes that they
/// take entropy-coded after it where nothing else says so.
const WEIGHTS: [&str; 2] = ["weights", "from"];
/// First word of the line of a quantized activation: `activation UNIT SCHEME`.
const ACTIVATION: &str = "activation";
/// First word of the line of a quantized membrane: `membrane POPULATION SCHEME`.
const MEMBRANE: &str = "membrane";

named_hash! {
    /// Candidate id: the hash of a candidate's canonical text.
    CandidateId
}

impl Candidate {
    /// Id: the hash of the canonical text.
    pub fn id(&self) -> CandidateId {
        CandidateId::of(self.encode().as_bytes())
    }

    /// The canonical encoding: the header, then the lines of units, activations and membranes.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(64 * (1 + self.schemes.len()));
        text.extend([HEADER, "\n"]);
        // Writing to a string does not fail.
        let line = |text: &mut String, start: &[&str], scheme: &dyn Display| {
            start.iter().for_each(|word| text.extend([word, " "]));
            let _ = writeln!(text, "{scheme}");
        };
        // Units share few schemes, and a scheme takes longer to write than to copy.
        let mut written: Vec<(Scheme, std::ops::Range<usize>)> = Vec::new();
        for (unit, scheme) in self.schemes() {
            text.extend([unit, " "]);
            if let Some((_, range)) = written.iter().find(|(known, _)| *known == scheme) {
                text.extend_from_within(range.clone());
            } else {
                let start = text.len();
                let _ = write!(text, "{scheme}");
                written.push((scheme, start..text.len()));
            }
            text.push('\n');
        }
        if self.vectors != Scheme::Float {
            line(&mut text, &VECTORS, &self.vectors);
        }
        for (unit, held) in &self.codes {
            line(&mut text, &[WEIGHTS[0], unit, WEIGHTS[1]], held);
        }
        for (unit, scheme) in &self.activations {
            line(&mut text, &[ACTIVATION, unit], scheme);
        }
        for (population, scheme) in &self.membranes {
            line(&mut text, &[MEMBRANE, population], scheme);
        }
        text
    }

    /// Reads a canonical encoding back. Only canonical texts are taken, so `encode` gives the same
    /// bytes again.
    ///
    /// # Errors
    /// [`InvalidCandidate`] names the line or unit.
    pub fn decode(text: &str) -> Result<Self, InvalidCandidate> {
        let body = text.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let body = body.ok_or(InvalidCandidate::Header)?;
        if !body.is_empty() && !body.ends_with('\n') {
            return Err(InvalidCandidate::Line(1 + body.split('\n').count()));
        }
        let mut candidate = Self::empty();
        let mut units: Vec<String> = Vec::new();
        for (index, line) in body.split_terminator('\n').enumerate() {
            let number = index + 2;
            let words: Vec<&str> = line.split(' ').collect();
            let (activations, membranes) = (&mut candidate.activations, &mut candidate.membranes);
            let (codes, inner) = (&mut candidate.codes, activations.is_empty() && membranes.is_empty());
            let inside = codes.is_empty() && inner;
            match words[..] {
                [unit, scheme] if inside && candidate.vectors == Scheme::Float => {
                    in_order(units.last(), unit, number)?;
                    candidate.schemes.push(canonical(unit, scheme, number)?);
                    units.push(unit.to_owned());
                }
                [first, second, scheme] if [first, second] == VECTORS && inside => {
                    let new = canonical(first, scheme, number)?;
                    // Once only, and only where there is something to say.
                    if new == Scheme::Float || candidate.vectors != Scheme::Float {
                        return Err(InvalidCandidate::Line(number));
                    }
                    candidate.vectors = new;
                }
                [first, unit, second, hash, ref bytes @ ..]
                    if [first, second] == WEIGHTS && inner && bytes.len() <= 1 =>
                {
                    in_order(codes.last_key_value().map(|(last, _)| last), unit, number)?;
                    let held = Held::read(hash, bytes.first().copied());
                    let held = held.filter(|held| held.bytes.is_none() || unit != super::VECTORS);
                    codes.insert(unit.to_owned(), held.ok_or(InvalidCandidate::Line(number))?);
                }
                [ACTIVATION, unit, scheme] if membranes.is_empty() => {
                    append(activations, unit, scheme, number)?;
                }
                [MEMBRANE, population, scheme] => append(membranes, population, scheme, number)?,
                _ => return Err(InvalidCandidate::Line(number)),
            }
        }
        candidate.units = units.into();
        Ok(candidate)
    }
}

impl Display for Held {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.artifact)?;
        self.bytes.map_or(Ok(()), |bytes| write!(f, " {bytes}"))
    }
}

impl Held {
    /// Reads the canonical words; `None` if these are others.
    fn read(hash: &str, bytes: Option<&str>) -> Option<Self> {
        let artifact = hash.parse::<ContentHash>().ok().filter(|read| read.to_string() == hash)?;
        let number = |text: &str| text.parse::<u64>().ok().filter(|read| read.to_string() == text);
        let bytes = match bytes {
            None => None,
            Some(text) => Some(number(text)?),
        };
        Some(Self { artifact, bytes })
    }
}

/// Adds what a line says, which has to be in name order.
fn append<T>(
    map: &mut BTreeMap<String, T>,
    name: &str,
    text: &str,
    line: usize,
) -> Result<(), InvalidCandidate>
where
    T: FromStr<Err = InvalidScheme> + ToString,
{
    in_order(map.last_key_value().map(|(last, _)| last), name, line)?;
    map.insert(name.to_owned(), canonical(name, text, line)?);
    Ok(())
}

/// Refuses a name that is none, or does not come after `last`.
fn in_order(last: Option<&String>, name: &str, line: usize) -> Result<(), InvalidCandidate> {
    let later = last.is_none_or(|last| last.as_str() < name);
    if later && !name.is_empty() { Ok(()) } else { Err(InvalidCandidate::Line(line)) }
}

/// The scheme of `name`, in the words that `encode` writes: `int04` parses, but is not canonical.
fn canonical<T>(name: &str, text: &str, line: usize) -> Result<T, InvalidCandidate>
where
    T: FromStr<Err = InvalidScheme> + ToString,
{
    let scheme: T =
        text.parse().map_err(|error| InvalidCandidate::Scheme { unit: name.to_owned(), error })?;
    if scheme.to_string() == text { Ok(scheme) } else { Err(InvalidCandidate::Line(line)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{TINY, uniform};
    use super::*;

    #[test]
    fn the_encoding_is_a_line_per_unit_and_its_hash_never_changes() {
        let text = uniform("int4:symmetric:channel").encode();
        assert!(text.starts_with("qslm candidate 1\nblocks.0.att.key.weight int4:symmetric:channel\n"));
        assert_eq!(text.lines().count(), 1 + 30);
        // A changed hash orphans every stored result: change HEADER and the store's version with it.
        assert_eq!(
            Candidate::decode("qslm candidate 1\n").unwrap().id(),
            CandidateId::of(b"qslm candidate 1\n")
        );
    }

    #[test]
    fn decoding_takes_canonical_texts_only() {
        let candidate = uniform("int3:affine:group64");
        assert_eq!(Candidate::decode(&candidate.encode()), Ok(candidate));
        let decode = |text: &str| Candidate::decode(text).unwrap_err();
        assert_eq!(decode("a f32\n"), InvalidCandidate::Header);
        assert_eq!(decode("qslm candidate 1\na f32"), InvalidCandidate::Line(2));
        assert_eq!(decode("qslm candidate 1\nb f32\na f32\n"), InvalidCandidate::Line(3));
        assert_eq!(decode("qslm candidate 1\na f32\na f32\n"), InvalidCandidate::Line(3));
        assert_eq!(decode("qslm candidate 1\na int04:affine:group64\n"), InvalidCandidate::Line(2));
        assert_eq!(decode("qslm candidate 1\na int4:affine:tensor:nearest\n"), InvalidCandidate::Line(2));
        assert_eq!(decode("qslm candidate 1\nmembrane a fixed8:1\nb f32\n"), InvalidCandidate::Line(3));
        assert_eq!(
            decode("qslm candidate 1\nactivation a int8:affine:static:1.0:2\n"),
            InvalidCandidate::Line(2)
        );
        assert!(matches!(
            decode("qslm candidate 1\na int9:affine:tensor\n"),
            InvalidCandidate::Scheme { .. }
        ));
    }

    #[test]
    fn activations_and_membranes_are_lines_of_their_own() {
        let plain = uniform("int4:symmetric:channel");
        let more = plain
            .clone()
            .with_activations(["head.weight"], "int8:affine:static:-1.5:3".parse().ok())
            .with_activations(["blocks.0.att.key.weight"], "int6:symmetric:dynamic".parse().ok())
            .with_membranes(["blocks.0.lif1"], "fixed8:1".parse().ok());
        let text = more.encode();
        let added = text.strip_prefix(&plain.encode()).unwrap();
        assert_eq!(
            added,
            "activation blocks.0.att.key.weight int6:symmetric:dynamic\n\
             activation head.weight int8:affine:static:-1.5:3\nmembrane blocks.0.lif1 fixed8:1\n"
        );
        assert_eq!(Candidate::decode(&text), Ok(more.clone()));
        assert_eq!(more.validate(&TINY), Ok(()));
        let vectors = more.clone().with_vectors("int8:affine:tensor".parse().unwrap());
        let text = vectors.encode();
        assert!(text.contains("\nvectors all int8:affine:tensor\nactivation "), "{text}");
        assert_eq!(Candidate::decode(&text), Ok(vectors));
        let calibrated = more
            .clone()
            .with(["head.weight"], "int3:full:channel:gptq".parse().unwrap())
            .with_codes(["head.weight"], Some(ContentHash::of(b"codes")));
        let text = calibrated.encode();
        let line = format!("\nweights head.weight from {}\nactivation ", ContentHash::of(b"codes"));
        assert!(text.contains(&line), "{text}");
        assert_eq!(Candidate::decode(&text), Ok(calibrated.clone()));
        let upper = text.replace(&ContentHash::of(b"codes").to_string(), "AB");
        assert!(matches!(Candidate::decode(&upper), Err(InvalidCandidate::Line(_))));
        let coded =
            calibrated.clone().with_coded_bytes("head.weight", 1234).with_coded_bytes("emb.weight", 5);
        assert_eq!(coded.coded_bytes().collect::<Vec<_>>(), [("head.weight", 1234)]);
        assert_eq!(coded.encode().replace(" 1234\n", "\n"), calibrated.encode());
        assert_eq!(Candidate::decode(&coded.encode()), Ok(coded.clone()));
        assert_eq!(calibrated.patch_from(&coded), {
            let codes = vec![("head.weight".to_owned(), calibrated.codes.get("head.weight").copied())];
            crate::candidate::Patch { codes, ..calibrated.patch_from(&calibrated) }
        });
        for wrong in ["01234", "1234 5", "-1", ""] {
            let text = coded.encode().replace(" 1234\n", &format!(" {wrong}\n"));
            assert!(matches!(Candidate::decode(&text), Err(InvalidCandidate::Line(_))), "{wrong}");
        }
        let of_vectors = coded.encode().replace("weights head.weight", "weights vectors");
        assert!(matches!(Candidate::decode(&of_vectors), Err(InvalidCandidate::Line(_))));
        let back = more.with_activations(["head.weight", "blocks.0.att.key.weight"], None);
        assert_eq!(back.with_membranes(["blocks.0.lif1"], None), plain);
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(text in "(qslm candidate 1\n)?([a-c] (f32|sign|int[2-9]:affine:tensor)\n?){0,4}(vectors all (f16|f32|int8:affine:tensor)\n){0,2}(activation [ab] int[2-9]:affine:(dynamic|static:-?[012]:1)\n){0,2}(membrane [ab] fixed8:[0-9]\n){0,2}") {
            if let Ok(candidate) = Candidate::decode(&text) {
                prop_assert_eq!(candidate.encode(), text);
            }
        }
    }
}
