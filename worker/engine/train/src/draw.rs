//! Batches of windows, drawn from a text by a seed.
//!
//! A text is cut into windows from an offset on, and these are taken in a random order, each once; then it is cut again
//! from another offset. Integers alone decide, so a seed means the same batches everywhere.

/// Windows of a text without end.
#[derive(Debug, Clone)]
pub struct Draw {
    /// Tokens of the text.
    tokens: usize,
    /// Predictions of a window.
    window: usize,
    /// State of the generator (splitmix64).
    state: u64,
    /// Starts of the windows that are left of this cut, the next one last.
    left: Vec<usize>,
}

impl Draw {
    /// Windows of so many predictions, from a text of so many tokens.
    ///
    /// # Panics
    /// If the text is too short for one.
    pub fn new(tokens: usize, window: usize, seed: u64) -> Self {
        assert!(window > 0 && tokens > window, "{tokens} tokens have no window of {window} predictions");
        Self { tokens, window, state: seed, left: Vec::new() }
    }

    /// The next windows, as tokens that enter and the one that the last of them predicts.
    pub fn batch<'t>(&mut self, text: &'t [u32], windows: usize) -> Vec<&'t [u32]> {
        (0..windows).map(|_| &text[self.start()..][..=self.window]).collect()
    }

    /// Start of the next window.
    fn start(&mut self) -> usize {
        if let Some(start) = self.left.pop() {
            return start;
        }
        let spare = self.tokens - 1 - self.window;
        let offset = self.below(self.window.min(spare + 1));
        self.left = (offset..=spare).step_by(self.window).collect();
        for last in (1..self.left.len()).rev() {
            let other = self.below(last + 1);
            self.left.swap(last, other);
        }
        self.left.pop().unwrap_or(offset)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        ((u128::from(x) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_window_of_a_cut_comes_once_before_the_next_cut(
            tokens in 2usize..300,
            window in 1usize..40,
            seed: u64,
        ) {
            let window = window.min(tokens - 1);
            let mut draw = Draw::new(tokens, window, seed);
            let mut again = draw.clone();
            for _ in 0..3 {
                let mut starts = vec![draw.start()];
                while !draw.left.is_empty() {
                    starts.push(draw.start());
                }
                let cut: BTreeSet<usize> = starts.iter().copied().collect();
                prop_assert_eq!(cut.len(), starts.len());
                prop_assert!(starts.iter().all(|start| start + window < tokens));
                prop_assert!(starts.iter().all(|start| start % window == starts[0] % window));
                let missed = tokens - 1 - starts.len() * window;
                prop_assert!(missed < 2 * window, "at most one window is lost to both ends");
                prop_assert!(starts.iter().all(|start| *start == again.start()), "a seed says all");
            }
        }
    }

    #[test]
    fn seeds_differ_and_windows_overlap_by_what_is_predicted() {
        let text: Vec<u32> = (0..1000).collect();
        let batch = |seed| Draw::new(1000, 10, seed).batch(&text, 8).concat();
        assert_ne!(batch(1), batch(2));
        assert!(Draw::new(1000, 10, 1).batch(&text, 8).iter().all(|window| window.len() == 11));
    }
}
