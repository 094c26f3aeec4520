//! The Burn device behind a backend's name.

use burn::tensor::Device;
use qslm_common::experiment::Backend;

/// The backends that this program was built with.
pub const BACKENDS: [Backend; 2] = [Backend::Flex, Backend::Ndarray];

/// The device that computes matrix products for `backend`.
// Upstream has deprecated burn-ndarray in favour of flex. It stays here as the second opinion: two
// implementations that agree are worth more than one.
#[expect(deprecated)]
pub fn device(backend: Backend) -> Device {
    match backend {
        Backend::Flex => Device::flex(),
        Backend::Ndarray => Device::ndarray(),
    }
}
