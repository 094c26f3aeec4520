//! Named tensors of a network: its parameters, their gradients, or what an optimizer keeps of them.

use std::collections::BTreeMap;

use qslm_common::network::Network;
use qslm_engine::checkpoint::Checkpoint;

use crate::part::Part;

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
