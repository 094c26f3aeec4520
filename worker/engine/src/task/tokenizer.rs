//! The tokenizer of a checkpoint: a `tokenizer.json` of the `tokenizers` crate, or the vocabulary of RWKV World.

use std::panic::catch_unwind;
use std::path::Path;

use tokenizers::{ModelWrapper, Tokenizer};

use super::world::{self, World};
use crate::foreign;

/// A loaded tokenizer.
pub struct TokenizerFile {
    inner: Inner,
    /// Bound of its ids: one more than the largest that it may give.
    ids: u32,
}

/// Forms of a tokenizer.
enum Inner {
    Json(Box<Tokenizer>),
    World(World),
}

/// Error of a tokenizer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    /// A file that is no `tokenizer.json`.
    #[error("not a tokenizer: {0}")]
    Format(String),
    /// Dropout: words would be cut at random.
    #[error("model.dropout = {0}: ids would be random, another at every reading; set it to null")]
    Dropout(f32),
    /// Ids that the embedding has no row for.
    #[error("gives ids up to {largest}, but the embedding has only {vocabulary} rows")]
    Vocabulary {
        /// Largest id that it gives.
        largest: u32,
        /// Rows of the embedding.
        vocabulary: u32,
    },
}

impl TokenizerFile {
    /// Reads a `tokenizer.json`, or a `rwkv_vocab_*.txt`, for an embedding of `vocabulary` rows. Truncation and padding are done if the
    /// file asks for them: whoever submits takes them off before it is hashed, and workers compute what they
    /// are sent.
    ///
    /// # Errors
    /// [`TokenizerError`] says why it cannot be used.
    pub fn load(path: &Path, vocabulary: u32) -> Result<Self, TokenizerError> {
        let one_line = |error: tokenizers::Error| {
            let words = error.to_string();
            TokenizerError::Format(words.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let bytes = std::fs::read(path)?;
        if let Some(foreign) = foreign::recognise(&bytes) {
            return Err(TokenizerError::Format(format!("it is {}", foreign.what)));
        }
        if let Some(world) = std::str::from_utf8(&bytes).ok().and_then(World::read) {
            let world = world.map_err(TokenizerError::Format)?;
            let largest = world.largest();
            return Self::within(Inner::World(world), largest, vocabulary);
        }
        // The reader of `tokenizers` panics on some texts that are no JSON, down to a character or a number
        // that is none, and on some values that are no tokenizer's.
        serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|error| one_line(error.into()))?;
        let inner = catch_unwind(|| Tokenizer::from_bytes(&bytes))
            .map_err(|_| TokenizerError::Format("its values are not those of a tokenizer".to_owned()))?
            .map_err(one_line)?;
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && let Some(dropout) = bpe.dropout.filter(|dropout| *dropout != 0.0)
        {
            return Err(TokenizerError::Dropout(dropout));
        }
        let largest = inner.get_vocab(true).into_values().max();
        Self::within(Inner::Json(Box::new(inner)), largest, vocabulary)
    }

    /// The tokenizer with this largest id, if an embedding has a row for it.
    fn within(inner: Inner, largest: Option<u32>, vocabulary: u32) -> Result<Self, TokenizerError> {
        match largest {
            None => Err(TokenizerError::Format("it has no tokens".to_owned())),
            Some(largest) if largest >= vocabulary => Err(TokenizerError::Vocabulary { largest, vocabulary }),
            Some(largest) => Ok(Self { inner, ids: largest + 1 }),
        }
    }

    /// The ids of a piece of text, without any special tokens added around it. All are below the
    /// vocabulary that the tokenizer was loaded for.
    ///
    /// # Errors
    /// [`TokenizerError::Format`] if the tokenizer's own rules fail on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = match &self.inner {
            Inner::World(world) => return world.encode(text).map_err(TokenizerError::Format),
            Inner::Json(json) => json.encode_fast(text, false),
        };
        let encoding = encoding.map_err(|error| TokenizerError::Format(error.to_string()))?;
        let ids = encoding.get_ids();
        match ids.iter().find(|id| **id >= self.ids) {
            Some(id) => Err(TokenizerError::Vocabulary { largest: *id, vocabulary: self.ids }),
            None => Ok(ids.to_vec()),
        }
    }
}

/// Turns ids back into text, piece by piece: a piece comes once its characters are complete.
pub struct Decoder<'a> {
    stream: Stream<'a>,
}

/// Stream of a tokenizer's text.
enum Stream<'a> {
    Json(Box<JsonStream<'a>>),
    /// Bytes of a character that is not complete.
    World(&'a World, Vec<u8>),
}

type JsonStream<'a> = tokenizers::tokenizer::DecodeStream<
    'a,
    tokenizers::ModelWrapper,
    tokenizers::NormalizerWrapper,
    tokenizers::PreTokenizerWrapper,
    tokenizers::PostProcessorWrapper,
    tokenizers::DecoderWrapper,
>;

impl TokenizerFile {
    /// A decoder at the start of a text.
    pub fn decoder(&self) -> Decoder<'_> {
        let stream = match &self.inner {
            Inner::Json(json) => Stream::Json(Box::new(json.decode_stream(false))),
            Inner::World(world) => Stream::World(world, Vec::new()),
        };
        Decoder { stream }
    }
}

impl Decoder<'_> {
    /// Takes the next id; gives the text that it completes, if any.
    ///
    /// # Errors
    /// [`TokenizerError::Format`] if the tokenizer's own rules fail.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        match &mut self.stream {
            Stream::Json(stream) => {
                stream.step(id).map_err(|error| TokenizerError::Format(error.to_string()))
            }
            Stream::World(world, buffer) => {
                buffer.extend(world.bytes(id));
                Ok(world::complete(buffer))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str, vocabulary: u32) -> Result<TokenizerFile, TokenizerError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        TokenizerFile::load(file.path(), vocabulary)
    }

    const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
        "normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"?":7},"unk_token":"?"}}"#;

    #[test]
    fn words_become_ids() {
        assert_eq!(load(WORDS, 8).unwrap().encode("a b c").unwrap(), [0, 1, 7]);
    }

    #[test]
    fn the_vocabulary_of_rwkv_world_is_a_tokenizer_too() {
        let text = "1 'a' 1\n2 'b' 1\n3 'ab' 2\n4 b'\\xc3' 1\n5 b'\\xa9' 1\n";
        let world = load(text, 6).unwrap();
        assert_eq!(world.encode("aab\u{e9}").unwrap(), [1, 3, 4, 5]);
        let mut decoder = world.decoder();
        let pieces: Vec<_> = [1, 0, 4, 5].into_iter().map(|id| decoder.push(id).unwrap()).collect();
        assert_eq!(pieces, [Some("a".to_owned()), None, None, Some("\u{e9}".to_owned())]);
        assert!(load(text, 5).err().unwrap().to_string().contains("ids up to 5"));
        assert!(world.encode("c").is_err());
        assert_eq!(
            load("1 'a' 1\n2 'b' 7\n", 6).err().unwrap().to_string(),
            "not a tokenizer: line 2: expected ID 'TOKEN' BYTES"
        );
    }

    #[test]
    fn a_tokenizer_larger_than_the_embedding_is_refused() {
        let error = load(WORDS, 7).err().unwrap().to_string();
        assert_eq!(error, "gives ids up to 7, but the embedding has only 7 rows");
    }

    #[test]
    fn a_file_that_was_sent_is_applied_as_it_is() {
        let cuts = WORDS.replace(
            r#""truncation":null"#,
            r#""truncation":{"max_length":2,"strategy":"LongestFirst","stride":0,"direction":"Right"}"#,
        );
        let words = "experiments of earlier versions name such files, and their numbers stay what they were";
        assert_eq!(load(&cuts, 8).unwrap().encode("a b a").unwrap(), [0, 1], "{words}");
    }

    #[test]
    fn ids_that_would_be_random_are_refused_by_name() {
        let bpe = WORDS.replace(
            r#""type":"WordLevel","vocab":{"a":0,"b":1,"?":7},"unk_token":"?""#,
            r#""type":"BPE","dropout":DROP,"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]"#,
        );
        assert_ne!(bpe, WORDS);
        let error = load(&bpe.replace("DROP", "0.1"), 8).err().unwrap().to_string();
        assert_eq!(
            error,
            "model.dropout = 0.1: ids would be random, another at every reading; set it to null"
        );
        for harmless in ["null", "0.0"] {
            assert_eq!(load(&bpe.replace("DROP", harmless), 8).unwrap().encode("ab").unwrap(), [2]);
        }
    }

    #[test]
    fn what_is_no_tokenizer_is_refused_on_one_line() {
        // Cut within its decoder, which fuzzing found: the reader panicked.
        let cut = WORDS.replace("\"decoder\":null", "\"decoder\":{\"type");
        let cut = &cut[..cut.find("{\"type").unwrap() + 6];
        // Half a character in it, which fuzzing found as well.
        let half = WORDS.replace("\"decoder\":null", r#""decoder":{"type":"\uD800"}"#);
        for text in ["", "{}", "[1, 2]", "not json\nat all", cut, &half] {
            let error = load(text, 8).err().unwrap().to_string();
            assert!(error.starts_with("not a tokenizer: ") && !error.contains('\n'), "{error}");
            assert!(
                !error.ends_with("its values are not those of a tokenizer"),
                "the reader panicked on {text}"
            );
        }
    }
}
