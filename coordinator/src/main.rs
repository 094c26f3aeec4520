//! `qslm-coordinator`: serves experiments to workers and people.

use std::process::ExitCode;

fn main() -> ExitCode {
    qslm_coordinator::program::main()
}
