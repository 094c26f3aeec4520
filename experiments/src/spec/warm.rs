//! Warm start: the candidates of a front, at the levels that are next to their schemes in the space of a spec.

use std::path::Path;

use qslm_common::experiment::Experiment;
use qslm_search::{AnyStrategy, warm};

use crate::exit::Outcome;
use crate::front_file::{self, FrontFile};

/// Lets a strategy begin with the candidates of a front, the smallest first.
///
/// # Errors
/// The file is no front, or one of another network.
pub(super) fn start(strategy: &mut AnyStrategy, file: &Path, experiment: &Experiment) -> Outcome {
    let (tier, warm_start) = match strategy {
        AnyStrategy::Evolve(evolve) => (evolve.tier, &mut evolve.warm_start),
        AnyStrategy::Surrogate(surrogate) => (surrogate.tier, &mut surrogate.warm_start),
        _ => return Ok(()),
    };
    let groups = experiment.moving(tier);
    for row in &FrontFile::read(file)?.document.front {
        let candidate = front_file::candidate(row, &experiment.network)?;
        let levels = warm::levels(&experiment.space, &groups, &candidate);
        if !warm_start.contains(&levels) {
            warm_start.push(levels);
        }
    }
    Ok(())
}
