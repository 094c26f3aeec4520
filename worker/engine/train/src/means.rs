//! Means of sentences: what a classifier's head reads in the place of tokens.

use qslm_engine::kernels::{gradient, mean};

use crate::parallel::split_rows;

/// Buffers of a batch, so that they are not made anew for every one. `[sentences, channel]` each.
#[derive(Debug, Default)]
pub(crate) struct Means {
    features: Vec<f32>,
    /// The teacher's; none without a teacher.
    teacher: Vec<f32>,
    d: Vec<f32>,
}

impl Means {
    /// What `losses` gives for the means of sentences of so many tokens each. It is called with the means, those of the
    /// teacher, and the place for the gradient in the means, which is then shared out among tokens: in `d`.
    ///
    /// `rows` are the features of all tokens and the teacher's, `[tokens, channel]`, or none of a teacher.
    ///
    /// # Panics
    /// If the tokens of the sentences are not all rows.
    pub(crate) fn losses<Losses>(
        &mut self,
        lengths: &[usize],
        rows: [&[f32]; 2],
        d: &mut [f32],
        losses: impl FnOnce(&[f32], &[f32], &mut [f32]) -> Losses,
    ) -> Losses {
        let tokens: usize = lengths.iter().sum();
        let channels = d.len() / tokens.max(1);
        for (rows, means) in rows.into_iter().zip([&mut self.features, &mut self.teacher]) {
            means.resize(if rows.is_empty() { 0 } else { lengths.len() * channels }, 0.0);
            let mut start = 0;
            // One sentence after the other: this is a thousandth of what the blocks take.
            for (mean, length) in means.chunks_exact_mut(channels).zip(lengths) {
                mean::of_rows(&rows[start..start + length * channels], mean);
                start += length * channels;
            }
        }
        self.d.resize(lengths.len() * channels, 0.0);
        let losses = losses(&self.features, &self.teacher, &mut self.d);
        let d = split_rows(d, channels, lengths.iter().copied());
        for (d, d_mean) in d.into_iter().zip(self.d.chunks_exact(channels)) {
            gradient::mean::of_rows(d_mean, d);
        }
        losses
    }
}
