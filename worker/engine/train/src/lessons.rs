//! Lessons: what a run learns from, a text that predicts itself or sentences with their classes.

use qslm_common::network::Network;
use qslm_engine::task::Dataset;

use crate::draw::Draw;
use crate::network::Window;

/// What a run learns from.
#[derive(Debug, Clone, PartialEq)]
pub enum Lessons<'t> {
    /// Tokens of a text, cut into windows of so many predictions.
    Text(&'t [u32]),
    /// Sentences, `[tokens]` each, with their classes. They enter whole.
    Sentences(Vec<(&'t [u32], u32)>),
}

/// Reason why there is nothing to learn for a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLessons {
    /// Too little text for one window.
    #[error("{tokens} tokens of text: a window takes {needed}")]
    Short {
        /// Tokens that there are.
        tokens: usize,
        /// Tokens of a window and the one that is predicted last.
        needed: usize,
    },
    /// A classifier without a sentence to learn from.
    #[error("a classifier learns from labelled sentences, and there are none")]
    NoSentences,
    /// A language model that is given classes.
    #[error("a language model learns from text, not from labelled sentences")]
    NoText,
}

impl<'t> Lessons<'t> {
    /// Those of a data set: its sentences, or its tokens if it has none.
    pub fn of(data: &'t Dataset) -> Self {
        let sentences: Vec<_> = data.sentences().collect();
        if sentences.is_empty() { Self::Text(data.all_tokens()) } else { Self::Sentences(sentences) }
    }

    /// Checks that a network learns from such, in windows of so many predictions.
    ///
    /// # Errors
    /// [`NoLessons`].
    pub(crate) fn check(&self, network: &Network, window: usize) -> Result<(), NoLessons> {
        match (self, network.is_classifier()) {
            (Self::Text(_), true) => Err(NoLessons::NoSentences),
            (Self::Sentences(sentences), true) if sentences.is_empty() => Err(NoLessons::NoSentences),
            (Self::Sentences(_), true) => Ok(()),
            (Self::Sentences(_), false) => Err(NoLessons::NoText),
            (Self::Text(text), false) if text.len() <= window => {
                Err(NoLessons::Short { tokens: text.len(), needed: window + 1 })
            }
            (Self::Text(_), false) => Ok(()),
        }
    }

    /// A draw from them at its start.
    ///
    /// # Panics
    /// If there is nothing to draw; see [`Lessons::check`].
    pub(crate) fn draw(&self, window: usize, seed: u64) -> Draw {
        match self {
            Self::Text(text) => Draw::new(text.len(), window, seed),
            Self::Sentences(sentences) => Draw::of_sentences(sentences.len(), seed),
        }
    }

    /// The next batch of a draw from them.
    pub(crate) fn batch(&self, draw: &mut Draw, count: usize) -> Vec<Window<'_>> {
        match self {
            Self::Text(text) => draw.batch(text, count).into_iter().map(Window::of).collect(),
            Self::Sentences(sentences) => {
                let drawn = draw.indices(count).into_iter().filter_map(|index| sentences.get(index));
                drawn.map(|(tokens, class)| Window::sentence(tokens, class)).collect()
            }
        }
    }
}
