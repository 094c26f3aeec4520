//! Multiple choice by likelihood, against the logits of each context with each answer behind it.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, TokenizerFile, evaluate_each, evaluate_each_beside, sequence_logits};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny/model.pth");
/// Context and answers as token ids, and the label.
type Question = (&'static [u32], &'static [&'static [u32]], usize);

const QUESTIONS: [Question; 3] = [
    (&[3, 1, 4], &[&[1], &[5, 9, 2], &[6, 5]], 0),
    (&[2, 7], &[&[1, 8], &[2, 8]], 1),
    (&[9], &[&[0, 3, 3, 1], &[4], &[2, 6]], 2),
];

fn words(tokens: &[u32]) -> String {
    tokens.iter().map(|token| format!(" w{token}")).collect()
}

fn load(folder: &Path, vocabulary: u32, per_byte: bool) -> Dataset {
    let entries: Vec<String> = (0..vocabulary).map(|token| format!("\"w{token}\":{token}")).collect();
    let tokenizer = format!(
        "{{\"version\":\"1.0\",\"added_tokens\":[],\"pre_tokenizer\":{{\"type\":\"Whitespace\"}},\
         \"model\":{{\"type\":\"WordLevel\",\"vocab\":{{{}}},\"unk_token\":\"w0\"}}}}",
        entries.join(",")
    );
    std::fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
    let line = |(context, choices, label): &Question| {
        let choices: Vec<String> = choices.iter().map(|choice| words(choice)).collect();
        serde_json::json!({"context": words(context), "choices": choices, "label": label}).to_string()
    };
    let lines: Vec<String> = QUESTIONS.iter().map(line).collect();
    std::fs::write(folder.join("questions.jsonl"), lines.join("\n")).unwrap();
    let tokenizer = TokenizerFile::load(&folder.join("tokenizer.json"), vocabulary).unwrap();
    let checkpoint = Checkpoint::load(Path::new(MODEL), true).unwrap();
    let task = Task::Choice { questions: None, per_byte };
    Dataset::load(&folder.join("questions.jsonl"), &tokenizer, &task, checkpoint.network()).unwrap()
}

/// Negative log-likelihood of an answer after its context, and the divergence of `other`'s predictions of its tokens.
fn of_answer(models: [&SpikeGpt; 2], context: &[u32], answer: &[u32]) -> (f64, f64) {
    let row: Vec<i64> = context.iter().chain(answer).map(|token| i64::from(*token)).collect();
    let data = Dataset::rows(&[row], models[0].network().vocabulary).unwrap();
    let logs = models.map(|model| {
        let (logits, outputs) = (sequence_logits(model, &data, 0), model.network().outputs as usize);
        let rows = logits.chunks(outputs).map(|row| {
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            row.iter().map(|x| f64::from(*x) - sum.ln()).collect::<Vec<f64>>()
        });
        rows.collect::<Vec<_>>()
    });
    let (mut nll, mut kl) = (0.0, 0.0);
    for (place, token) in answer.iter().enumerate() {
        let [before, after] = [&logs[1][context.len() + place - 1], &logs[0][context.len() + place - 1]];
        nll -= after[*token as usize];
        kl += before.iter().zip(after).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    }
    (nll, kl)
}

#[test]
fn the_likeliest_answer_is_found_whatever_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::load(Path::new(MODEL), true).unwrap();
    let network = *checkpoint.network();
    let int3 = Candidate::new(&network, |unit| match unit.is_linear() {
        true => "int3:symmetric:channel".parse().unwrap(),
        false => qslm_common::scheme::Scheme::Float,
    });
    let build = |candidate: &Candidate| SpikeGpt::new(&checkpoint, candidate, Backend::Native).unwrap();
    let (model, float) = (build(&int3), build(&Candidate::float(&network)));
    for per_byte in [false, true] {
        let data = load(folder.path(), network.vocabulary, per_byte);
        let each = evaluate_each(&model, &data, 0..data.len(), None, &|| false).unwrap();
        let beside = evaluate_each_beside(&float, &model, &data, 0..data.len(), None, &|| false).unwrap();
        assert_eq!(data.positions(), each.iter().map(|counts| counts.processed_tokens).sum::<u64>());
        for ((context, answers, right), (counts, beside)) in QUESTIONS.iter().zip(each.iter().zip(&beside)) {
            let all: Vec<(f64, f64)> =
                answers.iter().map(|answer| of_answer([&model, &float], context, answer)).collect();
            let score = |place: usize| {
                let bytes = if per_byte { words(answers[place]).len() as f64 } else { 1.0 };
                all[place].0 / bytes
            };
            let likeliest = (0..answers.len()).min_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap();
            assert_eq!(counts.hits, u64::from(likeliest == *right), "{context:?} {all:?}");
            assert!((counts.nll.nats() - all[*right].0).abs() < 1e-4, "{} {all:?}", counts.nll.nats());
            let entering = context.len() + answers.iter().map(|answer| answer.len() - 1).sum::<usize>();
            assert_eq!((counts.processed_tokens, counts.sentences), (entering as u64, 1));
            assert_eq!((counts.scored_tokens, counts.kl), (0, None));
            let kl = beside.kl.unwrap().nats();
            assert!((kl - all[*right].1).abs() < 1e-4, "{kl} {all:?}");
            assert_eq!((beside.hits, &beside.spikes), (counts.hits, &counts.spikes));
        }
        assert!(each.iter().any(|counts| counts.hits == 1) || per_byte, "some question is answered rightly");
    }
}
