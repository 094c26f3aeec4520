//! The columns of an export: a measured candidate as other programs see it.
//!
//! One table makes the rows and their reference, `docs/reference/export.md`. Names, order and meaning are
//! part of the interface; one more column is one entry at the end of [`columns`]. A cost has its column by
//! being one.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use qslm_common::cost::{Cost, CostModel};
use qslm_common::hash::ContentHash;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::network::{Network, Unit};
use qslm_common::scheme::Scheme;
use qslm_common::spread::Spread;
use qslm_common::tasks::TaskName;
use qslm_proto::convert;
use qslm_proto::v1::{MeasuredCandidate, TaskResult};

use crate::standing::{Judge, Standing};

/// A measured candidate with what is worked out once for several columns.
pub struct CandidateRow {
    candidate: MeasuredCandidate,
    counts: Counts,
    spread: Option<Spread>,
    standing: Standing,
    /// Bits by unit, worked out when the first of them is asked for.
    bits: OnceCell<BTreeMap<String, f64>>,
}

impl CandidateRow {
    /// Row of what a coordinator sent, judged as its experiment does.
    pub fn new(candidate: MeasuredCandidate, judge: &Judge) -> Self {
        let (counts, spread) = convert::read_counts(candidate.counts.clone().unwrap_or_default());
        let standing = judge.standing(&candidate, &counts, spread);
        Self { candidate, counts, spread, standing, bits: OnceCell::new() }
    }

    fn bits(&self) -> &BTreeMap<String, f64> {
        self.bits.get_or_init(|| {
            let schemes = self.candidate.schemes.split(' ').filter_map(|one| one.split_once('='));
            let bits = schemes.filter_map(|(unit, scheme)| Some((unit, scheme.parse::<Scheme>().ok()?)));
            bits.map(|(unit, scheme)| (unit.to_owned(), scheme.bits_about())).collect()
        })
    }
}

/// One column.
pub struct Column {
    /// Name, with the unit.
    pub name: String,
    /// Meaning.
    pub about: String,
    read: Read,
}

/// Kind of the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number of at least 0.
    Count,
    /// A number, or nothing where it does not apply.
    Number,
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number of at least 0.
    Count(u64),
    /// A number, or nothing where it does not apply.
    Number(Option<f64>),
}

enum Read {
    Text(fn(&CandidateRow) -> String),
    Count(fn(&CandidateRow) -> u64),
    Number(fn(&CandidateRow) -> Option<f64>),
    Cost(&'static str),
    /// Bits of this unit.
    Bits(String),
    /// Number of this further task.
    Task(String, fn(&TaskResult) -> Option<f64>),
}

impl Column {
    /// Kind of its values.
    pub fn kind(&self) -> Kind {
        match self.read {
            Read::Text(_) => Kind::Text,
            Read::Count(_) => Kind::Count,
            Read::Number(_) | Read::Cost(_) | Read::Bits(_) | Read::Task(..) => Kind::Number,
        }
    }

    /// Value of a row.
    pub fn value(&self, row: &CandidateRow) -> Value {
        match &self.read {
            Read::Text(read) => Value::Text(read(row)),
            Read::Count(read) => Value::Count(read(row)),
            Read::Number(read) => Value::Number(read(row)),
            Read::Bits(unit) => Value::Number(row.bits().get(unit).copied()),
            Read::Task(name, read) => Value::Number(row.candidate.tasks.get(name).and_then(read)),
            Read::Cost(name) => Value::Number(row.candidate.costs.get(*name).copied()),
        }
    }
}

/// Columns of the bits of every unit of a network, on request: `bits:UNIT`.
pub fn columns_of_bits(network: &Network) -> Vec<Column> {
    let column = |unit: Unit| Column {
        name: format!("bits:{}", unit.name),
        about: "bits per weight of the unit, 32 for floats".to_owned(),
        read: Read::Bits(unit.name),
    };
    network.units().into_iter().map(column).collect()
}

/// Columns of a further task, where an experiment has some: `tasks.NAME.perplexity` and others.
pub fn columns_of_task(task: TaskName) -> Vec<Column> {
    let column = |name: &str, about: &str, read| Column {
        name: format!("tasks.{task}.{name}"),
        about: format!("{about}, on this further task"),
        read: Read::Task(task.to_string(), read),
    };
    vec![
        column("perplexity", "as perplexity", |result| counts_of(result).perplexity()),
        column("accuracy", "as accuracy", |result| counts_of(result).accuracy()),
        column("quality_loss", "as quality_loss", |result| result.quality_loss),
        column("quality_loss_low", "as quality_loss_low", |result| {
            result.quality_loss_interval.map(|interval| interval.low)
        }),
        column("quality_loss_high", "as quality_loss_high", |result| {
            result.quality_loss_interval.map(|interval| interval.high)
        }),
    ]
}

fn counts_of(result: &TaskResult) -> Counts {
    convert::read_counts(result.counts.clone().unwrap_or_default()).0
}

/// All columns in their order.
pub fn columns() -> Vec<Column> {
    let column =
        |name: &str, about: &str, read| Column { name: name.to_owned(), about: about.to_owned(), read };
    let text = |name, about, read| column(name, about, Read::Text(read));
    let count = |name, about, read| column(name, about, Read::Count(read));
    let number = |name, about, read| column(name, about, Read::Number(read));
    let mut columns = vec![
        text("stage", "the stage of the search that was the first to propose it", |row| {
            row.candidate.stage.clone()
        }),
        text("candidate", "its id: the hash of its schemes, 64 hexadecimal digits", id),
        count("footprint_bytes", "bytes of the packed file's tensors", |row| row.candidate.footprint_bytes),
        number("saving", "share of the float model's bytes that is saved, up to 1", |row| {
            Some(row.candidate.saving)
        }),
        number("perplexity", "of a language model; empty for a classifier", |row| row.counts.perplexity()),
        number("accuracy", "share of sentences classified rightly; empty for a language model", |row| {
            row.counts.accuracy()
        }),
        number(
            "quality_loss",
            "against the float model: relative increase of perplexity, or accuracy lost as a fraction of all sentences",
            |row| row.candidate.quality_loss,
        ),
        number("nll_nats", "summed negative log-likelihood, exact to 2^-24", |row| {
            Some(row.counts.nll.nats())
        }),
        count("tokens", "scored tokens; 0 for a classifier", |row| row.counts.scored_tokens),
        count("hits", "sentences classified rightly; 0 for a language model", |row| row.counts.hits),
        count("sentences", "classified sentences; 0 for a language model", |row| row.counts.sentences),
        count("positions", "tokens that went through the network", |row| row.counts.processed_tokens),
        number(
            "firing_rate",
            "spikes per neuron and token over all populations, 0 to 1; none of a network without spikes",
            |row| row.candidate.firing_rate,
        ),
        text("spikes", "spikes of each population, separated by spaces", spikes),
        text("schemes", "UNIT=SCHEME for everything that may be quantized, separated by spaces", |row| {
            row.candidate.schemes.clone()
        }),
    ];
    // The footprint has its column. Costs that came later stand at the end, so that the others keep their places.
    let (first, later): (Vec<Cost>, Vec<Cost>) =
        Cost::all().filter(|cost| *cost != Cost::Footprint).partition(|cost| *cost <= Cost::WorkingMemory);
    columns.extend(first.into_iter().map(|cost| cost_column(cost.model())));
    columns.push(text(
        "engines",
        "what measured it (program, version, backend, processor), separated by `; `; empty where that is not known",
        |row| row.candidate.engines.join("; "),
    ));
    columns.extend([
        text(
            "checkpoint",
            "content hash of the checkpoint; `real-embedding` follows where its embedding is not binary",
            |row| row.candidate.checkpoint.clone(),
        ),
        text("data", "content hashes of the text (or labelled sentences) and the tokenizer", |row| {
            row.candidate.data.clone()
        }),
        text("protocol", "what was measured, and on how much of the data", |row| {
            row.candidate.protocol.clone()
        }),
        text(
            "engine",
            "version of the engine and its backend: what decides the numbers, whoever measured",
            |row| row.candidate.engine.clone(),
        ),
        number(
            "quality_loss_low",
            "lower end of the 95 % interval of quality_loss, paired by window or sentence; empty where the spread is not known",
            |row| row.candidate.quality_loss_interval.map(|interval| interval.low),
        ),
        number("quality_loss_high", "upper end of that interval", |row| {
            row.candidate.quality_loss_interval.map(|interval| interval.high)
        }),
        count("pairs", "windows or sentences whose losses were compared with the float model's; 0 where the spread is not known", |row| {
            row.spread.map_or(0, |spread| spread.sequences)
        }),
        count(
            "squared_differences",
            "summed squares of these differences, in units of (2^-12 nat)^2; of a classifier the sentences that differ",
            |row| row.spread.map_or(0, |spread| spread.squares),
        ),
        number(
            "predicted_loss",
            "relative increase of perplexity that the search expected when it proposed it; empty where it predicts none",
            |row| row.candidate.predicted_loss,
        ),
        count("is_float", "1 for the float model, else 0", |row| flag(row.standing.is_float)),
        count("on_front", "1 on the front, else 0", |row| flag(row.standing.on_front)),
        count("meets_constraints", "1 within every bound of the constraints, else 0", |row| {
            flag(row.standing.meets_constraints)
        }),
        count("chosen", "1 for the candidate that the trade-off picks, else 0", |row| flag(row.standing.chosen)),
        number("trade_off", "value of the trade-off; empty before the float model is measured", |row| {
            row.standing.trade_off
        }),
        number(
            "kl",
            "mean KL divergence of the predictions from the float model's, in nats per scored token or sentence; empty where \
             the experiment does not ask",
            |row| row.counts.mean_kl(),
        ),
        number("kl_nats", "the same summed, exact to 2^-24", |row| row.counts.kl.map(Nll::nats)),
    ]);
    columns.extend(later.into_iter().map(|cost| cost_column(cost.model())));
    columns.push(text("name", "what a list calls it; empty without a name", |row| row.standing.name.clone()));
    columns
}

/// 1 for what is so, else 0: programs filter by it whatever the form of the export.
fn flag(is_so: bool) -> u64 {
    u64::from(is_so)
}

/// The column of a cost, empty where the spec does not describe what the cost is about.
fn cost_column(model: &CostModel) -> Column {
    let CostModel { name, unit, about, needs, .. } = *model;
    let empty = needs.map(|needs| format!("; empty where the spec has no `[device.{}]`", needs.key));
    Column {
        name: format!("{name}_{}", unit.in_names),
        about: format!("{about}{}", empty.unwrap_or_default()),
        read: Read::Cost(name),
    }
}

fn id(row: &CandidateRow) -> String {
    let id = <[u8; 32]>::try_from(&row.candidate.candidate[..]);
    id.map_or(String::new(), |bytes| ContentHash::from_bytes(bytes).to_string())
}

fn spikes(row: &CandidateRow) -> String {
    row.counts.spikes.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_columns_are_what_other_programs_rely_on() {
        let names: Vec<String> = columns().into_iter().map(|column| column.name).collect();
        let expected = "stage candidate footprint_bytes saving perplexity accuracy quality_loss nll_nats tokens hits \
                        sentences positions firing_rate spikes schemes";
        assert_eq!(names[..15].join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
        let costs = [
            "macs_per_token",
            "acs_per_token",
            "published_macs_per_token",
            "published_acs_per_token",
            "energy_joules_per_token",
            "energy_arithmetic_joules_per_token",
            "energy_registers_joules_per_token",
            "energy_sram_joules_per_token",
            "energy_dram_joules_per_token",
            "published_energy_joules_per_token",
            "state_bytes",
            "nonvolatile_bytes",
            "sram_bytes",
            "two_memory_energy_joules_per_token",
            "two_memory_area_mm2",
            "latency_seconds_per_token",
            "device_footprint_bytes",
            "link_bytes_per_token",
            "split_latency_seconds_per_token",
            "resident_bytes",
            "working_memory_bytes",
        ];
        assert_eq!(names[15..36], costs);
        assert_eq!(names[36..41], ["engines", "checkpoint", "data", "protocol", "engine"]);
        assert_eq!(
            names[41..],
            [
                "quality_loss_low",
                "quality_loss_high",
                "pairs",
                "squared_differences",
                "predicted_loss",
                "is_float",
                "on_front",
                "meets_constraints",
                "chosen",
                "trade_off",
                "kl",
                "kl_nats",
                "table_cycles_per_token",
                "table_energy_joules_per_token",
                "name"
            ]
        );
    }
}
