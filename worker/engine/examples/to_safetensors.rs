//! Converts a checkpoint to safetensors with 16-bit floats; made the models in `experiments/models`.
//!
//!     cargo run --release -p qslm-engine --example to_safetensors -- IN.pth OUT.safetensors

use std::path::Path;

use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::quant::to_half;
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
            let bytes = checkpoint.tensor(&name).iter().flat_map(|w| to_half(*w).to_le_bytes()).collect();
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
