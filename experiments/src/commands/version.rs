//! `qslm version`: what this program is and what it found to run on.

use clap::Args;
use qslm_common::ENGINE_VERSION;
use qslm_common::backend::Backend;
use qslm_engine::backend::BACKENDS;
use qslm_worker::capabilities::cpu_features;
use serde::Serialize;

use crate::exit::Outcome;
use crate::output::{Output, print_data, print_pairs};

/// Print version, commit, backends and processor features.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qslm version --output json")]
pub struct Version {
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed document; its keys are part of the interface.
#[derive(Serialize)]
struct VersionReport {
    version: &'static str,
    /// The commit that it was built from; `unknown` outside a repository.
    commit: &'static str,
    /// Results of another engine version are not mixed with this one's.
    engine_version: u32,
    backends: &'static [Backend],
    cores: usize,
    /// Features of the processor that the kernels may use.
    cpu_features: Vec<&'static str>,
}

impl Version {
    /// Prints it.
    pub fn run(self) -> Outcome {
        let report = VersionReport {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("QSLM_COMMIT"),
            engine_version: ENGINE_VERSION,
            backends: BACKENDS,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_features: cpu_features(),
        };
        if self.output != Output::Table {
            return print_data(self.output, &report);
        }
        let pairs = [
            ("version", report.version.to_owned()),
            ("commit", report.commit.to_owned()),
            ("engine version", report.engine_version.to_string()),
            ("backends", report.backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            ("cores", report.cores.to_string()),
            ("cpu features", report.cpu_features.join(", ")),
        ];
        print_pairs(&pairs.map(|(name, value)| (name.to_owned(), value)))
    }
}
