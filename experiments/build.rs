//! Tells the tests whether the reference data was promised, so that a comparison that is not made is shown as
//! ignored, with the reason, instead of passing in silence.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(qslm_shared)");
    println!("cargo:rerun-if-env-changed=QSLM_SHARED");
    if std::env::var_os("QSLM_SHARED").is_some() {
        println!("cargo:rustc-cfg=qslm_shared");
    }
}
