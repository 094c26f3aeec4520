//! Named tensors of a network: its parameters, their gradients, or what an optimizer keeps of them.

use std::collections::BTreeMap;
use std::ops::Range;

use qslm_common::network::Network;
use qslm_engine::checkpoint::Checkpoint;

use crate::part::Part;

/// The parameters of a network under training, in whatever form they are held.
pub trait Parameters: Sync {
    /// Those that are held as floats: vectors, scales and zero points at least.
    fn floats(&self) -> &Tensors;

    /// Weights of a matrix, by their places in it, row-major; `buffer` may be filled with them.
    ///
    /// # Panics
    /// If there is no such matrix, or it is smaller.
    fn weights<'a>(&'a self, name: &str, range: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32];
}

/// Parameters that are all held as floats.
impl Parameters for Tensors {
    fn floats(&self) -> &Tensors {
        self
    }

    fn weights<'a>(&'a self, name: &str, range: Range<usize>, _: &'a mut Vec<f32>) -> &'a [f32] {
        &self.get(name)[range]
    }
}

/// Tensors by name, row-major, in name order. Names are those of the checkpoint, and those that are made of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensors(BTreeMap<String, Vec<f32>>);

impl Tensors {
    /// The parameters of a checkpoint.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Self {
        Self::of_part(checkpoint, &Part::whole(checkpoint.network()))
    }

    /// The parameters of a part of a checkpoint.
    pub fn of_part(checkpoint: &Checkpoint, part: &Part) -> Self {
        let names = names(checkpoint.network()).filter(|name| part.contains(name));
        names.map(|name| (name.clone(), checkpoint.tensor(&name).into_owned())).collect()
    }

    /// As many zeros under the same names.
    pub fn zeros_like(other: &Self) -> Self {
        other.iter().map(|(name, values)| (name.to_owned(), vec![0.0; values.len()])).collect()
    }

    /// The tensor of a name.
    ///
    /// # Panics
    /// If there is none: the network says which there are.
    pub fn get(&self, name: &str) -> &[f32] {
        self.find(name).unwrap_or_else(|| panic!("there is no tensor {name}"))
    }

    /// The tensor of a name, if there is one.
    pub fn find(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// As [`Tensors::get`], to be changed.
    ///
    /// # Panics
    /// As [`Tensors::get`].
    pub fn get_mut(&mut self, name: &str) -> &mut [f32] {
        self.0.get_mut(name).unwrap_or_else(|| panic!("there is no tensor {name}"))
    }

    /// Puts a tensor under a name, in the place of another of it.
    pub fn insert(&mut self, name: &str, values: Vec<f32>) {
        self.0.insert(name.to_owned(), values);
    }

    /// Takes a tensor away, if there is one.
    pub fn remove(&mut self, name: &str) -> Option<Vec<f32>> {
        self.0.remove(name)
    }

    /// Bytes of all numbers.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().map(|values| size_of_val(values.as_slice()) as u64).sum()
    }

    /// All of them in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.0.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// As [`Tensors::iter`], to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut [f32])> {
        self.0.iter_mut().map(|(name, values)| (name.as_str(), values.as_mut_slice()))
    }
}

impl FromIterator<(String, Vec<f32>)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (String, Vec<f32>)>>(tensors: I) -> Self {
        Self(tensors.into_iter().collect())
    }
}

/// Names of all parameters of a network.
fn names(network: &Network) -> impl Iterator<Item = String> {
    let units = network.units().into_iter().map(|unit| unit.name);
    units.chain(network.vectors().into_iter().map(|vector| vector.name))
}
