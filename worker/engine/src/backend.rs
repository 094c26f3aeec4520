//! What computes matrix products, behind a backend's name.

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

/// What computes matrix products.
#[derive(Debug, Clone)]
pub enum Library {
    /// [`crate::kernels::product`], and [`crate::kernels::integer`] where weights and activations are quantized.
    Native,
    /// [`crate::kernels::integer`] where weights are quantized, else [`crate::kernels::product`].
    Integer,
    /// Burn, on this device.
    Burn(Device),
}

/// What computes matrix products for `backend`: of several graphics cards the first.
///
/// # Errors
/// [`NotBuiltIn`]. Whether there is such a device is found out when it is used; see [`check`].
// Upstream has deprecated burn-ndarray in favour of flex. It stays here as the second opinion: two
// implementations that agree are worth more than one.
#[expect(deprecated)]
pub fn library(backend: Backend) -> Result<Library, NotBuiltIn> {
    match backend {
        Backend::Native => Ok(Library::Native),
        Backend::Integer => Ok(Library::Integer),
        Backend::Flex => Ok(Library::Burn(Device::flex())),
        Backend::Ndarray => Ok(Library::Burn(Device::ndarray())),
        #[cfg(feature = "cuda")]
        Backend::Cuda => Ok(Library::Burn(Device::cuda(0))),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Ok(Library::Burn(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))),
        #[cfg(not(all(feature = "cuda", feature = "wgpu")))]
        other => Err(NotBuiltIn(other)),
    }
}

/// Why a backend cannot be used here.
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
    library(backend)?;
    // Without a driver or a card, the first use of a device panics. A processor is there.
    let works = !backend.is_gpu() || catch_unwind(|| multiplies(backend)).unwrap_or(false);
    works.then_some(()).ok_or(Unusable::NoCard(backend))
}

/// The backends that work here.
pub fn usable() -> Vec<Backend> {
    BACKENDS.iter().copied().filter(|backend| check(*backend).is_ok()).collect()
}

fn multiplies(backend: Backend) -> bool {
    let Ok(Library::Burn(device)) = library(backend) else { return false };
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
            assert_eq!(library(backend).is_ok(), BACKENDS.contains(&backend), "{backend}");
        }
        assert!(usable().starts_with(&processors));
        assert!(multiplies(Backend::Flex) && multiplies(Backend::Ndarray));
        let words = "this program was built without the backend cuda: build it with --features cuda";
        assert_eq!(NotBuiltIn(Backend::Cuda).to_string(), words);
    }
}
