//! Matrices that somebody has, so that whoever needs one of them takes the same: a model that is in use holds its matrices
//! whether or not the weight cache has room for them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::linear::Matrix;
use crate::kernels::integer::IntegerMatrix;
use crate::kernels::product::Packed;

/// What somebody has, by name. It keeps nothing itself.
pub(super) struct Live<Key, H>(Mutex<HashMap<Key, H>>);

impl<Key, H> Default for Live<Key, H> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Key: Hash + Eq, H: Held> Live<Key, H> {
    /// What has this name, if somebody has it.
    pub(super) fn get(&self, key: &Key) -> Option<H::Value> {
        self.lock().get(key).and_then(H::get)
    }

    /// Says that somebody has `value` now. The value to use is the one that had the name first.
    pub(super) fn keep(&self, key: Key, value: H::Value) -> H::Value {
        let mut all = self.lock();
        all.retain(|_, held| held.get().is_some());
        if let Some(first) = all.get(&key).and_then(H::get) {
            return first;
        }
        all.extend(H::of(&value).map(|held| (key, held)));
        value
    }

    /// Number of names.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, H>> {
        // The map is whole at every point at which anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A matrix that is there as long as somebody else has it.
pub(super) trait Held {
    /// The matrix.
    type Value: Clone;

    /// Of a matrix; `None` if it cannot be told whether somebody has it.
    fn of(value: &Self::Value) -> Option<Self>
    where
        Self: Sized;

    /// The matrix, if somebody has it.
    fn get(&self) -> Option<Self::Value>;
}

impl Held for Weak<Vec<f32>> {
    type Value = Arc<Vec<f32>>;

    fn of(value: &Self::Value) -> Option<Self> {
        Some(Arc::downgrade(value))
    }

    fn get(&self) -> Option<Self::Value> {
        self.upgrade()
    }
}

/// Weights as long as somebody else has them.
#[derive(Debug)]
pub(super) enum WeakMatrix {
    Codes(Weak<IntegerMatrix>),
    Packed(Weak<Packed>),
}

impl Held for WeakMatrix {
    type Value = Matrix;

    /// Tensors of Burn do not tell who has them.
    fn of(value: &Matrix) -> Option<Self> {
        match value {
            Matrix::Codes(codes) => Some(Self::Codes(Arc::downgrade(codes))),
            Matrix::Packed(packed) => Some(Self::Packed(Arc::downgrade(packed))),
            Matrix::Burn(_) => None,
        }
    }

    fn get(&self) -> Option<Matrix> {
        match self {
            Self::Codes(codes) => codes.upgrade().map(Matrix::Codes),
            Self::Packed(packed) => packed.upgrade().map(Matrix::Packed),
        }
    }
}
