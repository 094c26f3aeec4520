//! Quantizers against PyTorch's own fake-quantize operators: a table made by `data/fake_quantize.py`.
#![allow(clippy::unwrap_used)]

use qslm_common::scheme::{Activation, ActivationRange, Granularity, Scheme};
use qslm_engine::quant::{fake_quantize, fake_quantize_rows};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn assert_close(scheme: &str, ours: &[f32], theirs: &[f32]) {
    for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let close = (ours - theirs).abs() <= 1e-6 * theirs.abs();
        assert!(close, "{scheme}, weight {index}: {ours}, PyTorch has {theirs}");
    }
}

#[test]
fn weights_are_rounded_as_pytorch_rounds_them() {
    let table: Value = serde_json::from_str(include_str!("data/fake_quantize.json")).unwrap();
    let (weights, columns) = (numbers(&table["weights"]), table["columns"].as_u64().unwrap() as usize);
    let cases = table["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4 * 2 * 7, "every granularity, symmetry and width");
    for case in cases {
        let text = case["scheme"].as_str().unwrap();
        let theirs = numbers(&case["values"]);
        let scheme: Scheme = text.parse().unwrap();
        assert_close(text, &fake_quantize((&weights[..]).into(), columns, scheme, "head.weight"), &theirs);
        // A token's activations are a row with a scale of its own.
        if let Scheme::Integer { format, .. } = scheme
            && format.granularity == Granularity::Channel
        {
            let (bits, symmetry) = (format.bits, format.symmetry);
            let mut rows = weights.clone();
            fake_quantize_rows(
                &mut rows,
                columns,
                Activation { bits, symmetry, range: ActivationRange::Dynamic },
            );
            assert_close(text, &rows, &theirs);
        }
    }
}
