//! The shape of a network from the shapes of its tensors.

use std::collections::BTreeMap;

use qslm_common::network::Network;

use super::CheckpointError;

/// Reads the sizes off a few tensors, then holds every tensor to them.
///
/// # Errors
/// The first tensor that is missing, extra, or in another shape than the sizes ask for.
pub(super) fn network(
    shapes: &BTreeMap<String, Vec<usize>>,
    binary_embedding: bool,
) -> Result<Network, CheckpointError> {
    let [vocabulary, channels] = matrix(shapes, "emb.weight")?;
    let [hidden, _] = matrix(shapes, "blocks.0.ffn.key.weight")?;
    let [outputs, _] = matrix(shapes, "head.weight")?;
    let blocks =
        shapes.keys().filter_map(|name| block_of(name)).max().map_or(0, |last| last.saturating_add(1));
    let network = Network { vocabulary, channels, hidden, blocks, outputs, binary_embedding };
    network.validate()?;

    let matrices = network.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
    let vectors = network.vectors().into_iter().map(|vector| (vector.name, vector.shape));
    let expected: BTreeMap<String, Vec<usize>> = matrices.chain(vectors).collect();
    for (name, shape) in &expected {
        let given = shapes.get(name).ok_or_else(|| CheckpointError::Missing(name.clone()))?;
        if given != shape {
            let expected = format!("{shape:?}");
            return Err(CheckpointError::Shape { name: name.clone(), given: given.clone(), expected });
        }
    }
    match shapes.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(CheckpointError::Extra { name: name.clone(), blocks }),
        None => Ok(network),
    }
}

/// Rows and columns of a tensor that has to be there and be a matrix.
fn matrix(shapes: &BTreeMap<String, Vec<usize>>, name: &str) -> Result<[u32; 2], CheckpointError> {
    let given = shapes.get(name).ok_or_else(|| CheckpointError::Missing(name.to_owned()))?;
    let sizes: Option<Vec<u32>> = given.iter().map(|size| u32::try_from(*size).ok()).collect();
    match sizes.as_deref() {
        Some([rows, columns]) => Ok([*rows, *columns]),
        _ => Err(CheckpointError::Shape {
            name: name.to_owned(),
            given: given.clone(),
            expected: "[rows, columns]".to_owned(),
        }),
    }
}

/// The block index in `blocks.INDEX.rest`.
fn block_of(name: &str) -> Option<u32> {
    name.strip_prefix("blocks.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> BTreeMap<String, Vec<usize>> {
        let network = Network {
            vocabulary: 20,
            channels: 8,
            hidden: 32,
            blocks: 2,
            outputs: 20,
            binary_embedding: true,
        };
        let matrices = network.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
        matrices.chain(network.vectors().into_iter().map(|vector| (vector.name, vector.shape))).collect()
    }

    fn refused(change: impl FnOnce(&mut BTreeMap<String, Vec<usize>>)) -> String {
        let mut shapes = shapes();
        change(&mut shapes);
        network(&shapes, true).unwrap_err().to_string()
    }

    #[test]
    fn the_sizes_are_read_off_the_tensors() {
        let network = network(&shapes(), true).unwrap();
        assert_eq!((network.vocabulary, network.channels, network.hidden, network.blocks), (20, 8, 32, 2));
        assert!(!network.is_classifier());
    }

    #[test]
    fn whatever_does_not_fit_is_named() {
        assert_eq!(refused(|s| drop(s.remove("emb.weight"))), "missing tensor emb.weight");
        assert_eq!(refused(|s| drop(s.remove("blocks.1.ln2.bias"))), "missing tensor blocks.1.ln2.bias");
        assert!(
            refused(|s| drop(s.insert("blocks.0.att.bias".to_owned(), vec![8]))).starts_with("extra tensor")
        );
        assert_eq!(
            refused(|s| drop(s.insert("blocks.1.att.key.weight".to_owned(), vec![8, 9]))),
            "tensor blocks.1.att.key.weight has shape [8, 9], expected [8, 8]"
        );
        assert!(refused(|s| drop(s.insert("head.weight".to_owned(), vec![8]))).contains("[rows, columns]"));
        assert!(refused(|s| drop(s.insert("blocks.4000000000.x".to_owned(), vec![8]))).contains("blocks = "));
    }
}
