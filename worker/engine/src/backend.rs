//! The Burn device behind a backend's name.

use burn::tensor::Device;
use qslm_common::experiment::Backend;

/// The device that computes matrix products for `backend`.
pub fn device(backend: Backend) -> Device {
    match backend {
        Backend::Flex => Device::flex(),
        Backend::Ndarray => Device::ndarray(),
    }
}
