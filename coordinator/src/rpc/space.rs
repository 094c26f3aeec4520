//! The space of an experiment on the wire: what a candidate may be, in the words that it is told in.

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::space::{Axis, Group, Tier};
use qslm_proto::v1::{SpaceGroup, SpaceLevel, SpaceResponse, SpaceTier};

/// Tiers from the coarsest on.
const TIERS: [Tier; 4] = [Tier::Global, Tier::Block, Tier::Module, Tier::Matrix];

/// Puts the space of an experiment on the wire.
pub(super) fn write_space(experiment: &Experiment) -> SpaceResponse {
    let tier = |tier: Tier| SpaceTier {
        name: tier.name().to_owned(),
        groups: experiment.moving(tier).iter().map(|group| write_group(experiment, group)).collect(),
    };
    // What moves at the finest tier is not the base's to say.
    let uniform = experiment.space.uniform(&experiment.network, 0);
    let moving: Vec<Group> = experiment.moving(Tier::Matrix);
    let moves = |unit: &str| {
        moving
            .iter()
            .any(|group| group.axis == Axis::Weights && group.members.iter().any(|name| name == unit))
    };
    let base = uniform.schemes().filter(|(unit, _)| !moves(unit));
    let base: Vec<String> = base.map(|(unit, scheme)| format!("{unit}={scheme}")).collect();
    SpaceResponse { base: base.join(" "), tiers: TIERS.map(tier).into() }
}

fn write_group(experiment: &Experiment, group: &Group) -> SpaceGroup {
    let levels = 0..group.levels;
    SpaceGroup {
        axis: axis_name(group.axis).to_owned(),
        name: group.name.clone(),
        members: group.members.clone(),
        levels: levels.map(|level| write_level(experiment, group, level)).collect(),
    }
}

fn write_level(experiment: &Experiment, group: &Group, level: usize) -> SpaceLevel {
    let float = Candidate::float(&experiment.network);
    let candidate = experiment.space.place(float, group, level);
    let schemes: Vec<_> =
        group.members.iter().map(|name| (name, scheme(&candidate, group.axis, name))).collect();
    let word =
        |(name, scheme): (&String, Option<String>)| Some(format!("{}={}", key(group.axis, name), scheme?));
    let of_ladder = match group.axis {
        // The embedding may have one scheme at all levels.
        Axis::Weights if experiment.space.rules.is_empty() => {
            experiment.space.ladder().nth(level).map(|scheme| scheme.to_string())
        }
        _ => schemes.first().and_then(|(_, scheme)| scheme.clone()),
    };
    SpaceLevel {
        scheme: of_ladder.unwrap_or_else(|| "f32".to_owned()),
        words: schemes.into_iter().filter_map(word).collect::<Vec<_>>().join(" "),
    }
}

/// Scheme of a member; `None` for float activations and membranes, of which nothing is said.
fn scheme(candidate: &Candidate, axis: Axis, name: &str) -> Option<String> {
    match axis {
        Axis::Weights => Some(candidate.scheme(name).to_string()),
        Axis::Vectors => Some(candidate.vectors().to_string()),
        Axis::Activations => candidate.activation(name).map(|scheme| scheme.to_string()),
        Axis::Membranes => candidate.membrane(name).map(|scheme| scheme.to_string()),
    }
}

/// Name of a member in the words of a candidate.
fn key(axis: Axis, name: &str) -> String {
    match axis {
        Axis::Weights | Axis::Vectors => name.to_owned(),
        Axis::Activations => format!("activation:{name}"),
        Axis::Membranes => format!("membrane:{name}"),
    }
}

fn axis_name(axis: Axis) -> &'static str {
    match axis {
        Axis::Weights => "weights",
        Axis::Vectors => "vectors",
        Axis::Activations => "activations",
        Axis::Membranes => "membranes",
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::scheme::{Symmetry, Width};
    use qslm_common::space::{ActivationSpace, MembraneSpace, VectorSpace};
    use qslm_search::{External, written};
    use qslm_testing::experiment;

    use super::*;

    #[test]
    fn the_words_of_the_levels_that_it_takes_are_a_candidate() {
        let mut experiment = experiment(External {});
        let bits = [32, 8, 4].map(|bits| Width::try_from(bits).unwrap()).to_vec();
        experiment.space.vectors = Some(VectorSpace { bits: bits.clone() });
        let symmetry = Symmetry::Symmetric;
        experiment.space.activations = Some(ActivationSpace { bits, symmetry, calibration: None });
        experiment.space.membranes = Some(MembraneSpace { bits: vec![32, 8], integer_bits: 1 });
        let space = write_space(&experiment);
        assert_eq!(space.base, "emb.weight=sign");
        for (tier, shown) in TIERS.into_iter().zip(&space.tiers) {
            let groups = experiment.moving(tier);
            assert_eq!((tier.name(), groups.len()), (shown.name.as_str(), shown.groups.len()));
            for narrow in 0..2 {
                let level = |levels: usize| (levels - 1) * narrow;
                let words = shown.groups.iter().map(|group| &group.levels[level(group.levels.len())].words);
                let words: Vec<&str> =
                    std::iter::once(&space.base).chain(words).map(String::as_str).collect();
                let read = written::of_text(&words.join(" "), &experiment.network).unwrap();
                let float =
                    Candidate::float(&experiment.network).with(["emb.weight"], "sign".parse().unwrap());
                let placed = groups.iter().fold(float, |candidate, group| {
                    let level = level(group.levels);
                    experiment.space.place(candidate, group, level)
                });
                assert_eq!(read, placed);
            }
        }
        let levels = &space.tiers[0].groups[0].levels;
        assert_eq!(levels[0].scheme, "int8:symmetric:tensor");
    }
}
