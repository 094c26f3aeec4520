//! Parts of a packed file: the tensors that a matrix under a scheme becomes, and back.

use std::collections::BTreeSet;
use std::io::{Read, Seek};

use half::f16;
use qslm_common::scheme::{Format, Scales, Scheme, Symmetry};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};

use super::safe_file::SafeFile;
use super::{CheckpointError, Values};
use crate::quant::pack::{pack, pack_codes, unpack, unpack_codes};
use crate::quant::{Codes, Stored, exponent_of, power_of, to_half};

/// Named tensors on their way into a file.
pub(super) type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// Tensors as the container's writer takes them.
///
/// # Errors
/// If one is not as large as its shape says.
pub(super) fn views(tensors: &Tensors) -> Result<Vec<(&String, TensorView<'_>)>, SafeTensorError> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, dtype, shape, bytes) in tensors {
        views.push((name, TensorView::new(*dtype, shape.clone(), bytes)?));
    }
    Ok(views)
}

/// The tensors that hold a matrix or a vector: as it is stored, or else its 32-bit floats.
pub(super) fn pack_matrix(
    tensor: &str,
    shape: Vec<usize>,
    floats: &[f32],
    stored: Option<Stored>,
) -> Tensors {
    let part = |name: &str| format!("{tensor}.{name}");
    let bytes = |name: String, bytes: Vec<u8>| (name, Dtype::U8, vec![bytes.len()], bytes);
    match stored {
        None => vec![(tensor.to_owned(), Dtype::F32, shape, float_bytes(floats))],
        Some(Stored::Half(halves)) => {
            let halves = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            vec![(tensor.to_owned(), Dtype::F16, shape, halves)]
        }
        Some(Stored::Sign(signs)) => vec![bytes(part("signs"), pack(&signs, 1))],
        Some(Stored::Integer(Codes { format, values, scales, zero_points, .. })) => {
            let (dtype, bytes_of_scales) = scale_bytes(&scales, format.scales);
            let scales = (part("scales"), dtype, vec![scales.len()], bytes_of_scales);
            let mut tensors = vec![bytes(part("codes"), pack_codes(&values, format)), scales];
            if format.symmetry == Symmetry::Affine {
                let zeros: Vec<u8> = zero_points.iter().map(|zero| *zero as u8).collect();
                tensors.push((part("zero_points"), Dtype::I8, vec![zeros.len()], zeros));
            }
            tensors
        }
    }
}

/// Scales as they are stored, all of which are such numbers already.
fn scale_bytes(scales: &[f32], stored: Scales) -> (Dtype, Vec<u8>) {
    match stored {
        Scales::F32 => (Dtype::F32, float_bytes(scales)),
        Scales::F16 => (Dtype::F16, scales.iter().flat_map(|scale| to_half(*scale).to_le_bytes()).collect()),
        Scales::Pow2 => (Dtype::I8, scales.iter().map(|scale| exponent_of(*scale) as u8).collect()),
    }
}

fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The tensors of a file that were not used yet.
pub(super) struct Parts<'a, Source> {
    file: &'a mut SafeFile<Source>,
    left: BTreeSet<String>,
}

impl<'a, Source: Read + Seek> Parts<'a, Source> {
    /// All tensors of a file.
    pub(super) fn new(file: &'a mut SafeFile<Source>) -> Self {
        Self { left: file.names().into_iter().collect(), file }
    }

    /// The first tensor that was not used.
    pub(super) fn left(mut self) -> Option<String> {
        self.left.pop_first()
    }

    /// The matrix that a tensor or several hold, as its scheme stores it.
    ///
    /// # Errors
    /// The first part that is missing, of another type or size, or not finite.
    pub(super) fn matrix(
        &mut self,
        tensor: &str,
        rows: usize,
        columns: usize,
        scheme: Scheme,
    ) -> Result<Values, CheckpointError> {
        let count = rows * columns;
        let part = |name: &str| format!("{tensor}.{name}");
        match scheme {
            Scheme::Float => self.floats(tensor, count).map(Values::Floats),
            Scheme::Half => self.halves(tensor, count).map(Values::Floats),
            Scheme::Sign => {
                let bytes = self.bytes(&part("signs"), Dtype::U8, count.div_ceil(8))?;
                // `bytes` has made sure of the size.
                let signs = unpack(&bytes, 1, count).unwrap_or_default();
                let values = signs.into_iter().map(|bit| if bit == 0 { -1.0 } else { 1.0 });
                Ok(Values::Floats(values.collect()))
            }
            Scheme::Integer { format, .. } => {
                let scales = format.granularity.scales(rows, columns);
                Ok(Values::Codes(Codes {
                    format,
                    columns,
                    values: self.codes(&part("codes"), format, count)?,
                    scales: self.scales(&part("scales"), scales, format.scales)?,
                    zero_points: match format.symmetry {
                        Symmetry::Symmetric | Symmetry::Full | Symmetry::Ternary => Vec::new(),
                        Symmetry::Affine => {
                            let bytes = self.bytes(&part("zero_points"), Dtype::I8, scales)?;
                            bytes.iter().map(|byte| *byte as i8).collect()
                        }
                    },
                }))
            }
        }
    }

    fn codes(&mut self, name: &str, format: Format, count: usize) -> Result<Vec<i8>, CheckpointError> {
        let bytes = self.bytes(name, Dtype::U8, format.code_bytes(count as u64) as usize)?;
        // The size is right, and every byte of other codes makes some.
        unpack_codes(&bytes, format, count).ok_or_else(|| CheckpointError::Format {
            format: "packed",
            reason: format!("{name} holds a byte above 242, which five ternary codes do not make"),
        })
    }

    fn halves(&mut self, name: &str, count: usize) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.bytes(name, Dtype::F16, 2 * count)?;
        Ok(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect())
    }

    /// Scales, all of which are numbers.
    fn scales(&mut self, name: &str, count: usize, stored: Scales) -> Result<Vec<f32>, CheckpointError> {
        match stored {
            Scales::F32 => self.floats(name, count),
            Scales::F16 => {
                let values = self.halves(name, count)?;
                super::check_finite(name, &values)?;
                Ok(values)
            }
            Scales::Pow2 => {
                let bytes = self.bytes(name, Dtype::I8, count)?;
                Ok(bytes.iter().map(|byte| power_of(*byte as i8)).collect())
            }
        }
    }

    fn floats(&mut self, name: &str, count: usize) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.bytes(name, Dtype::F32, 4 * count)?;
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        super::check_finite(name, &values)?;
        Ok(values)
    }

    /// The bytes of a part, checked for type and size.
    fn bytes(&mut self, name: &str, dtype: Dtype, size: usize) -> Result<Vec<u8>, CheckpointError> {
        self.left.remove(name);
        let (given, bytes) = self.file.read(name)?;
        let refuse = |reason| Err(CheckpointError::Format { format: "packed", reason });
        if given != dtype {
            return refuse(format!("{name} has type {given:?}, expected {dtype:?}"));
        }
        if bytes.len() != size {
            return refuse(format!("{name} takes {} bytes, expected {size}", bytes.len()));
        }
        Ok(bytes)
    }
}
