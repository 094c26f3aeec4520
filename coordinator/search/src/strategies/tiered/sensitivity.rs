//! Sensitivity of sites: what each adds to the loss when it alone is quantized.

use std::collections::BTreeMap;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::space::{Axis, Group, Tier};

use crate::Probe;

/// A unit, an activation or a population.
type Site = (Axis, String);

/// Added loss of each site when it alone is quantized, in units of [`qslm_common::measurement::Nll`].
/// One that could not be measured counts as the most sensitive.
pub(in crate::strategies) type Sensitivity = BTreeMap<Site, i128>;

/// Sorts groups by the summed sensitivity of their units, least first; equal ones stay in the network's order.
pub(in crate::strategies) fn sort_by_sensitivity(groups: &mut [Group], sensitivity: &Sensitivity) {
    groups.sort_by_cached_key(|group| sites(group).filter_map(|site| sensitivity.get(&site)).sum::<i128>());
}

/// Reads the added loss of every site off the archive.
pub(in crate::strategies) fn sensitivity(
    experiment: &Experiment,
    probes: &[Probe],
    on_subset: bool,
    archive: &Archive,
) -> Sensitivity {
    let nll = |candidate: &Candidate| Some(i128::from(archive.counts(&candidate.id(), on_subset)?.nll.0));
    let float = nll(&Candidate::float(&experiment.network));
    let added = |(mut group, probe): (Group, &Probe)| {
        let added = nll(&probe.candidate).zip(float).map(|(alone, float)| alone - float);
        // Small enough that a sum over all sites does not overflow. Matrices that are tied have one sum.
        ((group.axis, group.members.swap_remove(0)), added.unwrap_or(i128::from(u64::MAX)))
    };
    experiment.moving(Tier::Matrix).into_iter().zip(probes).map(added).collect()
}

fn sites(group: &Group) -> impl Iterator<Item = Site> {
    group.members.iter().map(|member| (group.axis, member.clone()))
}
