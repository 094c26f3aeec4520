//! `qslm inspect`: what a checkpoint holds, float or packed.

mod first_window;
mod resources;
mod statistics;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use qslm_common::candidate::Candidate;
use qslm_common::footprint::{file_bytes, float_bytes, saving, stored_bytes, vector_bytes};
use qslm_common::network::Network;
use qslm_common::storage::CodedSizes;
use qslm_engine::checkpoint::packed::{Manifest, Provenance};
use qslm_engine::checkpoint::{Checkpoint, CheckpointError, Inspected};
use qslm_report::words::{bytes, grouped};
use serde::Serialize;

use crate::exit::Outcome;
use crate::fetched;
use crate::input::unreadable;
use crate::inputs::DataArgs;
use crate::known::Known;
use crate::member::MemberArgs;
use crate::output::{Output, align_right, plain_table, print, print_data};
use first_window::FirstWindow;
use resources::WorkerResources;
use statistics::UnitStatistics;

/// Print hierarchy, shapes, parameters, bytes and schemes of a checkpoint, and what tells which quantizers can help it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm inspect experiments/models/wikitext2-xs.safetensors
  qslm inspect packed.safetensors --output json
  qslm inspect hf://OWNER/NAME/model.safetensors
  qslm inspect model.pth --family rwkv4 --tokenizer tokenizer.json --text valid.txt --window 128
  qslm inspect model.safetensors --resources --window 512
  qslm inspect model.safetensors --statistics
  qslm inspect model.safetensors --statistics --tokenizer tokenizer.json --text train.txt --window 128 --windows 64")]
pub struct Inspect {
    /// A float checkpoint (PyTorch, safetensors, or the index of several files) or a packed file; of any other file,
    /// its tensors are listed
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    member: MemberArgs,
    /// Print statistics of the weights: kurtosis, largest over root mean square, entropy of codes at each width. With data
    /// also of what enters each matrix: largest over median second moment, condition of the Hessian, loss that GPTQ leaves
    #[arg(long)]
    statistics: bool,
    /// Print memory and threads that a worker needs per slot for this network and --window
    #[arg(long)]
    resources: bool,
    #[command(flatten)]
    data: DataArgs,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed document; its keys are part of the interface.
// A document: one field for each figure.
#[derive(Serialize)]
struct Inspection {
    network: Network,
    parameters: u64,
    matrices: usize,
    matrix_parameters: u64,
    vector_parameters: u64,
    macs_per_token: u64,
    float_bytes: u64,
    footprint_bytes: u64,
    saving: f64,
    /// Bytes of the file itself: of a packed one, its tensors and its header.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_bytes: Option<u64>,
    packed: bool,
    candidate: String,
    provenance: Option<Provenance>,
    /// Changes made to the names of its tensors; absent where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    units: Vec<UnitReport>,
    /// Statistics of every matrix, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Vec<UnitStatistics>>,
    /// Losses of the first window of a language model, if data was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_window: Option<FirstWindow>,
    /// Resources of a worker, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<WorkerResources>,
    /// Scheme of one-dimensional parameters; their bytes.
    vectors: String,
    vector_bytes: u64,
    /// Schemes of membranes by population; absent where float.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    membranes: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct UnitReport {
    name: String,
    rows: usize,
    columns: usize,
    parameters: u64,
    scheme: String,
    /// Scheme of the linear's input; absent where float.
    #[serde(skip_serializing_if = "Option::is_none")]
    activation: Option<String>,
    bytes: u64,
}

impl Inspect {
    /// Reads the header and prints.
    pub fn run(mut self) -> Outcome {
        fetched::find([&mut self.file])?;
        self.data.find()?;
        let member = self.member.member(&self.file)?;
        let Inspected { network, manifest, notes } = match Checkpoint::inspect(&self.file, member) {
            Ok(inspected) => inspected,
            Err(error) => return self.list(&error),
        };
        let candidate = manifest.as_ref().map_or_else(|| Candidate::float(&network), Manifest::to_candidate);
        let sizes = manifest.as_ref().map_or_else(CodedSizes::default, Manifest::sizes);
        let footprint = file_bytes(&network, &candidate, &sizes);
        let unit = |unit: qslm_common::network::Unit| {
            let scheme = candidate.scheme(&unit.name);
            UnitReport {
                parameters: unit.weights(),
                bytes: stored_bytes(&unit, scheme, &sizes),
                scheme: scheme.to_string(),
                activation: candidate.activation(&unit.name).map(|scheme| scheme.to_string()),
                rows: unit.rows,
                columns: unit.columns,
                name: unit.name,
            }
        };
        let units: Vec<_> = network.units().into_iter().map(unit).collect();
        let statistics = match self.statistics {
            true => Some(statistics::of(&self.file, member, &self.data)?),
            false => None,
        };
        let resources = match self.resources {
            true => Some(WorkerResources::of(&network, self.data.window()?)),
            false => None,
        };
        let first_window = match self.data.is_given() {
            true => first_window::of(&self.file, member, &self.data)?,
            false => None,
        };
        let report = Inspection {
            network,
            parameters: network.parameters(),
            matrices: units.len(),
            matrix_parameters: network.matrix_parameters(),
            vector_parameters: network.vector_parameters(),
            macs_per_token: network.macs_per_token(),
            float_bytes: float_bytes(&network),
            footprint_bytes: footprint,
            saving: saving(&network, footprint),
            file_bytes: std::fs::metadata(&self.file).ok().map(|file| file.len()),
            packed: manifest.is_some(),
            candidate: candidate.id().to_string(),
            provenance: manifest.map(|manifest| manifest.provenance),
            notes,
            units,
            statistics,
            first_window,
            resources,
            vectors: candidate.vectors().to_string(),
            vector_bytes: vector_bytes(&network, &candidate),
            membranes: candidate.membranes().map(|(name, s)| (name.to_owned(), s.to_string())).collect(),
        };
        match self.output {
            Output::Json | Output::Yaml => print_data(self.output, &report),
            Output::Table => {
                print(&report.table())?;
                report.resources.iter().try_for_each(|resources| print(&resources.table()))?;
                report.first_window.iter().try_for_each(|first| print(&first.lines(&network)))?;
                report.statistics.iter().try_for_each(|all| print(&statistics::table(all)))
            }
        }
    }

    /// Prints the tensors of a file that is no such network, and fails with what is wrong.
    fn list(&self, error: &CheckpointError) -> Outcome {
        let failure = unreadable(&self.file, error);
        // A packed file says itself what it is, and is broken then.
        let other = matches!(
            error,
            CheckpointError::Missing(_)
                | CheckpointError::Extra { .. }
                | CheckpointError::Shape { .. }
                | CheckpointError::Ambiguous(_)
        );
        if !other {
            return Err(failure);
        }
        let Ok(listed) = Checkpoint::list(&self.file) else { return Err(failure) };
        let tensors: Vec<_> = listed
            .into_iter()
            .map(|tensor| Other { tensor: tensor.name, dtype: tensor.dtype, shape: tensor.shape })
            .collect();
        if self.output != Output::Table {
            print_data(self.output, &tensors)?;
        } else if !tensors.is_empty() {
            let mut table = plain_table();
            table.set_header(["tensor", "type", "shape"]);
            for Other { tensor, dtype, shape } in &tensors {
                table.add_row([tensor, dtype, &format!("{shape:?}")]);
            }
            print(&format!("{table}\n"))?;
        }
        Err(failure)
    }
}

/// A tensor of a file that is no such network.
#[derive(Serialize)]
struct Other {
    tensor: String,
    dtype: String,
    shape: Vec<usize>,
}

impl Inspection {
    fn table(&self) -> String {
        let Network { vocabulary, channels, hidden, blocks, outputs, .. } = self.network;
        let embedding = if self.network.binary_embedding { "binary" } else { "real-valued" };
        let dynamics = match self.network.dynamics {
            dynamics if dynamics.is_default() => String::new(),
            dynamics => format!("\n{dynamics}"),
        };
        let mut text = format!(
            "V {vocabulary}, D {channels}, hidden {hidden}, L {blocks}, outputs {outputs}, {embedding} embedding{dynamics}\n\
             {} parameters in {} matrices and {} outside, {} MACs per token\n\
             {} of {} in float ({:.2} % saved){}\n",
            grouped(self.parameters),
            self.matrices,
            grouped(self.vector_parameters),
            grouped(self.macs_per_token),
            bytes(self.footprint_bytes),
            bytes(self.float_bytes),
            self.saving * 100.0,
            match self.file_bytes {
                Some(file) if self.packed => format!(", {} with the header of the file", bytes(file)),
                _ => String::new(),
            },
        );
        self.notes.iter().for_each(|note| text.push_str(&format!("{note}\n")));
        if let Some(provenance) = &self.provenance {
            let experiment = provenance.experiment.as_deref().unwrap_or("no experiment");
            let (candidate, checkpoint) = (&self.candidate[..12], provenance.checkpoint.short());
            text.push_str(&format!(
                "packed: candidate {candidate} of {experiment}, from checkpoint {checkpoint}\n"
            ));
            let measured = Known::words(provenance.conditions.as_ref(), provenance.measurement.as_ref());
            text.extend(measured.map(|words| format!("measured: {words}\n")));
            if let Some(origin) = &provenance.origin {
                text.push_str(&format!("its checkpoint was fetched from {origin}\n"));
            }
            if !provenance.reproducible {
                text.push_str("not reproducible: graphics cards measured or trained\n");
            }
        }
        let mut table = plain_table();
        let quantized_inputs = self.units.iter().any(|unit| unit.activation.is_some());
        let mut header = vec!["unit", "rows", "columns", "parameters", "bytes", "scheme"];
        header.extend(quantized_inputs.then_some("activation"));
        table.set_header(header);
        align_right(&mut table, |place| (1..5).contains(&place));
        for unit in &self.units {
            let numbers = [unit.rows as u64, unit.columns as u64, unit.parameters, unit.bytes];
            let mut row = vec![unit.name.clone()];
            row.extend(numbers.map(grouped));
            row.push(unit.scheme.clone());
            row.extend(unit.activation.clone());
            table.add_row(row);
        }
        let mut vectors = ["one-dimensional", "", "", "", "", ""].map(str::to_owned);
        vectors[3] = grouped(self.vector_parameters);
        vectors[4] = grouped(self.vector_bytes);
        vectors[5].clone_from(&self.vectors);
        table.add_row(vectors);
        let membranes = self.membranes.iter().map(|(name, scheme)| format!("{name} {scheme}\n"));
        format!("{text}\n{table}\n{}", membranes.collect::<String>())
    }
}
