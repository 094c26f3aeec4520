//! Backends: the implementations of the matrix product, behind their names.
//!
//! Burn is named here and in `model::linear` alone.

use std::panic::catch_unwind;

use burn::tensor::{Device, Tensor};
use qslm_common::backend::Backend;

/// The backends that this program was built with.
pub const BACKENDS: &[Backend] = &[
    Backend::Native,
    Backend::Integer,
    Backend::Flex,
    Backend::Ndarray,
    #[cfg(feature = "cuda")]
    Backend::Cuda,
    #[cfg(feature = "wgpu")]
    Backend::Wgpu,
];

/// A backend that this program was not built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this program was built without the backend {0}: build it with --features {0}")]
pub struct NotBuiltIn(pub Backend);

/// The means to compute matrix products.
#[derive(Debug, Clone)]
pub enum Compute {
    /// [`crate::kernels::product`], and [`crate::kernels::integer`] where weights and activations are
    /// quantized.
    Native,
    /// [`crate::kernels::integer`] where weights are quantized, else [`crate::kernels::product`].
    Integer,
    /// Burn, on this device.
    Burn(Device),
}

impl Compute {
    /// The means of `backend`: of several graphics cards the first.
    ///
    /// # Errors
    /// [`NotBuiltIn`]. A device that is not there is found out when it is used; see [`check`].
    // Upstream has deprecated burn-ndarray in favour of flex. It stays here as the second opinion: two
    // implementations that agree are worth more than one.
    #[expect(deprecated)]
    pub fn new(backend: Backend) -> Result<Self, NotBuiltIn> {
        match backend {
            Backend::Native => Ok(Self::Native),
            Backend::Integer => Ok(Self::Integer),
            Backend::Flex => Ok(Self::Burn(Device::flex())),
            Backend::Ndarray => Ok(Self::Burn(Device::ndarray())),
            #[cfg(feature = "cuda")]
            Backend::Cuda => Ok(Self::Burn(Device::cuda(0))),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu => Ok(Self::Burn(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))),
            #[cfg(not(all(feature = "cuda", feature = "wgpu")))]
            other => Err(NotBuiltIn(other)),
        }
    }
}

/// The lack that keeps a backend from being used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The program lacks it.
    #[error(transparent)]
    NotBuiltIn(#[from] NotBuiltIn),
    /// The machine lacks it.
    #[error("backend {0}: this machine has no graphics card, or no driver for it")]
    NoCard(Backend),
}

/// Finds out whether a backend works here: a graphics card has to multiply two numbers.
///
/// # Errors
/// [`Unusable`] says what is missing.
pub fn check(backend: Backend) -> Result<(), Unusable> {
    Compute::new(backend)?;
    // Without a driver or a card, the first use of a device panics. A processor is there.
    let works = !backend.is_gpu() || catch_unwind(|| multiplies(backend)).unwrap_or(false);
    works.then_some(()).ok_or(Unusable::NoCard(backend))
}

/// The backends that work here.
pub fn usable() -> Vec<Backend> {
    BACKENDS.iter().copied().filter(|backend| check(*backend).is_ok()).collect()
}

fn multiplies(backend: Backend) -> bool {
    let Ok(Compute::Burn(device)) = Compute::new(backend) else { return false };
    let two = Tensor::<2>::from_floats([[2.0]], &device);
    let product = two.clone().matmul(two).into_data();
    product.try_into_vec::<f32>().is_ok_and(|values| values == [4.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_usable_or_refused_by_name() {
        let gpus = [Backend::Cuda, Backend::Wgpu];
        let processors = [Backend::Native, Backend::Integer, Backend::Flex, Backend::Ndarray];
        for backend in processors.into_iter().chain(gpus) {
            assert_eq!(Compute::new(backend).is_ok(), BACKENDS.contains(&backend), "{backend}");
        }
        assert!(usable().starts_with(&processors));
        assert!(multiplies(Backend::Flex) && multiplies(Backend::Ndarray));
        let words = "this program was built without the backend cuda: build it with --features cuda";
        assert_eq!(NotBuiltIn(Backend::Cuda).to_string(), words);
    }
}
