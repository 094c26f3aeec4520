//! Steps whose gradients Burn's autodiff finds, on a graphics card: all else of a step is as on a processor.

use qslm_common::backend::Backend;
use qslm_common::network::{EMBEDDING, HEAD, Network, block_units};
use qslm_engine::autodiff::{Found, Graph};
use qslm_engine::checkpoint::Checkpoint;

use super::{Pass, Trainer};
use crate::fake_quant::CannotTrain;
use crate::gradients::Gradients;
use crate::network::{BatchLoss, Objective, Window, Workspace};
use crate::part::Part;
use crate::tensors::Tensors;
use crate::weights::{Source, Weights};

/// The pass through a whole network on a device.
struct OnDevice<'a> {
    network: Network,
    graph: &'a mut Graph,
    batch: &'a [Window<'a>],
    share: f32,
}

impl Trainer {
    pub(super) fn find_by_autodiff(
        &mut self,
        backend: Backend,
        checkpoint: &Checkpoint,
    ) -> Result<(), CannotTrain> {
        let graph = Graph::new(backend, &self.network, self.settings.reset);
        let mut graph = graph.ok_or(CannotTrain::Backend(backend))?;
        Tensors::of_checkpoint(checkpoint).iter().for_each(|(name, values)| {
            graph.put_teacher(name, values.to_vec());
        });
        self.graph = Some(graph);
        Ok(())
    }

    /// A step on a device, which is given back to the trainer.
    pub(super) fn step_on(
        &mut self,
        mut graph: Graph,
        batch: &[Window<'_>],
        objective: Objective<'_>,
    ) -> BatchLoss {
        let network = self.network;
        let loss = self.step_with(OnDevice { network, graph: &mut graph, batch, share: objective.share() });
        self.graph = Some(graph);
        loss
    }
}

impl Pass for OnDevice<'_> {
    type Loss = BatchLoss;

    fn load(&mut self, _: &Part, source: &impl Source, _: &mut Weights, buffers: &mut [Vec<f32>]) {
        let mut own = Vec::new();
        let buffer = buffers.first_mut().unwrap_or(&mut own);
        let units = self.network.units().into_iter().map(|unit| unit.name);
        for name in units.chain(self.network.vectors().into_iter().map(|vector| vector.name)) {
            self.graph.put(&name, source.values(&name, buffer).into_owned());
        }
    }

    fn run(self, _: &mut Workspace, _: &Weights, gradients: &mut impl Gradients) -> BatchLoss {
        let batch: Vec<_> = self.batch.iter().map(|window| (window.tokens, window.targets)).collect();
        let Found { cross_entropy, divergence, gradients: found } = self.graph.backward(&batch, self.share);
        // In the order in which a backward pass finishes them.
        let blocks = (0..self.network.blocks).rev().flat_map(block_units);
        for unit in [HEAD.to_owned()].into_iter().chain(blocks).chain([EMBEDDING.to_owned()]) {
            match found.get(&unit) {
                None => gradients.none(&unit),
                Some(gradient) => {
                    let mut rooms = gradients.room(&[(unit, gradient.len())]);
                    rooms[0].copy_from_slice(gradient);
                    gradients.complete();
                }
            }
        }
        for vector in self.network.vectors() {
            gradients.vector(&vector.name).copy_from_slice(&found[&vector.name]);
        }
        let predictions: usize = batch.iter().map(|(_, targets)| targets.len()).sum();
        let mean = |sum: f64| sum / predictions as f64;
        let (cross_entropy, divergence, share) =
            (mean(cross_entropy), mean(divergence), f64::from(self.share));
        let objective = (1.0 - share) * cross_entropy + share * divergence;
        BatchLoss { cross_entropy, divergence, objective }
    }
}
