//! As in the engine, but for `lif`, which has types of other packages.

#[path = "../../../src/kernels/exp.rs"]
pub mod exp;
#[path = "../../../src/kernels/grid.rs"]
pub mod grid;
#[path = "../../../src/kernels/integer/mod.rs"]
pub mod integer;
#[path = "../../../src/kernels/loss.rs"]
pub mod loss;
#[path = "../../../src/kernels/norm.rs"]
pub mod norm;
#[path = "../../../src/kernels/outer.rs"]
pub mod outer;
#[path = "../../../src/kernels/peak.rs"]
pub mod peak;
#[path = "../../../src/kernels/product/mod.rs"]
pub mod product;
#[path = "../../../src/kernels/shift.rs"]
pub mod shift;
#[path = "../../../src/kernels/simd.rs"]
mod simd;
#[path = "../../../src/kernels/wkv.rs"]
pub mod wkv;
