//! Tells the tests whether the reference data was promised, so that a comparison that is not made is shown as
//! ignored, with the reason, instead of passing in silence; and the program from which commit it was built.
#![expect(clippy::disallowed_macros, reason = "cargo reads what a build script prints")]

use std::process::Command;

fn main() {
    // A release archive has no history.
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit =
        git.ok().filter(|git| git.status.success()).and_then(|git| String::from_utf8(git.stdout).ok());
    println!("cargo:rustc-env=QSLM_COMMIT={}", commit.as_deref().unwrap_or("unknown").trim());
    println!("cargo:rerun-if-changed=../.git/logs/HEAD");
    println!("cargo:rustc-check-cfg=cfg(qslm_shared)");
    println!("cargo:rerun-if-env-changed=QSLM_SHARED");
    if std::env::var_os("QSLM_SHARED").is_some() {
        println!("cargo:rustc-cfg=qslm_shared");
    }
}
