//! Probes: groups measured alone, the rest float; and the candidates of whole allocations.

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::quality::Quality;
use qslm_common::space::{Axis, Group};

use super::super::combinations;
use super::errors::squared_error;
use super::table::Losses;
use super::{Allocate, Strategy};
use crate::prediction::nats_per_item;
use qslm_common::elementary::ln_1p;

/// Loss in nats per token or sentence below which a group's is nothing.
pub(super) const LEAST_LOSS: f64 = 1e-4;
/// Loss at the middle level that noise does not hide: from it the law goes on to where allocations are. A sensitive group at
/// its last level loses more than the law says.
const TELLING_LOSS: f64 = 4e-3;

/// Probes of an experiment.
pub(super) struct Probes {
    pub experiment: Experiment,
    pub groups: Vec<Group>,
    /// Every group at its first level.
    base: Candidate,
    /// Sequences that groups alone are measured on, if not on all.
    pub subset: Option<u32>,
    /// Groups that are measured alone at two levels.
    pub measured_alone: Vec<Group>,
    /// What is known of groups that are not.
    table: Losses,
}

/// Loss of a group alone that tells how sensitive it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Telling {
    /// Loss in nats per token or sentence, [`LEAST_LOSS`] or more.
    pub loss: f64,
    /// Level of the group then.
    pub level: usize,
}

impl Probes {
    pub(super) fn new(strategy: &Allocate, experiment: &Experiment) -> Self {
        let groups = experiment.moving(strategy.tier);
        let base = experiment.space.uniform(&experiment.network, 0);
        // Vectors that have levels begin at the first, too.
        let base = combinations::placed(experiment, &base, &groups, &vec![0; groups.len()]);
        let subset = strategy.subset(experiment).map(|subset| subset.sequences);
        let measured_alone = strategy.measured_alone(experiment);
        let table = Losses::of(strategy, &groups, &measured_alone);
        Self { experiment: experiment.clone(), groups, base, subset, measured_alone, table }
    }

    pub(super) fn float(&self) -> Candidate {
        Candidate::float(&self.experiment.network)
    }

    /// The candidate with a level for every group.
    pub(super) fn candidate(&self, levels: &[usize]) -> Candidate {
        combinations::placed(&self.experiment, &self.base, &self.groups, levels)
    }

    /// The group alone at a level, the rest float.
    pub(super) fn alone(&self, group: &Group, level: usize) -> Candidate {
        self.experiment.space.place(self.float(), group, level)
    }

    /// The float model, and every group that is measured alone at two levels.
    pub(super) fn all(&self) -> Vec<Candidate> {
        let at = |which: usize| {
            self.measured_alone.iter().map(move |group| self.alone(group, self.probed(group)[which]))
        };
        std::iter::once(self.float()).chain(at(0)).chain(at(1)).collect()
    }

    pub(super) fn last(&self, group: &Group) -> usize {
        group.levels - 1
    }

    /// Levels at which a group is measured alone: the middle one and the last.
    pub(super) fn probed(&self, group: &Group) -> [usize; 2] {
        [self.last(group) / 2, self.last(group)]
    }

    /// Bytes of the whole with every group at its first level but this one.
    pub(super) fn bytes(&self, group: &Group, level: usize) -> u64 {
        let Self { experiment, base, .. } = self;
        experiment.footprint(&experiment.space.place(base.clone(), group, level))
    }

    /// Bytes of the whole with every group at its first level.
    pub(super) fn base_bytes(&self) -> u64 {
        self.experiment.footprint(&self.base)
    }

    /// Loss of the float model per token or sentence, on the data that groups alone are measured on.
    pub(super) fn float_loss(&self, archive: &Archive) -> Option<f64> {
        Some(nats_per_item(archive.counts(&self.float().id(), self.subset.is_some())?))
    }

    /// Loss of a group alone at a level, in nats per token or sentence, where it was measured or a table knows it.
    pub(super) fn added(&self, archive: &Archive, group: &Group, level: usize) -> Option<f64> {
        match self.table.get(group, level) {
            Some(loss) => Some(loss * self.times(archive, group)?),
            None => self.measured(archive, group, level),
        }
    }

    /// What a group loses, divided by what its table says: as for the whole block.
    fn times(&self, archive: &Archive, group: &Group) -> Option<f64> {
        let block = self.table.block_of(group)?;
        let [middle, last] = self.probed(block).map(|level| {
            let measured = self.measured(archive, block, level)?;
            Some((measured.max(LEAST_LOSS), self.table.of_block(block, level)))
        });
        let (measured, predicted) = middle.filter(|(loss, _)| *loss >= TELLING_LOSS).or(last).or(middle)?;
        Some(measured / predicted.max(f64::MIN_POSITIVE))
    }

    fn measured(&self, archive: &Archive, group: &Group, level: usize) -> Option<f64> {
        let counts = archive.counts(&self.alone(group, level).id(), self.subset.is_some())?;
        Some(nats_per_item(counts) - self.float_loss(archive)?)
    }

    /// The loss that tells how sensitive a group is: at the middle level if that is no noise, else at the last.
    pub(super) fn telling(&self, archive: &Archive, group: &Group) -> Option<Telling> {
        let [middle, last] = self.probed(group);
        let of_middle = self.added(archive, group, middle).filter(|loss| *loss >= TELLING_LOSS);
        match of_middle {
            Some(loss) => Some(Telling { loss, level: middle }),
            None => {
                let loss = self.added(archive, group, last)?.max(LEAST_LOSS);
                Some(Telling { loss, level: last })
            }
        }
    }

    /// Squared error of a group's codes at a level, of weights of variance 1, or what a table has instead: either grows with
    /// the loss.
    pub(super) fn error_at(&self, group: &Group, level: usize) -> f64 {
        if let Some(loss) = self.table.get(group, level) {
            return loss;
        }
        let space = &self.experiment.space;
        let schemes = match group.axis {
            Axis::Weights => space.schemes_of(group, level),
            _ => vec![space.vector_scheme(level)],
        };
        let errors = || schemes.iter().map(|scheme| squared_error(*scheme));
        match schemes.first() {
            Some(first) if space.rules.is_empty() => squared_error(*first),
            // By rules, members may have schemes of their own.
            _ => errors().sum::<f64>() / schemes.len().max(1) as f64,
        }
    }

    /// The bound on the loss in nats per token, if it is perplexity that is bounded.
    pub(super) fn bound(&self) -> Option<f64> {
        let Experiment { constraints, task, .. } = &self.experiment;
        let bound = constraints.largest_loss(Quality::Perplexity).map(ln_1p);
        bound.filter(|_| task.quality() == Quality::Perplexity)
    }
}
