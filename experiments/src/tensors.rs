//! Tokens in and logits out as safetensors, for comparing with other implementations.

use std::path::Path;

use anyhow::Context;
use qslm_engine::foreign;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, sequence_logits};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::exit::{Exit, Failure, Outcome};
use crate::place::OutputPlace;

/// Reads the int32 tensor `tokens` [sequences, length].
pub fn read_tokens(path: &Path) -> Outcome<Vec<Vec<i64>>> {
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    let refuse = |words: String| Failure::new(Exit::Failure, format!("{}: {words}", path.display()));
    let file = SafeTensors::deserialize(&bytes).map_err(|error| match foreign::recognise(&bytes) {
        Some(foreign) => refuse(format!("not a safetensors file: it is {}", foreign.what)),
        None => refuse(error.to_string()),
    })?;
    let tensor = file.tensor("tokens").map_err(|_| refuse("has no tensor `tokens`".to_owned()))?;
    let (Dtype::I32, &[_, length]) = (tensor.dtype(), tensor.shape()) else {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(refuse(format!(
            "tensor tokens is {dtype:?} {shape:?}, expected I32 [sequences, length]"
        )));
    };
    let ids: Vec<i64> = tensor.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect();
    Ok(ids.chunks(length.max(1)).map(<[i64]>::to_vec).collect())
}

/// Writes the logits of every sequence as the f32 tensor `logits` [sequences, length, outputs].
pub fn write_logits(place: &OutputPlace, model: &SpikeGpt, data: &Dataset) -> Outcome {
    let outputs = model.network().outputs as usize;
    let logits: Vec<u8> = (0..data.len())
        .flat_map(|sequence| sequence_logits(model, data, sequence))
        .flat_map(f32::to_le_bytes)
        .collect();
    let shape = vec![data.len(), data.positions() as usize / data.len(), outputs];
    let view = TensorView::new(Dtype::F32, shape, &logits).context("logits")?;
    let bytes = safetensors::serialize([("logits", view)], None).context("logits")?;
    place.write(&bytes)
}
