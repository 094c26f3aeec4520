//! Standing of an exported candidate in its experiment: on the front, chosen, within the constraints.

use std::collections::BTreeSet;

use qslm_common::cost::{Cost, Costs};
use qslm_common::experiment::Experiment;
use qslm_common::front_document::{FrontDocument, FrontRow};
use qslm_common::measurement::Counts;
use qslm_common::network::Network;
use qslm_common::objective::Measured;
use qslm_common::spread::Spread;
use qslm_proto::v1::MeasuredCandidate;
use qslm_report::ReportDocument;

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
}

/// Judge of an experiment's candidates: what it decides by, and what it has decided.
pub struct Judge {
    experiment: Experiment,
    float: Option<FrontRow>,
    front: BTreeSet<Vec<u8>>,
    chosen: Option<Vec<u8>>,
}

impl Judge {
    /// Judge as the report of the experiment has it.
    pub fn new(report: ReportDocument) -> Self {
        let ReportDocument { experiment, front: FrontDocument { front, chosen, float, .. }, .. } = report;
        let id = |row: &FrontRow| row.candidate.as_bytes().to_vec();
        Self { experiment, front: front.iter().map(id).collect(), chosen: chosen.as_ref().map(id), float }
    }

    /// Network that its candidates are of.
    pub fn network(&self) -> &Network {
        &self.experiment.network
    }

    /// Standing of a candidate with these counts.
    pub fn standing(
        &self,
        candidate: &MeasuredCandidate,
        counts: &Counts,
        spread: Option<Spread>,
    ) -> Standing {
        let Some(float) = &self.float else { return Standing::default() };
        let costs: Costs =
            Cost::all().filter_map(|cost| Some((cost, *candidate.costs.get(&cost.to_string())?))).collect();
        let measured = Measured { counts, spread, footprint_bytes: candidate.footprint_bytes, costs: &costs };
        let of_float = Measured {
            counts: &float.counts,
            spread: None,
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
        }
    }
}
