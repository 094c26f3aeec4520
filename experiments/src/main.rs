//! `qslm`: search, submit, watch and read quantization experiments.

use std::process::ExitCode;

fn main() -> ExitCode {
    qslm::main()
}
