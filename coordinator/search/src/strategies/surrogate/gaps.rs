//! Gaps of a front, and the candidates that fill them.

/// Places of at most `count` values, one after the other that which is farthest from all that are there: it lies in the
/// largest gap, as near to its middle as can be, or furthest beyond the ends. Of equals the first.
pub(super) fn filling(there: &[f64], values: &[f64], count: usize) -> Vec<usize> {
    let distance = |value: f64| there.iter().map(|other| (value - other).abs()).fold(f64::INFINITY, f64::min);
    let mut distances: Vec<f64> = values.iter().map(|value| distance(*value)).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count.min(values.len()) {
        let open = (0..values.len()).filter(|place| !chosen.contains(place)).rev();
        let Some(farthest) = open.max_by(|a, b| distances[*a].total_cmp(&distances[*b])) else { break };
        chosen.push(farthest);
        for (distance, value) in distances.iter_mut().zip(values) {
            *distance = distance.min((value - values[farthest]).abs());
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_largest_gap_comes_first() {
        let there = [0.0, 10.0, 12.0];
        assert_eq!(filling(&there, &[11.0, 1.0, 4.0, 6.0, 9.0], 1), [2], "of 4 and 6 the first");
        assert_eq!(
            filling(&there, &[11.0, 1.0, 4.0, 6.0, 9.0], 3),
            [2, 3, 0],
            "then 2 from 4, then the first of 1"
        );
        assert_eq!(filling(&there, &[20.0, 5.0], 9), [0, 1], "beyond an end is a gap, too");
        assert_eq!(filling(&[], &[3.0, 3.0, 5.0], 2), [0, 2], "what is there already is farthest last");
        assert_eq!(filling(&there, &[], 2), [0usize; 0]);
    }
}
