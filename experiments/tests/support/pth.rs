//! Writes a PyTorch checkpoint as `torch.save` does: a zip of a pickled `OrderedDict` and one file per tensor.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Writes f32 tensors by name and shape; `fill` is called per tensor, in order, for its values.
pub fn write(path: &Path, tensors: &[(String, Vec<usize>)], mut fill: impl FnMut(&str, &mut [f32])) {
    let mut zip = ZipWriter::new(BufWriter::new(File::create(path).unwrap()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(&pickle(tensors)).unwrap();
    zip.start_file("archive/byteorder", stored).unwrap();
    zip.write_all(b"little").unwrap();
    for (index, (name, shape)) in tensors.iter().enumerate() {
        let mut values = vec![0.0; shape.iter().product()];
        fill(name, &mut values);
        zip.start_file(format!("archive/data/{index}"), stored).unwrap();
        for chunk in values.chunks(1 << 16) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
            zip.write_all(&bytes).unwrap();
        }
    }
    zip.start_file("archive/version", stored).unwrap();
    zip.write_all(b"3\n").unwrap();
    zip.finish().unwrap().flush().unwrap();
}

/// The pickle (protocol 2) of an `OrderedDict` from names to tensors over the storages `0`, `1`, ...
fn pickle(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    const ORDERED_DICT: &[u8] = b"ccollections\nOrderedDict\n)R";
    let mut out = b"\x80\x02".to_vec();
    out.extend(ORDERED_DICT);
    out.push(b'('); // mark of the items
    for (index, (name, shape)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n(");
        // The storage, by persistent id: ("storage", FloatStorage, key, device, elements).
        out.push(b'(');
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &index.to_string());
        text(&mut out, "cpu");
        number(&mut out, shape.iter().product());
        out.extend(b"tQ");
        number(&mut out, 0); // offset in the storage
        tuple(&mut out, shape.iter().copied());
        tuple(&mut out, (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()));
        out.push(0x89); // requires_grad: False
        out.extend(ORDERED_DICT); // backward hooks
        out.extend(b"tR");
    }
    out.extend(b"u.");
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, number: usize) {
    out.push(b'J');
    out.extend((number as i32).to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, numbers: impl Iterator<Item = usize>) {
    out.push(b'(');
    numbers.for_each(|n| number(out, n));
    out.push(b't');
}
