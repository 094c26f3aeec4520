//! Kernels: the arithmetic of a network as loops over raw buffers.
//!
//! Buffers are row-major `[time, channel]`. Two modules multiply matrices: `product` fuses multiplication and
//! addition, for every instruction set alike, and `integer` is exact. The others are what happens between two
//! products. Their loops run over channels inside and time outside, so the compiler vectorises over channels;
//! every function is compiled once per instruction set and chosen at run time, and no operation is fused or
//! reordered by that choice, so all give the same bits.

pub mod divergence;
pub mod exp;
pub mod gradient;
pub mod grid;
pub mod integer;
pub mod lif;
pub mod loss;
pub mod mean;
pub mod norm;
pub mod outer;
pub mod peak;
pub mod product;
pub mod shift;
mod simd;
pub mod step;
pub mod wkv;
