//! Tables: what groups of weights lose at their levels, which jobs predict from the calibration data of a spec.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::network::Network;
use qslm_common::scheme::Scheme;
use qslm_common::space::{Axis, Group};
use qslm_engine::jobs::UnitLosses;
use qslm_engine::jobs::coded::units_with_embedding;
use qslm_engine::jobs::gptq;
use qslm_engine::jobs::output_errors::OutputErrors;
use qslm_search::{Allocate, AnyStrategy, PER_NAT, Table};
use qslm_train::jobs::FisherLosses;

use super::KeyProblem;
use super::calibration::CalibrationData;
use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;
use crate::making::Maker;

/// What is wrong with a strategy as it is written: losses are a job's to say.
pub(super) fn problem(strategy: &AnyStrategy) -> Option<KeyProblem> {
    let AnyStrategy::Allocate(allocate) = strategy else { return None };
    let words = "strategy.losses: a job makes it, for strategy.table; expected none";
    (!allocate.losses.is_empty()).then(|| KeyProblem::new("strategy.losses", words.to_owned()))
}

/// Puts a table where a strategy wants one that says nothing yet, so that all else can be checked before it is made.
pub(super) fn draft(strategy: &mut AnyStrategy, experiment: &Experiment) {
    if let AnyStrategy::Allocate(allocate) = strategy
        && allocate.table.is_some()
    {
        allocate.losses = weights(allocate, experiment).iter().map(|group| vec![1; group.levels]).collect();
    }
}

/// Has `maker` make the table that a strategy wants. `inputs` are checkpoint and tokenizer, `codes` the artifacts with
/// calibrated codes that were made here.
///
/// # Errors
/// One line that names the job that failed, and why.
pub(super) fn fill(
    strategy: &mut AnyStrategy,
    experiment: &Experiment,
    data: Option<&CalibrationData>,
    [checkpoint, tokenizer]: [(ContentHash, &Input); 2],
    codes: &[(ContentHash, Input)],
    maker: &dyn Maker,
) -> Outcome {
    let AnyStrategy::Allocate(allocate) = strategy else { return Ok(()) };
    let (Some(table), Some(data)) = (allocate.table, data) else { return Ok(()) };
    let groups = weights(allocate, experiment);
    let jobs = jobs(table, &asked(experiment, &groups), experiment, data);
    let files = [checkpoint, tokenizer, (data.hashes.text, &data.input)];
    let files: Vec<_> = files.into_iter().chain(codes.iter().map(|(hash, file)| (*hash, file))).collect();
    let mut losses = UnitLosses::new();
    for artifact in maker.make(&jobs, &files)? {
        let read = match table {
            Table::Fisher => FisherLosses::read(&artifact),
            Table::Outputs => OutputErrors::read(&artifact),
        };
        losses.extend(read.map_err(|error| Failure::new(Exit::Failure, error))?);
    }
    allocate.losses = by_level(&losses, experiment, &groups);
    Ok(())
}

/// Groups of weights that a strategy moves.
fn weights(allocate: &Allocate, experiment: &Experiment) -> Vec<Group> {
    let groups = experiment.moving(allocate.tier).into_iter();
    groups.filter(|group| group.axis == Axis::Weights).collect()
}

/// Units of groups, with every scheme that they may have.
fn asked(experiment: &Experiment, groups: &[Group]) -> BTreeMap<String, BTreeSet<Scheme>> {
    let mut asked: BTreeMap<String, BTreeSet<Scheme>> = BTreeMap::new();
    for group in groups {
        for level in 0..group.levels {
            let schemes = experiment.space.schemes_of(group, level);
            for (unit, scheme) in group.members.iter().zip(schemes) {
                asked.entry(unit.clone()).or_default().insert(scheme);
            }
        }
    }
    asked
}

fn jobs(
    table: Table,
    asked: &BTreeMap<String, BTreeSet<Scheme>>,
    experiment: &Experiment,
    data: &CalibrationData,
) -> Vec<Job> {
    let Experiment { network, checkpoint, space, .. } = experiment;
    let (task, member) = (data.task.clone(), network.into());
    let texts = |units: &mut dyn Iterator<Item = &String>| -> Vec<(String, String)> {
        let of_unit = |unit: &String| {
            let schemes = asked.get(unit).into_iter().flatten();
            schemes.map(|scheme| (unit.clone(), scheme.to_string())).collect::<Vec<_>>()
        };
        units.flat_map(of_unit).collect()
    };
    // Only what the job reads is among its inputs.
    let codes_of = |unit: &String| {
        let is_calibrated = asked.get(unit)?.iter().any(|scheme| scheme.is_calibrated());
        space.codes.get(unit).copied().filter(|_| is_calibrated)
    };
    match table {
        Table::Fisher => {
            let codes: BTreeSet<ContentHash> = asked.keys().filter_map(codes_of).collect();
            let units = texts(&mut asked.keys());
            vec![FisherLosses { task, member, units }.job(*checkpoint, &data.hashes, codes)]
        }
        Table::Outputs => {
            let of_part = |part| {
                let units = names_of(network, part);
                let codes = units.iter().find_map(codes_of);
                let units = texts(&mut units.iter());
                OutputErrors { task: task.clone(), member, part, units }.job(*checkpoint, &data.hashes, codes)
            };
            (0..gptq::parts(network)).map(of_part).collect()
        }
    }
}

fn names_of(network: &Network, part: u32) -> Vec<String> {
    units_with_embedding(network, part).into_iter().map(|unit| unit.name).collect()
}

/// Losses by group and level, as an experiment's text has them.
fn by_level(losses: &UnitLosses, experiment: &Experiment, groups: &[Group]) -> Vec<Vec<u64>> {
    let of_group = |group: &Group| {
        let at = |level| {
            let units = group.members.iter().zip(experiment.space.schemes_of(group, level));
            let known = units.filter_map(|(unit, scheme)| losses.get(unit)?.get(&scheme));
            (known.sum::<f64>() * PER_NAT).round() as u64
        };
        (0..group.levels).map(at).collect()
    };
    groups.iter().map(of_group).collect()
}
