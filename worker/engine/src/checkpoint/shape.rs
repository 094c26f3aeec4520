//! The shape of a network from the shapes of its tensors.

use std::collections::BTreeMap;

use qslm_common::network::{Member, Network};

use super::CheckpointError;

/// Reads the sizes off a few tensors, then holds every tensor to them. Beside the network are the tensors that it does not
/// have, all of which are buffers.
///
/// # Errors
/// The first tensor that is missing, extra, or in another shape than the sizes ask for.
pub(super) fn network(
    shapes: &BTreeMap<String, Vec<usize>>,
    member: Member,
    is_buffer: impl Fn(&str) -> bool,
) -> Result<(Network, Vec<String>), CheckpointError> {
    let [vocabulary, channels] = matrix(shapes, "emb.weight")?;
    let [hidden, _] = matrix(shapes, "blocks.0.ffn.key.weight")?;
    let [outputs, _] = matrix(shapes, "head.weight")?;
    let blocks =
        shapes.keys().filter_map(|name| block_of(name)).max().map_or(0, |last| last.saturating_add(1));
    let Member { binary_embedding, dynamics } = member;
    let network = Network { vocabulary, channels, hidden, blocks, outputs, binary_embedding, dynamics };
    network.validate()?;

    let matrices = network.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
    let vectors = network.vectors().into_iter().map(|vector| (vector.name, vector.shape));
    let expected: BTreeMap<String, Vec<usize>> = matrices.chain(vectors).collect();
    for (name, shape) in &expected {
        let given = shapes.get(name).ok_or_else(|| CheckpointError::Missing(name.clone()))?;
        if given != shape && !is_squeezed(given, shape) {
            let expected = format!("{shape:?}");
            return Err(CheckpointError::Shape { name: name.clone(), given: given.clone(), expected });
        }
    }
    let others: Vec<String> = shapes.keys().filter(|name| !expected.contains_key(*name)).cloned().collect();
    match others.iter().find(|name| !is_buffer(name)) {
        Some(name) => Err(CheckpointError::Extra { name: name.clone(), blocks }),
        None => Ok((network, others)),
    }
}

/// True if all dimensions of one are left out that shape leaves no choice in: `[D]` for `[1, 1, D]`.
fn is_squeezed(given: &[usize], expected: &[usize]) -> bool {
    expected
        .split_last()
        .is_some_and(|(last, others)| given == [*last] && others.iter().all(|size| *size == 1))
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
    use qslm_common::network::Dynamics;

    use super::*;

    fn shapes() -> BTreeMap<String, Vec<usize>> {
        let network = Network {
            vocabulary: 20,
            channels: 8,
            hidden: 32,
            blocks: 2,
            outputs: 20,
            binary_embedding: true,
            dynamics: Dynamics::SPIKEGPT,
        };
        let matrices = network.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
        matrices.chain(network.vectors().into_iter().map(|vector| (vector.name, vector.shape))).collect()
    }

    fn refused(change: impl FnOnce(&mut BTreeMap<String, Vec<usize>>)) -> String {
        let mut shapes = shapes();
        change(&mut shapes);
        network(&shapes, true.into(), |_| false).unwrap_err().to_string()
    }

    #[test]
    fn the_sizes_are_read_off_the_tensors() {
        let (network, _) = network(&shapes(), true.into(), |_| false).unwrap();
        assert_eq!((network.vocabulary, network.channels, network.hidden, network.blocks), (20, 8, 32, 2));
        assert!(!network.is_classifier());
    }

    #[test]
    fn what_is_squeezed_or_a_buffer_fits_too() {
        let mut shapes = shapes();
        shapes.insert("blocks.0.att.time_mix_k".to_owned(), vec![8]);
        shapes.insert("copy_mask".to_owned(), vec![4, 4]);
        let (_, buffers) = network(&shapes, true.into(), |name| name == "copy_mask").unwrap();
        assert_eq!(buffers, ["copy_mask"]);
        shapes.insert("blocks.0.att.time_mix_k".to_owned(), vec![9]);
        assert!(network(&shapes, true.into(), |name| name == "copy_mask").is_err());
    }

    #[test]
    fn learned_neurons_are_tensors_of_the_network() {
        let member = qslm_common::network::Family::SpikeRuGpt.member();
        let words = network(&shapes(), member, |_| false).unwrap_err().to_string();
        assert_eq!(words, "missing tensor blocks.0.lif1.log_tau");
        let mut shapes = shapes();
        for name in ["0.lif1", "0.lif2", "1.lif1", "1.lif2"] {
            for scalar in ["log_tau", "log_threshold"] {
                shapes.insert(format!("blocks.{name}.{scalar}"), Vec::new());
            }
        }
        assert_eq!(network(&shapes, member, |_| false).unwrap().0.vector_parameters(), 26 * 8 + 8);
        let words = network(&shapes, true.into(), |_| false).unwrap_err().to_string();
        assert!(words.starts_with("extra tensor blocks.0.lif1.log_tau"), "{words}");
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
