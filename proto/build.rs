//! Compiles the proto files with protox, so that no `protoc` has to be installed.
#![expect(clippy::disallowed_macros, reason = "cargo reads what a build script prints")]

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=qslm");
    let files = protox::compile(["qslm/v1/qslm.proto"], ["."])?;
    // What reflection serves. Cargo tells a build script by a variable where its output goes.
    #[expect(clippy::disallowed_methods)]
    let out = std::env::var("OUT_DIR")?;
    let set = std::path::Path::new(&out).join("qslm.bin");
    std::fs::write(set, files.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
