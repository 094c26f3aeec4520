//! Conditions of a measurement, for whoever wants to measure the same again: a front and a packed file carry them.

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::cost::Device;
use crate::experiment::Experiment;
use crate::task::{Data, Task};

/// What a candidate was measured on, how, and for which device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// The data files.
    pub data: Data,
    /// Task: how the data is cut and scored.
    pub task: Task,
    /// Backend of the matrix products.
    pub backend: Backend,
    /// Device of which costs were modelled.
    #[serde(default, skip_serializing_if = "Device::is_default")]
    pub device: Device,
}

impl Experiment {
    /// Conditions under which its candidates are measured.
    pub fn conditions(&self) -> Conditions {
        Conditions {
            data: self.data.clone(),
            task: self.task.clone(),
            backend: self.backend,
            device: self.device.clone(),
        }
    }
}
