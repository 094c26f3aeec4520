//! Sparse outliers: the most extreme numbers of a tensor as floats, with their places.

use std::ops::Range;

/// One of so many numbers is an outlier (1 %: QFT, 2310.07147).
const ONE_OF: usize = 100;

/// Number of outliers among so many numbers.
pub(crate) fn count(numbers: usize) -> usize {
    numbers.div_ceil(ONE_OF)
}

/// Floats with their places in a tensor, which stay what they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sparse {
    /// Ascending.
    places: Vec<u32>,
    values: Vec<f32>,
}

/// Outliers next to each other, to be changed.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) places: &'a [u32],
    pub(crate) values: &'a mut [f32],
}

impl Sparse {
    /// The outliers of a tensor: the numbers of the largest magnitude, of equal ones the first.
    ///
    /// # Panics
    /// If it has more numbers than a place can name.
    pub(crate) fn of(values: &[f32]) -> Self {
        let end = u32::try_from(values.len()).expect("a matrix of a network has fewer than 2^32 weights");
        let mut places: Vec<u32> = (0..end).collect();
        let count = count(values.len());
        if count < values.len() {
            let magnitude = |place: &u32| values[*place as usize].abs();
            places.select_nth_unstable_by(count, |a, b| {
                magnitude(b).total_cmp(&magnitude(a)).then_with(|| a.cmp(b))
            });
            places.truncate(count);
            // Room for all of them is no use any more.
            places.shrink_to_fit();
        }
        places.sort_unstable();
        let values = places.iter().map(|place| values[*place as usize]).collect();
        Self { places, values }
    }

    /// Writes those of a range over what is there of it.
    pub(crate) fn read(&self, range: Range<usize>, out: &mut [f32]) {
        let first = self.before(range.start);
        for (place, value) in self.places[first..].iter().zip(&self.values[first..]) {
            match out.get_mut(*place as usize - range.start) {
                Some(to) => *to = *value,
                None => break,
            }
        }
    }

    /// Places, ascending.
    pub(crate) fn places(&self) -> &[u32] {
        &self.places
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The outliers of every so many numbers, of `total`.
    pub(crate) fn pieces_mut(&mut self, total: usize, numbers: usize) -> Vec<Piece<'_>> {
        let ends = (0..total).step_by(numbers).map(|start| self.before(start + numbers));
        let ends: Vec<usize> = ends.collect();
        let (mut places, mut values, mut done) = (&*self.places, &mut *self.values, 0);
        let mut pieces = Vec::with_capacity(ends.len());
        for end in ends {
            let (places_here, places_after) = places.split_at(end - done);
            let (values_here, values_after) = values.split_at_mut(end - done);
            pieces.push(Piece { places: places_here, values: values_here });
            (places, values, done) = (places_after, values_after, end);
        }
        pieces
    }

    /// Number of outliers before a place.
    fn before(&self, place: usize) -> usize {
        self.places.partition_point(|at| (*at as usize) < place)
    }

    /// Bytes of places and values.
    pub(crate) fn bytes(&self) -> u64 {
        (size_of_val(&*self.places) + size_of_val(&*self.values)) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn outliers_are_the_largest_and_are_restored_to_the_bit(
            values in prop::collection::vec(any::<f32>().prop_filter("finite", |x| x.is_finite()), 1..900),
            cut in 0.0f64..1.0,
            piece in 1usize..300,
        ) {
            let mut sparse = Sparse::of(&values);
            prop_assert_eq!(sparse.places.len(), values.len().div_ceil(100));
            prop_assert!(sparse.places.is_sorted_by(|a, b| a < b));
            let mut read = vec![f32::NAN; values.len()];
            sparse.read(0..values.len(), &mut read);
            let is_in = |at: usize| sparse.places.contains(&(at as u32));
            let inside = (0..values.len()).filter(|at| is_in(*at));
            let least = inside.map(|at| values[at].abs()).fold(f32::INFINITY, f32::min);
            for (at, (read, value)) in read.iter().zip(&values).enumerate() {
                if is_in(at) {
                    prop_assert_eq!(read.to_bits(), value.to_bits());
                } else {
                    prop_assert!(read.is_nan() && value.abs() <= least);
                }
            }
            let start = (cut * values.len() as f64) as usize;
            let mut part = vec![f32::NAN; values.len() - start];
            sparse.read(start..values.len(), &mut part);
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&part), bits(&read[start..]));

            let all = sparse.clone();
            let pieces = sparse.pieces_mut(values.len(), piece);
            prop_assert_eq!(pieces.len(), values.len().div_ceil(piece));
            for (index, piece_of) in pieces.iter().enumerate() {
                let range = index * piece..(index + 1) * piece;
                prop_assert!(piece_of.places.iter().all(|place| range.contains(&(*place as usize))));
            }
            let joined: Vec<u32> = pieces.iter().flat_map(|piece| piece.places).copied().collect();
            prop_assert_eq!(joined, all.places);
        }
    }
}
