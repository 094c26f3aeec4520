//! Parts of a packed file: the tensors that a matrix under a scheme becomes, and back.

use std::collections::BTreeSet;
use std::io::{Read, Seek};

use half::f16;
use qslm_common::scheme::{Format, Scales, Scheme, Symmetry};
use qslm_common::storage::Storage;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};

use super::safe_file::SafeFile;
use super::{CheckpointError, Values};
use crate::quant::pack::{pack, pack_codes, unpack, unpack_codes};
use crate::quant::{Codes, Stored, exponent_of, power_of, rans, to_half};

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

/// The most codes that a byte of an entropy-coded matrix may stand for, so that a small file cannot ask for much memory.
/// Codes that are more alike are packed.
const MOST_CODES_A_BYTE: usize = 1 << 15;

/// Codes of a matrix, entropy-coded; `None` where that is not smaller than packed.
pub(crate) fn coded_codes(codes: &Codes) -> Option<Vec<u8>> {
    let coded = rans::encode(&codes.values, codes.columns);
    let packed = codes.format.code_bytes(codes.values.len() as u64);
    let is_smaller = (coded.len() as u64) < packed && codes.values.len() / coded.len() <= MOST_CODES_A_BYTE;
    is_smaller.then_some(coded)
}

/// The tensors that hold a matrix or a vector: as it is stored, or else its 32-bit floats.
pub(super) fn pack_matrix(
    tensor: &str,
    shape: Vec<usize>,
    floats: &[f32],
    stored: Option<Stored>,
    storage: &[Storage],
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
        Some(Stored::Integer(codes)) => {
            let coded = storage.contains(&Storage::Rans).then(|| coded_codes(&codes)).flatten();
            let packed = match coded {
                Some(coded) => bytes(part(CODED), coded),
                None => bytes(part("codes"), pack_codes(&codes)),
            };
            let Codes { format, scales, zero_points, widths, .. } = codes;
            let (dtype, bytes_of_scales) = scale_bytes(&scales, format.scales);
            let mut tensors = vec![packed, (part("scales"), dtype, vec![scales.len()], bytes_of_scales)];
            if !widths.is_empty() {
                let more: Vec<i8> =
                    widths.iter().map(|width| *width as i8 - format.bits.get() as i8).collect();
                tensors.push(bytes(part("widths"), pack(&more, 2)));
            }
            if format.symmetry == Symmetry::Affine {
                let zeros: Vec<u8> = zero_points.iter().map(|zero| *zero as u8).collect();
                tensors.push((part("zero_points"), Dtype::I8, vec![zeros.len()], zeros));
            }
            tensors
        }
    }
}

/// Last part of the name of a tensor with entropy-coded codes.
pub(super) const CODED: &str = "rans";

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
                let widths = self.widths(tensor, rows, columns, scheme)?;
                Ok(Values::Codes(Codes {
                    format,
                    columns,
                    values: self.codes(tensor, format, &widths, rows, columns)?,
                    scales: self.scales(&part("scales"), scales, format.scales)?,
                    zero_points: match format.symmetry {
                        Symmetry::Symmetric | Symmetry::Full | Symmetry::Ternary => Vec::new(),
                        Symmetry::Affine => {
                            let bytes = self.bytes(&part("zero_points"), Dtype::I8, scales)?;
                            bytes.iter().map(|byte| *byte as i8).collect()
                        }
                    },
                    widths,
                }))
            }
        }
    }

    /// Widths of rows or column groups, if the scheme mixes them: as many above its own as below.
    fn widths(
        &mut self,
        tensor: &str,
        rows: usize,
        columns: usize,
        scheme: Scheme,
    ) -> Result<Vec<u8>, CheckpointError> {
        let (groups, Scheme::Integer { format, .. }) = (scheme.widths(rows, columns), scheme) else {
            return Ok(Vec::new());
        };
        if groups == 0 {
            return Ok(Vec::new());
        }
        let run = format.granularity.run(columns).max(1);
        let name = format!("{tensor}.widths");
        let bytes = self.bytes(&name, Dtype::U8, groups.div_ceil(4))?;
        let more = unpack(&bytes, 2, groups).unwrap_or_default();
        let is_even = more.iter().map(|more| i32::from(*more)).sum::<i32>() == 0;
        let last_is_short = !columns.is_multiple_of(run) && more.last() != Some(&0);
        if more.contains(&-2) || !is_even || last_is_short {
            let reason = format!("{name}: expected as many with a bit more as with a bit less");
            return Err(CheckpointError::Format { format: "packed", reason });
        }
        let bits = format.bits.get() as i8;
        Ok(more.into_iter().map(|more| (bits + more) as u8).collect())
    }

    /// Codes, packed or entropy-coded, whichever there are.
    fn codes(
        &mut self,
        tensor: &str,
        format: Format,
        widths: &[u8],
        rows: usize,
        columns: usize,
    ) -> Result<Vec<i8>, CheckpointError> {
        let (count, coded, name) = (rows * columns, format!("{tensor}.{CODED}"), format!("{tensor}.codes"));
        if self.left.remove(&coded) {
            return self.coded(&coded, format, widths, rows, columns);
        }
        let name = name.as_str();
        let bytes = self.bytes(name, Dtype::U8, format.code_bytes(count as u64) as usize)?;
        // The size is right, and every byte of other codes makes some.
        unpack_codes(&bytes, format, columns, widths, count).ok_or_else(|| CheckpointError::Format {
            format: "packed",
            reason: format!("{name} holds a byte above 242, which five ternary codes do not make"),
        })
    }

    fn coded(
        &mut self,
        name: &str,
        format: Format,
        widths: &[u8],
        rows: usize,
        columns: usize,
    ) -> Result<Vec<i8>, CheckpointError> {
        let refuse =
            |words: String| CheckpointError::Format { format: "packed", reason: format!("{name}: {words}") };
        let (given, bytes) = self.file.read(name)?;
        if given != Dtype::U8 {
            return Err(refuse(format!("it has type {given:?}, expected U8")));
        }
        let (most, count) = (bytes.len().saturating_mul(MOST_CODES_A_BYTE), rows * columns);
        if count > most {
            let size = bytes.len();
            return Err(refuse(format!("{size} bytes for {count} codes: expected {most} codes at most")));
        }
        let codes = rans::decode(&bytes, rows, columns).map_err(|error| refuse(error.to_string()))?;
        for (at, code) in codes.iter().enumerate() {
            let width = widths.get(format.granularity.width_of(columns, at));
            let format = width.map_or(format, |width| format.of_width(*width));
            let (least, largest) = (format.q_min(), format.q_max());
            if !(least..=largest).contains(&i32::from(*code)) {
                return Err(refuse(format!("code {code}: expected {least} to {largest}")));
            }
        }
        Ok(codes)
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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::quant::{Statistics, Weights, quantize};

    /// A file with these tensors, whose parts are read.
    fn read(
        tensors: &Tensors,
        rows: usize,
        columns: usize,
        scheme: Scheme,
    ) -> Result<Values, CheckpointError> {
        let bytes = safetensors::serialize(views(tensors).unwrap(), None).unwrap();
        let size = bytes.len() as u64;
        Parts::new(&mut SafeFile::of(Cursor::new(bytes), size)?).matrix("m", rows, columns, scheme)
    }

    fn packed(scheme: Scheme, storage: &[Storage]) -> (Codes, Tensors) {
        let Scheme::Integer { format, quantizer } = scheme else { panic!("{scheme}") };
        let values: Vec<f32> = (0..130 * 40).map(|i| (i as f32 * 0.61).sin().powi(3)).collect();
        let weights = Weights { values: &values, columns: 40, unit: "m" };
        let codes = quantize(weights, format, quantizer, &Statistics::NONE);
        let tensors = pack_matrix("m", vec![130, 40], &values, Some(Stored::Integer(codes.clone())), storage);
        (codes, tensors)
    }

    #[test]
    fn coded_codes_are_smaller_and_come_back() {
        for text in [
            "int4:symmetric:channel",
            "int3:affine:group8:f16",
            "ec:0.70:tensor:pow2",
            "int2:ternary:channel",
        ] {
            let scheme = text.parse().unwrap();
            let (codes, coded) = packed(scheme, &[Storage::Packed, Storage::Rans]);
            let (_, plain) = packed(scheme, &[Storage::Packed]);
            let bytes = |tensors: &Tensors| tensors.iter().map(|(.., bytes)| bytes.len()).sum::<usize>();
            assert!(coded[0].0 == "m.rans" && bytes(&coded) < bytes(&plain), "{text}");
            for tensors in [coded, plain] {
                assert_eq!(read(&tensors, 130, 40, scheme).unwrap(), Values::Codes(codes.clone()), "{text}");
            }
        }
    }

    #[test]
    fn coded_codes_that_are_broken_are_refused_with_their_name() {
        let scheme: Scheme = "int3:full:channel".parse().unwrap();
        let (_, tensors) = packed(scheme, &[Storage::Rans]);
        let refused = |change: &dyn Fn(&mut Tensors), rows: usize| {
            let mut tensors = tensors.clone();
            change(&mut tensors);
            read(&tensors, rows, 40, scheme).unwrap_err().to_string()
        };
        let cut = refused(
            &|tensors| {
                tensors[0].3.pop();
                tensors[0].2 = vec![tensors[0].3.len()];
            },
            130,
        );
        assert!(cut.contains("m.rans: "), "{cut}");
        assert!(refused(&|_| {}, 1 << 40).contains("codes at most"), "more than so few bytes may stand for");
        let wide = refused(
            &|tensors| {
                tensors[0].3 = rans::encode(&vec![4; 130 * 40], 40);
                tensors[0].2 = vec![tensors[0].3.len()];
            },
            130,
        );
        assert!(wide.contains("code 4: expected -4 to 3"), "{wide}");
    }
}
