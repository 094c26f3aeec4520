//! Data sets: independent sequences of tokens, with what is scored in each.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;

use super::tokenizer::{TokenizerError, TokenizerFile};

/// The sequences of a task, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dataset {
    pub(super) tokens: Vec<u32>,
    pub(super) sequences: Vec<Sequence>,
}

/// One sequence: a run of tokens that enters the network from a fresh state.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sequence {
    /// The tokens that enter.
    pub(super) input: Range<usize>,
    /// The predictions that are scored.
    pub(super) target: Target,
}

/// The predictions of a sequence that are scored.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// The next token, at these positions of the data.
    NextToken(Range<usize>),
    /// The class of the whole sequence.
    Label(usize),
    /// Which of these answers follows it.
    Answers {
        /// The answers.
        answers: Vec<Answer>,
        /// Index of the right one.
        right: usize,
    },
}

/// Answer that may follow the context of a question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// Its tokens in the data.
    pub(super) tokens: Range<usize>,
    /// What its log-likelihood is divided by before answers are compared: its bytes, or 1.
    pub(super) weight: f64,
}

/// Error of a file that is no data for a task.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    /// A line that is not text.
    #[error("line {0} is not UTF-8")]
    Encoding(usize),
    /// Too little text to predict anything.
    #[error("{0} tokens: at least 2 are needed to predict one")]
    Short(usize),
    /// No sentence at all.
    #[error("no sentences: expected lines of `sentence TAB label`")]
    NoSentences,
    /// A line without a tab.
    #[error("line {0} has no TAB: expected `sentence TAB label`")]
    NoLabel(usize),
    /// A label that the head has no row for.
    #[error("line {line} has label {label:?}: expected 0 to {}", classes - 1)]
    Label {
        /// Line number, from 1.
        line: usize,
        /// The text that stands there.
        label: String,
        /// Rows of the head.
        classes: u32,
    },
    /// A sentence that becomes no tokens.
    #[error("line {0} has no words before its label")]
    EmptySentence(usize),
    /// No question at all.
    #[error("no questions: expected lines of {{\"context\": .., \"choices\": [..], \"label\": 0}}")]
    NoQuestions,
    /// A line that is no question.
    #[error("line {line}: {words}")]
    Question {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        words: String,
    },
    /// A token id that the embedding has no row for.
    #[error("token {token} in sequence {sequence}: the embedding has {vocabulary} rows")]
    Token {
        /// The id.
        token: i64,
        /// Row of the tensor, from 0.
        sequence: usize,
        /// Rows of the embedding.
        vocabulary: u32,
    },
    /// The tokenizer failed on a line.
    #[error("line {line}: {error}")]
    Tokenizer {
        /// Line number, from 1.
        line: usize,
        /// The error of the tokenizer.
        #[source]
        error: TokenizerError,
    },
}

impl Dataset {
    /// Cuts a text into windows. Every token but the first is predicted once: by all positions of the
    /// first window, then by the last `stride` positions of each (fewer in the last one).
    ///
    /// # Errors
    /// [`DataError::Short`] for fewer than two tokens.
    pub fn windows(
        tokens: Vec<u32>,
        window: usize,
        stride: usize,
        most: Option<u32>,
    ) -> Result<Self, DataError> {
        let predicted = tokens.len().saturating_sub(1);
        if predicted == 0 {
            return Err(DataError::Short(tokens.len()));
        }
        let mut sequences = Vec::new();
        let (mut start, mut scored) = (0, 0);
        while scored < predicted && most.is_none_or(|most| sequences.len() < most as usize) {
            let end = (start + window).min(predicted);
            sequences.push(Sequence { input: start..end, target: Target::NextToken(scored..end) });
            scored = end;
            start += stride;
        }
        Ok(Self { tokens, sequences })
    }

    /// Sequences given as rows of token ids; each row predicts its own tokens but the first.
    ///
    /// # Errors
    /// [`DataError::Token`] for an id outside `0..vocabulary`, [`DataError::Short`] for rows of one token.
    pub fn rows(rows: &[Vec<i64>], vocabulary: u32) -> Result<Self, DataError> {
        let mut tokens = Vec::new();
        let mut sequences = Vec::new();
        for (sequence, row) in rows.iter().enumerate() {
            if row.len() < 2 {
                return Err(DataError::Short(row.len()));
            }
            let start = tokens.len();
            for token in row {
                let valid = u32::try_from(*token).ok().filter(|token| *token < vocabulary);
                tokens.push(valid.ok_or(DataError::Token { token: *token, sequence, vocabulary })?);
            }
            let input = start..tokens.len();
            let target = Target::NextToken(start..input.end - 1);
            sequences.push(Sequence { input, target });
        }
        if sequences.is_empty() {
            return Err(DataError::Short(0));
        }
        Ok(Self { tokens, sequences })
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// True if there are no sequences; never so for a loaded data set.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Processed tokens over all sequences: all that enter the network.
    pub fn positions(&self) -> u64 {
        let entering = |sequence: &Sequence| match &sequence.target {
            Target::NextToken(_) | Target::Label(_) => sequence.input.len(),
            Target::Answers { answers, .. } => {
                sequence.input.len() + answers.iter().map(|answer| answer.tokens.len() - 1).sum::<usize>()
            }
        };
        self.sequences.iter().map(|sequence| entering(sequence) as u64).sum()
    }

    /// Scored tokens over all sequences: those that are predicted; 0 where sentences are classified or questions answered.
    pub fn predicted(&self) -> u64 {
        let predicted = |sequence: &Sequence| match &sequence.target {
            Target::NextToken(scored) => scored.len() as u64,
            Target::Label(_) | Target::Answers { .. } => 0,
        };
        self.sequences.iter().map(predicted).sum()
    }

    /// Occurrences of every token of a vocabulary among those that enter the network.
    pub fn token_counts(&self, vocabulary: u32) -> Vec<u64> {
        let mut counts = vec![0; vocabulary as usize];
        let tokens = self.sequences.iter().flat_map(|sequence| &self.tokens[sequence.input.clone()]);
        tokens.filter_map(|token| usize::try_from(*token).ok()).for_each(|token| {
            if let Some(count) = counts.get_mut(token) {
                *count += 1;
            }
        });
        counts
    }

    /// All tokens in their order, whatever sequences they are cut into.
    pub fn all_tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that enter the network, `[tokens]` of each sequence, in their order.
    pub fn inputs(&self) -> impl Iterator<Item = &[u32]> {
        self.sequences.iter().map(|sequence| &self.tokens[sequence.input.clone()])
    }

    /// Sentences with their classes, `[tokens]` each, in their order; none if the data is text.
    pub fn sentences(&self) -> impl Iterator<Item = (&[u32], u32)> {
        self.sequences.iter().filter_map(|sequence| match sequence.target {
            Target::Label(class) => Some((&self.tokens[sequence.input.clone()], class as u32)),
            Target::NextToken(_) | Target::Answers { .. } => None,
        })
    }

    /// Keeps the first `most` sequences.
    pub fn truncate(&mut self, most: usize) {
        self.sequences.truncate(most);
    }

    pub(super) fn sequence(&self, index: usize) -> &Sequence {
        &self.sequences[index]
    }

    pub(super) fn tokens(&self, range: Range<usize>) -> &[u32] {
        &self.tokens[range]
    }
}

/// Calls `each` with every line and its number from 1, the newline kept.
pub(super) fn for_each_line(
    path: &Path,
    mut each: impl FnMut(usize, &str) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).map_err(|_| DataError::Encoding(number))?;
        if !each(number, text)? {
            break;
        }
    }
    Ok(())
}

/// Encodes each line with its newline on its own and joins the ids, until there are `needed` of them: what
/// follows would not change them, because no line is encoded with another.
pub(super) fn read_text(
    path: &Path,
    tokenizer: &TokenizerFile,
    needed: Option<u64>,
) -> Result<Vec<u32>, DataError> {
    let mut tokens = Vec::new();
    for_each_line(path, |line, text| {
        tokens.extend(tokenizer.encode(text).map_err(|error| DataError::Tokenizer { line, error })?);
        Ok(needed.is_none_or(|needed| (tokens.len() as u64) < needed))
    })?;
    Ok(tokens)
}

/// Reads `sentence TAB label` lines; empty lines are skipped.
pub(super) fn read_sentences(
    path: &Path,
    tokenizer: &TokenizerFile,
    classes: u32,
    most: Option<u32>,
) -> Result<Dataset, DataError> {
    let mut data = Dataset::default();
    for_each_line(path, |line, text| {
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Ok(true);
        }
        let (sentence, label) = text.rsplit_once('\t').ok_or(DataError::NoLabel(line))?;
        let class = label.parse::<u32>().ok().filter(|class| *class < classes);
        let class = class.ok_or_else(|| DataError::Label { line, label: label.to_owned(), classes })?;
        let start = data.tokens.len();
        data.tokens.extend(tokenizer.encode(sentence).map_err(|error| DataError::Tokenizer { line, error })?);
        let input = start..data.tokens.len();
        if input.is_empty() {
            return Err(DataError::EmptySentence(line));
        }
        data.sequences.push(Sequence { input, target: Target::Label(class as usize) });
        Ok(most.is_none_or(|most| data.sequences.len() < most as usize))
    })?;
    if data.sequences.is_empty() { Err(DataError::NoSentences) } else { Ok(data) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_common::network::Network;
    use qslm_common::task::Task;

    use super::*;

    proptest! {
        #[test]
        fn every_token_but_the_first_is_predicted_once(len in 2usize..200, window in 1usize..40, stride in 1usize..40) {
            let stride = stride.min(window);
            let data = Dataset::windows((0..len as u32).collect(), window, stride, None).unwrap();
            let mut next = 0;
            for (index, sequence) in data.sequences.iter().enumerate() {
                let Target::NextToken(scored) = &sequence.target else { unreachable!() };
                prop_assert_eq!(scored.start, next);
                prop_assert!(!scored.is_empty() && scored.start >= sequence.input.start);
                prop_assert_eq!(scored.end, sequence.input.end);
                prop_assert!(sequence.input.len() <= window);
                prop_assert!(index == 0 || scored.len() <= stride);
                next = scored.end;
            }
            prop_assert_eq!(next, len - 1);
        }
    }

    #[test]
    fn a_number_of_windows_stops_early() {
        let data = Dataset::windows((0..1000).collect(), 128, 128, Some(3)).unwrap();
        assert_eq!((data.len(), data.positions()), (3, 384));
    }

    #[test]
    fn no_more_of_a_text_is_read_than_its_windows_take() {
        let tokenizer = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Whitespace"},
            "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"?":2},"unk_token":"?"}}"#;
        let file = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            file
        };
        let json = file(tokenizer.as_bytes());
        let tokenizer = TokenizerFile::load(json.path(), 3).unwrap();
        let text: String = (0..40).map(|line| ["a b\n", "b a b\n", "c\n", "\n"][line % 4]).collect();
        let network = Network {
            vocabulary: 3,
            channels: 8,
            hidden: 32,
            blocks: 1,
            outputs: 3,
            binary_embedding: true,
            dynamics: qslm_common::network::Dynamics::SPIKEGPT,
        };
        // What follows is no text, so that whoever reads it fails.
        let (good, bad) = (file(text.as_bytes()), file(&[text.as_bytes(), b"\xff\n"].concat()));
        let load = |path: &Path, window, stride, windows| {
            Dataset::load(path, &tokenizer, &Task::Perplexity { window, stride, windows }, &network)
        };
        for (window, stride) in [(1, 1), (4, 4), (5, 2), (7, 3)] {
            let whole = load(good.path(), window, stride, None).unwrap();
            assert!(load(bad.path(), window, stride, None).is_err());
            for windows in [1, 2, 3, 5] {
                let part = load(bad.path(), window, stride, Some(windows)).unwrap();
                assert_eq!(part.sequences, whole.sequences[..windows as usize]);
                let last = part.sequences.last().unwrap().input.end + 1;
                assert_eq!(part.tokens[..last], whole.tokens[..last]);
            }
            // All that there are, and not more.
            let all = whole.len() as u32;
            assert_eq!(load(good.path(), window, stride, Some(all + 9)).unwrap(), whole);
            assert_eq!(load(good.path(), window, stride, Some(all)).unwrap().sequences, whole.sequences);
        }
    }

    #[test]
    fn rows_predict_their_own_tokens() {
        let data = Dataset::rows(&[vec![1, 2, 3], vec![4, 5, 6]], 7).unwrap();
        assert_eq!(data.sequences[1], Sequence { input: 3..6, target: Target::NextToken(3..5) });
        assert!(Dataset::rows(&[vec![1, 7]], 7).unwrap_err().to_string().contains("token 7 in sequence 0"));
        assert!(Dataset::rows(&[vec![1, -1]], 7).is_err());
        assert!(Dataset::rows(&[], 7).is_err());
    }

    #[test]
    fn too_little_text_is_refused() {
        let error = Dataset::windows(vec![5], 8, 8, None).unwrap_err().to_string();
        assert_eq!(error, "1 tokens: at least 2 are needed to predict one");
    }
}
