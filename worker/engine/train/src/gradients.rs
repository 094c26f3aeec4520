//! Where a backward pass leaves gradients: whole tensors, or somebody who takes them matrix by matrix.

use crate::tensors::Tensors;

/// What takes the gradients of a backward pass, which finishes matrices from the head down to the first block.
///
/// The caller asks for room, fills it, and says that it is complete before it asks for more, so that floats of a few
/// matrices are enough for one that holds gradients in another form.
pub trait Gradients {
    /// Room for the gradients of some matrices, by their sizes, in the same order; what is in it is overwritten.
    fn room(&mut self, matrices: &[(String, usize)]) -> Vec<&mut [f32]>;

    /// Says that the gradients that room was made for last are complete.
    fn complete(&mut self);

    /// Says that a matrix has no gradient.
    fn none(&mut self, matrix: &str);

    /// The gradient of a vector, to be overwritten.
    fn vector(&mut self, name: &str) -> &mut [f32];
}

/// Gradients that all stay.
impl Gradients for Tensors {
    fn room(&mut self, matrices: &[(String, usize)]) -> Vec<&mut [f32]> {
        let mut rooms: Vec<&mut [f32]> = matrices.iter().map(|_| Default::default()).collect();
        for (name, gradient) in self.iter_mut() {
            if let Some(place) = matrices.iter().position(|(matrix, _)| matrix == name) {
                rooms[place] = gradient;
            }
        }
        rooms
    }

    fn complete(&mut self) {}

    fn none(&mut self, matrix: &str) {
        self.get_mut(matrix).fill(0.0);
    }

    fn vector(&mut self, name: &str) -> &mut [f32] {
        self.get_mut(name)
    }
}
