//! A worked example: one more measure of sensitivity, the share of predictions whose first choice changes
//! (docs/adding.md, "A measure").
//!
//! Inside the engine the constant and its `Distance` are a file in `src/task/sensitivity/`, with a line in `MEASURES`
//! there. Commands, specs, their references and the documents of `qslm sensitivity` follow by themselves.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use qslm_common::backend::Backend;
use qslm_common::scheme::Scheme;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::task::Dataset;
use qslm_engine::task::sensitivity::{
    Comparison, Distance, Fold, Mean, Measure, MiniBatch, Needs, Score, UnitScheme,
};

/// `first_choice`
const FIRST_CHOICE: Measure = Measure {
    name: "first_choice",
    about: "Share of the predictions whose first choice is another than the float model's",
    // It looks at predictions, so the network has to run; a classifier's will do.
    needs: Needs::Data,
    // Units that are quantized together change about as many choices as each of them alone, taken together.
    over_units: Fold::Sum,
    score: Score::Distance(|| Box::<FirstChoice>::default()),
};

/// Adds up while the float network and the changed one run side by side. Weights and membranes are told, too, for
/// measures that look at those.
#[derive(Default)]
struct FirstChoice(Mean);

impl Distance for FirstChoice {
    fn prediction(&mut self, before: &[f32], after: &[f32], _target: usize) {
        self.0.add(f64::from(u8::from(first(before) != first(after))));
    }

    fn value(&self) -> f64 {
        self.0.value()
    }
}

/// Index of the largest logit.
fn first(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

#[test]
fn a_measure_adds_up_what_it_is_told() {
    let Score::Distance(start) = FIRST_CHOICE.score else { unreachable!("it is a distance") };
    let mut distance = start();
    assert_eq!(distance.value(), 0.0);
    distance.prediction(&[0.0, 2.0, 1.0], &[0.0, 3.0, 1.0], 2);
    distance.prediction(&[0.0, 2.0, 1.0], &[0.0, 1.0, 2.0], 2);
    distance.prediction(&[4.0, 2.0, 1.0], &[4.0, 2.0, 1.0], 2);
    distance.prediction(&[4.0, 2.0, 1.0], &[4.0, 2.0, 1.0], 2);
    assert_eq!(distance.value(), 0.25);
}

#[test]
fn a_measure_scores_a_unit_of_a_network() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/model.pth");
    let checkpoint = Checkpoint::load(&path, true).unwrap();
    let network = checkpoint.network();
    let tokens = (0..64).map(|index| index * 7 % network.vocabulary).collect();
    let data = Dataset::windows(tokens, 32, 32, None).unwrap();
    let mini_batch = MiniBatch { sequences: 1, top_k: 5 };
    let comparison =
        Comparison::new(&checkpoint, Backend::Native, &data, &[&FIRST_CHOICE], mini_batch).unwrap();

    let head = network.units().pop().unwrap();
    let score = |scheme: Scheme| {
        comparison.scores(&head, UnitScheme { scheme, codes: None }, &|| false).unwrap()[0].unwrap()
    };
    let at = |scheme: &str| score(scheme.parse().unwrap());
    assert_eq!(at("f32"), 0.0, "the network itself");
    let (wide, narrow) = (at("int8:symmetric:channel"), at("int2:symmetric:tensor"));
    assert!(wide < narrow && narrow <= 1.0, "{wide} {narrow}");
}
