//! What happens between two matrix products, as loops over raw buffers.
//!
//! Buffers are row-major `[time, channel]`. Loops run over channels inside and time outside, so the
//! compiler vectorises over channels; every function is compiled once per instruction set and chosen at
//! run time. No operation is fused or reordered by that choice, so all give the same bits. `product` fuses
//! multiplication and addition, in all of them alike; `integer` is exact.

pub mod exp;
pub mod grid;
pub mod integer;
pub mod lif;
pub mod loss;
pub mod norm;
pub mod peak;
pub mod product;
pub mod shift;
mod simd;
pub mod wkv;
