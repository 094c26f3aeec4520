//! Standing of an exported candidate in its experiment: on the front, chosen, within the constraints.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::cost::{Cost, Costs};
use qslm_common::experiment::Experiment;
use qslm_common::front_document::{FrontDocument, FrontRow};
use qslm_common::measurement::Counts;
use qslm_common::network::Network;
use qslm_common::objective::Measured;
use qslm_common::spread::Spread;
use qslm_common::tasks::TaskName;
use qslm_proto::convert;
use qslm_proto::v1::MeasuredCandidate;
use qslm_report::ReportDocument;
use qslm_search::{AnyStrategy, List};

/// Standing of one candidate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// True for the float model.
    pub is_float: bool,
    /// True on the front.
    pub on_front: bool,
    /// True within every bound.
    pub meets_constraints: bool,
    /// True for the chosen candidate.
    pub chosen: bool,
    /// Value of the trade-off; `None` before the float model is measured.
    pub trade_off: Option<f64>,
    /// What a list calls it; empty without a name.
    pub name: String,
}

/// Judge of an experiment's candidates: what it decides by, and what it has decided.
pub struct Judge {
    experiment: Experiment,
    float: Option<FrontRow>,
    front: BTreeSet<Vec<u8>>,
    chosen: Option<Vec<u8>>,
    /// What a list calls its candidates, by id.
    names: BTreeMap<Vec<u8>, String>,
}

impl Judge {
    /// Judge as the report of the experiment has it.
    pub fn new(report: ReportDocument) -> Self {
        let ReportDocument { experiment, front: FrontDocument { front, chosen, float, .. }, .. } = report;
        let id = |row: &FrontRow| row.candidate.as_bytes().to_vec();
        let listed = match AnyStrategy::parse(&experiment.strategy) {
            Ok(AnyStrategy::List(list)) => Some(list),
            _ => None,
        };
        let named = listed.iter().flat_map(List::named).filter(|(_, name)| !name.is_empty());
        let mut names = BTreeMap::new();
        for (id, name) in named {
            // Of one that is listed twice, the first name counts.
            names.entry(id.as_bytes().to_vec()).or_insert_with(|| name.to_owned());
        }
        Self {
            experiment,
            front: front.iter().map(id).collect(),
            chosen: chosen.as_ref().map(id),
            float,
            names,
        }
    }

    /// Network that its candidates are of.
    pub fn network(&self) -> &Network {
        &self.experiment.network
    }

    /// Further tasks that they are measured on.
    pub fn tasks(&self) -> impl Iterator<Item = TaskName> {
        self.experiment.tasks.keys().copied()
    }

    /// Standing of a candidate with these counts.
    pub fn standing(
        &self,
        candidate: &MeasuredCandidate,
        counts: &Counts,
        spread: Option<Spread>,
    ) -> Standing {
        let name = self.names.get(&candidate.candidate).cloned().unwrap_or_default();
        let Some(float) = &self.float else { return Standing { name, ..Standing::default() } };
        let costs: Costs =
            Cost::all().filter_map(|cost| Some((cost, *candidate.costs.get(&cost.to_string())?))).collect();
        let task_spreads =
            &on_tasks(candidate).filter_map(|(name, (_, spread))| Some((name, spread?))).collect();
        let tasks = on_tasks(candidate).map(|(name, (counts, _))| (name, counts)).collect();
        let counts = &Counts { tasks, ..counts.clone() };
        let footprint_bytes = candidate.footprint_bytes;
        let measured = Measured { counts, spread, task_spreads, footprint_bytes, costs: &costs };
        let of_float = Measured {
            counts: &float.counts,
            spread: None,
            task_spreads: &BTreeMap::new(),
            footprint_bytes: float.footprint_bytes,
            costs: &float.costs,
        };
        let Experiment { constraints, network, trade_off, .. } = &self.experiment;
        Standing {
            is_float: candidate.candidate == float.candidate.as_bytes(),
            on_front: self.front.contains(&candidate.candidate),
            meets_constraints: constraints.allow(network, &float.counts, measured),
            chosen: self.chosen.as_ref() == Some(&candidate.candidate),
            trade_off: Some(trade_off.value(of_float, measured)),
            name,
        }
    }
}

/// Counts and spreads of a candidate on further tasks. A name that no task can have is another program's, and left out.
fn on_tasks(candidate: &MeasuredCandidate) -> impl Iterator<Item = (TaskName, (Counts, Option<Spread>))> {
    candidate
        .tasks
        .iter()
        .filter_map(|(name, result)| Some((name.parse().ok()?, convert::read_counts(result.counts.clone()?))))
}
