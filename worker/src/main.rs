//! `qslm-worker`: measures candidates for a coordinator.

use std::process::ExitCode;

fn main() -> ExitCode {
    qslm_worker::program::main()
}
