//! Batches of windows or sentences, drawn from a text or a list by a seed.
//!
//! A text is cut into windows from an offset on, and these are taken in a random order, each once; then it is cut again
//! from another offset. Sentences are taken in a random order, each once, then in another. Integers alone decide, so a seed
//! means the same batches everywhere.

/// Windows or sentences without end.
#[derive(Debug, Clone)]
pub struct Draw {
    stock: Stock,
    generator: Generator,
    /// Starts of the windows that are left of this cut, or indices of the sentences that are left; the next one last.
    left: Vec<usize>,
}

/// What is drawn from.
#[derive(Debug, Clone, Copy)]
enum Stock {
    /// A text of so many tokens, in windows of so many predictions.
    Text { tokens: usize, window: usize },
    /// So many sentences.
    Sentences(usize),
}

impl Draw {
    /// Windows of so many predictions, from a text of so many tokens.
    ///
    /// # Panics
    /// If the text is too short for one.
    pub fn new(tokens: usize, window: usize, seed: u64) -> Self {
        assert!(window > 0 && tokens > window, "{tokens} tokens have no window of {window} predictions");
        Self { stock: Stock::Text { tokens, window }, generator: Generator::new(seed), left: Vec::new() }
    }

    /// Sentences out of so many.
    ///
    /// # Panics
    /// If there are none.
    pub fn of_sentences(sentences: usize, seed: u64) -> Self {
        assert!(sentences > 0, "there is no sentence to draw");
        Self { stock: Stock::Sentences(sentences), generator: Generator::new(seed), left: Vec::new() }
    }

    /// The next windows, as tokens that enter and the one that the last of them predicts.
    ///
    /// # Panics
    /// If sentences are drawn.
    pub fn batch<'t>(&mut self, text: &'t [u32], windows: usize) -> Vec<&'t [u32]> {
        let Stock::Text { window, .. } = self.stock else { panic!("sentences have no windows") };
        (0..windows).map(|_| &text[self.next()..][..=window]).collect()
    }

    /// The next starts of windows, or indices of sentences.
    pub fn indices(&mut self, count: usize) -> Vec<usize> {
        (0..count).map(|_| self.next()).collect()
    }

    /// Start of the next window, or index of the next sentence.
    fn next(&mut self) -> usize {
        if let Some(next) = self.left.pop() {
            return next;
        }
        self.left = match self.stock {
            Stock::Text { tokens, window } => {
                let spare = tokens - 1 - window;
                let offset = self.generator.below(window.min(spare + 1));
                (offset..=spare).step_by(window).collect()
            }
            Stock::Sentences(sentences) => (0..sentences).collect(),
        };
        for last in (1..self.left.len()).rev() {
            let other = self.generator.below(last + 1);
            self.left.swap(last, other);
        }
        // There is at least one: constructors see to it.
        self.left.pop().unwrap_or_default()
    }
}

/// Random numbers of a seed (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    state: u64,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number, any of 2^64.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
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
                let mut starts = vec![draw.next()];
                while !draw.left.is_empty() {
                    starts.push(draw.next());
                }
                let cut: BTreeSet<usize> = starts.iter().copied().collect();
                prop_assert_eq!(cut.len(), starts.len());
                prop_assert!(starts.iter().all(|start| start + window < tokens));
                prop_assert!(starts.iter().all(|start| start % window == starts[0] % window));
                let missed = tokens - 1 - starts.len() * window;
                prop_assert!(missed < 2 * window, "at most one window is lost to both ends");
                prop_assert!(starts.iter().all(|start| *start == again.next()), "a seed says all");
            }
        }
    }

    #[test]
    fn every_sentence_comes_once_before_any_comes_again() {
        let mut draw = Draw::of_sentences(50, 3);
        let epochs: Vec<Vec<usize>> = (0..3).map(|_| draw.indices(50)).collect();
        for epoch in &epochs {
            assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 50);
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        // However they are cut into batches.
        let mut again = Draw::of_sentences(50, 3);
        let batches: Vec<usize> = (0..10).flat_map(|_| again.indices(15)).collect();
        assert_eq!(batches, epochs.concat());
        assert_ne!(Draw::of_sentences(50, 4).indices(50), epochs[0]);
    }

    #[test]
    fn seeds_differ_and_windows_overlap_by_what_is_predicted() {
        let text: Vec<u32> = (0..1000).collect();
        let batch = |seed| Draw::new(1000, 10, seed).batch(&text, 8).concat();
        assert_ne!(batch(1), batch(2));
        assert!(Draw::new(1000, 10, 1).batch(&text, 8).iter().all(|window| window.len() == 11));
    }
}
