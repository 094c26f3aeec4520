//! Questions of multiple choice: which of several continuations a language model takes for the likeliest.

use std::path::Path;

use serde::Deserialize;

use super::dataset::{Answer, DataError, Dataset, Sequence, Target, for_each_line};
use super::tokenizer::TokenizerFile;
use crate::model::{SpikeGpt, State};

/// Most answers of a question; far more than any benchmark has.
const MOST_ANSWERS: usize = 64;

/// A line of the file. Benchmarks have other keys beside these.
#[derive(Deserialize)]
struct Question {
    context: String,
    choices: Vec<String>,
    label: usize,
}

/// Reads lines of JSON, `{"context": "..", "choices": ["..", ".."], "label": 0}`; empty lines are skipped. Context and answers
/// are encoded on their own, so an answer brings the space before it.
pub(super) fn read(
    path: &Path,
    tokenizer: &TokenizerFile,
    most: Option<u32>,
    per_byte: bool,
) -> Result<Dataset, DataError> {
    let mut data = Dataset::default();
    for_each_line(path, |line, text| {
        if text.trim().is_empty() {
            return Ok(true);
        }
        let wrong = |words: String| DataError::Question { line, words };
        let Question { context, choices, label } =
            serde_json::from_str(text.trim()).map_err(|error| wrong(error.to_string()))?;
        if !(2..=MOST_ANSWERS).contains(&choices.len()) {
            return Err(wrong(format!("{} choices: expected 2 to {MOST_ANSWERS}", choices.len())));
        }
        if label >= choices.len() {
            return Err(wrong(format!("label {label}: expected 0 to {}", choices.len() - 1)));
        }
        let mut encode = |text: &str, what: &str| {
            let start = data.tokens.len();
            let tokens = tokenizer.encode(text).map_err(|error| DataError::Tokenizer { line, error })?;
            data.tokens.extend(tokens);
            let range = start..data.tokens.len();
            if range.is_empty() { Err(wrong(format!("{what} has no words"))) } else { Ok(range) }
        };
        let input = encode(&context, "the context")?;
        let mut answers = Vec::new();
        for (number, choice) in choices.iter().enumerate() {
            let tokens = encode(choice, &format!("choice {number}"))?;
            answers.push(Answer { tokens, weight: if per_byte { choice.len() as f64 } else { 1.0 } });
        }
        data.sequences.push(Sequence { input, target: Target::Answers { answers, right: label } });
        Ok(most.is_none_or(|most| data.sequences.len() < most as usize))
    })?;
    if data.sequences.is_empty() { Err(DataError::NoQuestions) } else { Ok(data) }
}

/// Features that predict the tokens of an answer, `[token, channel]`: the last row of the context's, then those of all its
/// tokens but the last, which start from the context's `state`.
pub(super) fn answer_features(
    model: &SpikeGpt,
    of_context: &[f32],
    state: &State,
    tokens: &[u32],
    spikes: &mut [u64],
) -> Vec<f32> {
    let channels = model.network().channels as usize;
    let mut features = of_context[of_context.len() - channels..].to_vec();
    if let Some((_, entering)) = tokens.split_last().filter(|(_, entering)| !entering.is_empty()) {
        features.extend(model.features(entering, &mut state.clone(), spikes));
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn tokenizer() -> TokenizerFile {
        let json = file(
            r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Whitespace"},
            "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"?":2},"unk_token":"?"}}"#,
        );
        TokenizerFile::load(json.path(), 3).unwrap()
    }

    #[test]
    fn a_question_is_a_context_with_answers() {
        let lines = "{\"context\": \"a b\", \"choices\": [\" a\", \" b a\"], \"label\": 1, \"id\": 7}\n\n";
        let read_so = |per_byte| read(file(lines).path(), &tokenizer(), None, per_byte).unwrap();
        let data = read_so(false);
        assert_eq!(data.tokens, [0, 1, 0, 1, 0]);
        let answers = |weights: [f64; 2]| {
            vec![Answer { tokens: 2..3, weight: weights[0] }, Answer { tokens: 3..5, weight: weights[1] }]
        };
        let target = |weights| Target::Answers { answers: answers(weights), right: 1 };
        assert_eq!(data.sequences, [Sequence { input: 0..2, target: target([1.0, 1.0]) }]);
        // What enters: the context once, and of each answer all but its last token.
        assert_eq!((data.positions(), data.predicted()), (3, 0));
        assert_eq!(read_so(true).sequences[0].target, target([2.0, 4.0]));
    }

    #[test]
    fn what_is_no_question_is_told_with_its_line() {
        let words = |line: &str| {
            let lines = format!("{{\"context\":\"a\",\"choices\":[\"a\",\"b\"],\"label\":0}}\n{line}\n");
            read(file(&lines).path(), &tokenizer(), None, false).unwrap_err().to_string()
        };
        assert!(words("{}").starts_with("line 2: missing field `context`"), "{}", words("{}"));
        let one = r#"{"context":"a","choices":["b"],"label":0}"#;
        assert_eq!(words(one), "line 2: 1 choices: expected 2 to 64");
        let label = r#"{"context":"a","choices":["a","b"],"label":2}"#;
        assert_eq!(words(label), "line 2: label 2: expected 0 to 1");
        assert_eq!(
            words(r#"{"context":" ","choices":["a","b"],"label":0}"#),
            "line 2: the context has no words"
        );
        assert_eq!(words(r#"{"context":"a","choices":["a",""],"label":0}"#), "line 2: choice 1 has no words");
        assert!(matches!(read(file("\n").path(), &tokenizer(), None, false), Err(DataError::NoQuestions)));
        // Nothing beyond what is asked for is read.
        let lines = "{\"context\":\"a\",\"choices\":[\"a\",\"b\"],\"label\":0}\nnot JSON\n";
        assert_eq!(read(file(lines).path(), &tokenizer(), Some(1), false).unwrap().len(), 1);
    }
}
