//! Dialects: the names that other programs give the same tensors.
//!
//! Transformers writes RWKV-4 under words of its own, spikegpt-myelin calls the embedding by its whole name. What is told by
//! such names is also which member of the family a file holds; see [`super::super::recognise`].

use std::collections::BTreeMap;

/// Program whose names a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) enum Dialect {
    /// Transformers' `RwkvForCausalLM`.
    Transformers,
    /// spikegpt-myelin.
    Myelin,
}

/// Anchors: the embedding's name, by which a dialect is known.
const TRANSFORMERS: &str = "rwkv.embeddings.weight";
const MYELIN: &str = "embedding.weight";

/// Words of transformers, and what they are called here.
const WORDS: [(&str, &str); 7] = [
    ("embeddings", "emb"),
    ("pre_ln", "ln0"),
    ("attention", "att"),
    ("feed_forward", "ffn"),
    ("time_mix_key", "time_mix_k"),
    ("time_mix_value", "time_mix_v"),
    ("time_mix_receptance", "time_mix_r"),
];

impl Dialect {
    /// The dialect of a file's names, wrappers left out, and what stands before all of them.
    fn of<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Option<(Self, String)> {
        let before = |anchor: &str| {
            names.clone().find_map(|name| {
                let before = name.strip_suffix(anchor)?;
                (before.is_empty() || before.ends_with('.')).then(|| before.to_owned())
            })
        };
        let transformers = before(TRANSFORMERS).map(|before| (Self::Transformers, before));
        transformers.or_else(|| before(MYELIN).map(|before| (Self::Myelin, before)))
    }

    /// The name that a tensor has here.
    fn translate(self, name: &str, before: &str) -> String {
        let Some(own) = name.strip_prefix(before) else { return name.to_owned() };
        let own = match self {
            Self::Myelin if own == MYELIN => "emb.weight".to_owned(),
            Self::Myelin => own.to_owned(),
            Self::Transformers => {
                own.strip_prefix("rwkv.").unwrap_or(own).split('.').map(word).collect::<Vec<_>>().join(".")
            }
        };
        format!("{before}{own}")
    }
}

fn word(word: &str) -> &str {
    WORDS.iter().find(|(theirs, _)| *theirs == word).map_or(word, |(_, ours)| ours)
}

/// Names of tensors as they are called here, with the names in the file; and the dialect that they were in.
pub(super) fn translate(names: BTreeMap<String, String>) -> (BTreeMap<String, String>, Option<Dialect>) {
    match Dialect::of(names.keys()) {
        None => (names, None),
        Some((dialect, before)) => {
            let translated = |(name, file): (String, String)| (dialect.translate(&name, &before), file);
            (names.into_iter().map(translated).collect(), Some(dialect))
        }
    }
}

impl std::fmt::Display for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Transformers => "transformers",
            Self::Myelin => "spikegpt-myelin",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(names: &[&str]) -> (Vec<String>, Option<Dialect>) {
        let names = names.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
        let (names, dialect) = translate(names);
        (names.into_keys().collect(), dialect)
    }

    #[test]
    fn names_of_transformers_become_ours() {
        let (names, dialect) = translated(&[
            "head.weight",
            "rwkv.blocks.0.attention.time_mix_receptance",
            "rwkv.blocks.0.feed_forward.time_mix_key",
            "rwkv.blocks.0.pre_ln.bias",
            "rwkv.embeddings.weight",
            "rwkv.ln_out.weight",
        ]);
        assert_eq!(dialect, Some(Dialect::Transformers));
        assert_eq!(
            names,
            [
                "blocks.0.att.time_mix_r",
                "blocks.0.ffn.time_mix_k",
                "blocks.0.ln0.bias",
                "emb.weight",
                "head.weight",
                "ln_out.weight"
            ]
        );
    }

    #[test]
    fn the_embedding_of_myelin_becomes_ours_wherever_it_stands() {
        let (names, dialect) =
            translated(&["state_dict.embedding.weight", "state_dict.head.weight", "config"]);
        assert_eq!(dialect, Some(Dialect::Myelin));
        assert_eq!(names, ["config", "state_dict.emb.weight", "state_dict.head.weight"]);
        assert_eq!(translated(&["emb.weight"]), (vec!["emb.weight".to_owned()], None));
        assert_eq!(translated(&["some_embedding.weight"]).1, None);
    }
}
