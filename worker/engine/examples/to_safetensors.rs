//! Converts a checkpoint to safetensors with 16-bit floats; made the models in `experiments/models`.
//!
//!     cargo run --release -p qslm-engine --example to_safetensors -- IN.pth OUT.safetensors

use std::path::Path;

use half::f16;
use qslm_engine::checkpoint::Checkpoint;
use safetensors::tensor::{Dtype, TensorView};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, input, output] = &arguments[..] else {
        return Err("expected two arguments: IN.pth OUT.safetensors".into());
    };
    let checkpoint = Checkpoint::load(Path::new(input), true)?;
    let network = checkpoint.network();
    let matrices = network.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
    let vectors = network.vectors().into_iter().map(|vector| (vector.name, vector.shape));
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = matrices
        .chain(vectors)
        .map(|(name, shape)| {
            let bytes = checkpoint.tensor(&name).iter().flat_map(|w| to_f16(*w).to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F16, shape.clone(), bytes)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()?;
    safetensors::serialize_to_file(views, None, Path::new(output))?;
    Ok(())
}

/// Rounds to nearest, but never a negative number to zero: a binary embedding sees only the sign.
fn to_f16(w: f32) -> f16 {
    let rounded = f16::from_f32(w);
    if w < 0.0 && rounded == f16::ZERO { f16::from_bits(0x8001) } else { rounded }
}
