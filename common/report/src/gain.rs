//! Gain of a search: what it found beside uniform candidates, which anyone can make without one.

use qslm_common::front_document::{FrontDocument, FrontRow, UniformRow};

use crate::words::{bytes, loss, percent};

/// Gain over one uniform candidate.
#[derive(Debug, Clone, Copy)]
pub struct Gain<'a> {
    /// The uniform candidate.
    pub uniform: &'a UniformRow,
    /// The smallest candidate of the front that loses no more; `None` where the front has none, or the uniform one itself.
    pub better: Option<&'a FrontRow>,
}

impl Gain<'_> {
    /// Bytes that the search saves at no more loss; 0 if nothing was gained.
    pub fn fewer_bytes(&self) -> u64 {
        self.better.map_or(0, |row| self.fewer_bytes_of(row))
    }

    /// Bytes that a candidate takes less than the uniform one; 0 if it does not.
    fn fewer_bytes_of(&self, row: &FrontRow) -> u64 {
        self.uniform.row.footprint_bytes.saturating_sub(row.footprint_bytes)
    }
}

/// Gain over every uniform candidate that was measured, the widest first.
pub fn gains(document: &FrontDocument) -> Vec<Gain<'_>> {
    let gain = |uniform| {
        let better = document.front.iter().filter(|row| is_better(row, uniform));
        Gain { uniform, better: better.min_by_key(|row| row.footprint_bytes) }
    };
    document.uniform.iter().map(gain).collect()
}

fn is_better(row: &FrontRow, uniform: &UniformRow) -> bool {
    let no_more_loss = row.quality_loss.zip(uniform.row.quality_loss).is_some_and(|(a, b)| a <= b);
    no_more_loss && row.footprint_bytes < uniform.row.footprint_bytes
}

/// Name of a uniform candidate as people say it: `uniform int4`; its whole scheme where another one has the same width.
pub fn name(uniform: &UniformRow, document: &FrontDocument) -> String {
    let width = |uniform: &UniformRow| uniform.scheme.split(':').next().unwrap_or_default().to_owned();
    let same = document.uniform.iter().filter(|other| width(other) == width(uniform)).count();
    format!("uniform {}", if same > 1 { uniform.scheme.clone() } else { width(uniform) })
}

/// Gain over the uniform candidate that one would have taken without a search: the smallest that loses no more than the
/// chosen one, or if there is none, the one that loses least; without a chosen one, the largest gain. `None` before one is
/// measured.
pub fn reference(document: &FrontDocument) -> Option<Gain<'_>> {
    let gains = gains(document);
    let most = document.chosen.as_ref().and_then(|chosen| chosen.quality_loss);
    let within =
        |gain: &&Gain<'_>| gain.uniform.row.quality_loss.zip(most).is_some_and(|(loss, most)| loss <= most);
    let smallest = gains.iter().filter(within).min_by_key(|gain| gain.uniform.row.footprint_bytes);
    let loss = |gain: &Gain<'_>| gain.uniform.row.quality_loss.unwrap_or(f64::INFINITY);
    let is_open = document.chosen.is_none();
    let largest =
        gains.iter().filter(|gain| is_open && gain.fewer_bytes() > 0).max_by_key(|gain| gain.fewer_bytes());
    smallest.or(largest).or_else(|| gains.iter().min_by(|a, b| loss(a).total_cmp(&loss(b)))).copied()
}

/// What the search bought beside the [`reference()`]: bytes at no more loss, or else those that the chosen one takes less for
/// what more it loses. Where they are not the same candidate it tells of both: at no more loss there may be nothing within a
/// budget of bytes. Empty before a uniform candidate is measured.
pub fn sentence(document: &FrontDocument) -> String {
    let Some(gain) = reference(document) else { return String::new() };
    let row = &gain.uniform.row;
    let name = name(gain.uniform, document);
    let fewer = |other: &FrontRow| {
        let fewer = gain.fewer_bytes_of(other);
        format!("{} fewer ({})", bytes(fewer), percent(fewer as f64 / row.footprint_bytes.max(1) as f64))
    };
    let chosen = document.chosen.as_ref().filter(|chosen| gain.fewer_bytes_of(chosen) > 0);
    if let Some(better) = gain.better {
        let chosen = chosen.filter(|chosen| chosen.candidate != better.candidate);
        let chosen = chosen.map_or(String::new(), |chosen| {
            format!("; the chosen one: {}, with {}", fewer(chosen), loss(chosen))
        });
        return format!(
            "What the search bought: {} than {name} at no more loss: {} with {} in place of {}{chosen}.",
            fewer(better),
            better.candidate.short(),
            loss(better),
            loss(row),
        );
    }
    match chosen {
        Some(chosen) => format!(
            "What the search bought: {} than {name}, for {} in place of {}; at no more loss than that nothing is smaller.",
            fewer(chosen),
            loss(chosen),
            loss(row),
        ),
        _ => format!(
            "Nothing was gained over {name} ({}, {}): nothing smaller that was measured loses as little.",
            loss(row),
            bytes(row.footprint_bytes)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    fn with(loss: f64, footprint_bytes: u64, document: &FrontDocument) -> FrontRow {
        FrontRow { quality_loss: Some(loss), footprint_bytes, ..document.front[0].clone() }
    }

    fn document() -> FrontDocument {
        let mut document = report().front;
        let uniform = |scheme: &str, row| UniformRow { scheme: scheme.to_owned(), row };
        document.uniform = vec![
            uniform("int8:symmetric", with(0.001, 1000, &document)),
            uniform("int4:symmetric", with(0.02, 500, &document)),
            uniform("int2:symmetric", with(2.0, 300, &document)),
        ];
        let another = document.front[1].candidate;
        document.chosen = Some(FrontRow { candidate: another, ..with(0.029, 450, &document) });
        document.front = vec![
            with(2.0, 300, &document),
            with(0.029, 450, &document),
            with(0.019, 480, &document),
            with(0.001, 1000, &document),
        ];
        document
    }

    /// Found by a user with a budget: all that was told was larger than the budget.
    #[test]
    fn the_gain_is_in_bytes_at_no_more_loss_and_in_those_of_the_chosen_one() {
        let mut document = document();
        let gains = gains(&document);
        assert_eq!(gains.iter().map(Gain::fewer_bytes).collect::<Vec<_>>(), [0, 20, 0]);
        let words = sentence(&document);
        assert!(
            words.starts_with("What the search bought: 20 B fewer (4.00 %) than uniform int4"),
            "{words}"
        );
        let chosen = "with +1.90 % in place of +2.00 %; the chosen one: 50 B fewer (10.00 %), with +2.90 %.";
        assert!(words.ends_with(chosen), "{words}");
        let better = document.front[2].candidate;
        document.chosen = document.chosen.map(|chosen| FrontRow { candidate: better, ..chosen });
        assert!(sentence(&document).ends_with("with +1.90 % in place of +2.00 %."));
        document.chosen = None;
        assert!(
            sentence(&document).starts_with("What the search bought: 20 B fewer (4.00 %) than uniform int4")
        );
    }

    #[test]
    fn a_search_that_gained_nothing_says_so() {
        let mut document = document();
        document.front.remove(2);
        // What the choice takes less it pays for with a larger loss, and both are said.
        let words = sentence(&document);
        assert!(
            words.contains("50 B fewer (10.00 %) than uniform int4, for +2.90 % in place of +2.00 %;"),
            "{words}"
        );
        document.chosen = Some(document.uniform[1].row.clone());
        let words = sentence(&document);
        assert!(words.starts_with("Nothing was gained over uniform int4 (+2.00 %, 500 B)"), "{words}");
        // Without a choice, beside the uniform candidate that loses least.
        document.chosen = None;
        assert!(sentence(&document).starts_with("Nothing was gained over uniform int8"));
        document.uniform.clear();
        assert_eq!(sentence(&document), "");
    }

    #[test]
    fn uniform_candidates_of_one_width_are_told_apart() {
        let mut document = document();
        document.uniform[1].scheme = "int8:affine".to_owned();
        let names: Vec<_> = document.uniform.iter().map(|uniform| name(uniform, &document)).collect();
        assert_eq!(names, ["uniform int8:symmetric", "uniform int8:affine", "uniform int2"]);
    }
}
