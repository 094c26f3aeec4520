//! Pareto fronts and their hypervolume, for two or three losses that are all minimised.
//!
//! A point is a slice of finite losses. `a` dominates `b` if it is nowhere larger and somewhere smaller;
//! equal points do not dominate each other, so duplicates of a front point are all on the front.

mod front;
mod frontier;
mod hypervolume;

pub use front::front;
pub use frontier::Frontier;
pub use hypervolume::hypervolume;

/// Pareto dominance: `a` is nowhere larger than `b`, somewhere smaller. Source: Zitzler et al., "Performance
/// assessment of multiobjective optimizers", 2003, table 1.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    let no_worse = a.iter().zip(b).all(|(a, b)| a <= b);
    no_worse && a.iter().zip(b).any(|(a, b)| a < b)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    /// Points on a coarse grid, so that ties and duplicates are the rule.
    pub(crate) fn points(axes: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
        let point = prop::collection::vec((0i32..8).prop_map(f64::from), axes);
        prop::collection::vec(point, 0..24)
    }
}
