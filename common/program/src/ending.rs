//! The end of a program that failed, for whoever started it: a line on standard error, an exit code, and a file with both.
//!
//! Logs of a pod are gone with it, and hold much besides. What stands in the file that `QSLM_TERMINATION_MESSAGE` names,
//! `/dev/termination-log` in a pod, Kubernetes keeps as the reason why a container ended.

use std::path::Path;
use std::process::ExitCode;

use crate::said::say;

/// Variable that names the file.
pub const TERMINATION_MESSAGE: &str = "QSLM_TERMINATION_MESSAGE";

/// Ends a program that failed: prints why, leaves it with the code in the file if one is named, and is the code.
pub fn fail(code: u8, why: &str) -> ExitCode {
    if !why.is_empty() {
        say(format_args!("error: {why}"));
    }
    if let Some(file) = std::env::var_os(TERMINATION_MESSAGE).filter(|file| !file.is_empty()) {
        leave(Path::new(&file), code, why);
    }
    ExitCode::from(code)
}

fn leave(file: &Path, code: u8, why: &str) {
    let text = match why {
        "" => format!("exit code {code}\n"),
        why => format!("exit code {code}: {why}\n"),
    };
    if let Err(error) = std::fs::write(file, text) {
        say(format_args!("{TERMINATION_MESSAGE} = {}: cannot be written: {error}", file.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_code_and_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("termination-log");
        leave(&file, 6, "no candidate meets the constraints");
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            "exit code 6: no candidate meets the constraints\n"
        );
        leave(&file, 1, "");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "exit code 1\n");
    }
}
