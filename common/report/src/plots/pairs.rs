//! The front on every other pair of objectives: a ring for each of its candidates, and no line where a third one decides.

use kuva::plot::scatter::MarkerShape;
use kuva::plot::{LegendPosition, ScatterPlot};
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot as Layer;
use qslm_common::cost::Cost;
use qslm_common::front_document::FrontRow;
use qslm_common::objective::Objective;
use qslm_common::quality::Quality;

use super::front::MOST_INTERVALS;
use super::{CHOSEN, FRONT, Plot, WIDTH};
use crate::ReportDocument;
use crate::words;

/// Names of the plots in the order of the pairs.
const NAMES: [&str; 3] = ["pair-1", "pair-2", "pair-3"];

/// A plot per pair of objectives, but for quality and footprint, which the plot of all candidates has. Empty before
/// anything is on the front.
pub(super) fn plots(report: &ReportDocument) -> Vec<Plot> {
    let objectives = &report.experiment.objectives;
    let quality = Objective::quality_of(&report.experiment.task);
    let shown = [quality, Objective::Cost(Cost::Footprint)];
    let pairs =
        objectives.iter().enumerate().flat_map(|(at, x)| objectives[at + 1..].iter().map(move |y| (*y, *x)));
    let pairs = pairs.filter(|(x, y)| !(shown.contains(x) && shown.contains(y)));
    let plot = |(name, (x, y))| pair(report, name, x, y);
    NAMES.into_iter().zip(pairs).filter_map(plot).collect()
}

fn pair(report: &ReportDocument, plot: &'static str, x: Objective, y: Objective) -> Option<Plot> {
    let place = |row: &FrontRow| Some((value(row, x)?, value(row, y)?));
    let rows: Vec<&FrontRow> = report.front.front.iter().filter(|row| place(row).is_some()).collect();
    if rows.is_empty() {
        return None;
    }
    let label = |row: &FrontRow| {
        let of = |objective| value(row, objective).map_or(String::new(), |value| said(objective, value));
        format!("{}: {} {}, {} {}", row.candidate.short(), name(x), of(x), name(y), of(y))
    };
    let mut rings = ScatterPlot::new()
        .with_data(rows.iter().filter_map(|row| place(row)))
        .with_color(FRONT)
        .with_size(5.0)
        .with_marker_opacity(0.0)
        .with_marker_stroke_width(1.2)
        .with_legend("front")
        .with_tooltip_labels(rows.iter().map(|row| label(row)))
        .with_tooltips();
    let arms = |objective| -> Option<Vec<(f64, f64)>> {
        let float = report.front.float.as_ref()?;
        let arms: Vec<_> = rows.iter().map(|row| arms(float, row, objective)).collect();
        let is_known = rows.len() <= MOST_INTERVALS && arms.iter().any(Option::is_some);
        is_known.then(|| arms.into_iter().map(Option::unwrap_or_default).collect())
    };
    if let Some(arms) = arms(x) {
        rings = rings.with_x_err_asymmetric(arms);
    }
    if let Some(arms) = arms(y) {
        rings = rings.with_y_err_asymmetric(arms);
    }
    let mut layers: Vec<Layer> = vec![rings.into()];
    if let Some((chosen, at)) = report.front.chosen.as_ref().and_then(|row| Some((row, place(row)?))) {
        let star = ScatterPlot::new().with_data([at]).with_marker(MarkerShape::Star).with_color(CHOSEN);
        let star = star.with_size(9.0).with_legend("chosen").with_tooltip_labels([label(chosen)]);
        layers.push(star.with_tooltips().into());
    }
    let layout = Layout::auto_from_plots(&layers)
        .with_width(WIDTH)
        .with_height(400.0)
        .with_x_label(name(x))
        .with_y_label(name(y))
        .with_x_tick_format(ticks(x))
        .with_y_tick_format(ticks(y))
        .with_legend_position(LegendPosition::OutsideRightTop);
    let (across, up) = (name(x), name(y));
    let caption = format!(
        "The candidates of the front by {across} and {up}; lower and further left is better. With three objectives none is \
         joined to another: what looks worse here is better by the third. Bars are 95 % intervals, where they are known."
    );
    Some(Plot::new(plot, format!("{} against {across}", capital(&up)), caption, layers, layout))
}

/// Name of an objective as people say it: `firing rate`.
fn name(objective: Objective) -> String {
    match objective {
        Objective::Task(_) => objective.to_string(),
        _ => objective.to_string().replace('_', " "),
    }
}

/// Value of an objective; `None` where the row does not have it.
fn value(row: &FrontRow, objective: Objective) -> Option<f64> {
    match objective {
        Objective::Perplexity => row.perplexity,
        Objective::Error => row.accuracy.map(|accuracy| 1.0 - accuracy),
        Objective::Kl => row.kl,
        Objective::FiringRate => row.firing_rate,
        Objective::Task(name) => {
            let task = row.tasks.get(&name)?;
            task.perplexity.or(task.accuracy.map(|accuracy| 1.0 - accuracy))
        }
        Objective::Cost(Cost::Footprint) => Some(row.footprint_bytes as f64),
        Objective::Cost(cost) => row.costs.get(&cost).copied(),
    }
}

/// Arms of the 95 % interval of a quality, downwards and upwards; `None` for what has none.
fn arms(float: &FrontRow, row: &FrontRow, objective: Objective) -> Option<(f64, f64)> {
    let of_task = |name| row.tasks.get(&name).map(|task| (task.quality(), task.quality_loss_interval));
    let (quality, interval) = match objective {
        Objective::Perplexity => (Quality::Perplexity, row.quality_loss_interval),
        Objective::Error => (Quality::Accuracy, row.quality_loss_interval),
        Objective::Task(name) => of_task(name)?,
        _ => return None,
    };
    let (at, before) = (value(row, objective)?, value(float, objective)?);
    let (low, high) = match quality {
        Quality::Perplexity => interval.map(|(low, high)| (before * (1.0 + low), before * (1.0 + high)))?,
        Quality::Accuracy => interval.map(|(low, high)| (before + low, before + high))?,
    };
    Some(((at - low).max(0.0), (high - at).max(0.0)))
}

fn said(objective: Objective, value: f64) -> String {
    match objective {
        Objective::Perplexity => format!("{value:.3}"),
        Objective::Error => words::percent(value),
        Objective::Kl => format!("{value:.4} nats"),
        Objective::FiringRate | Objective::Task(_) => format!("{value:.4}"),
        Objective::Cost(cost) => words::cost(cost, value),
    }
}

fn ticks(objective: Objective) -> TickFormat {
    TickFormat::Custom(std::sync::Arc::new(move |value| match objective {
        Objective::Cost(cost) if cost.unit().starts_with("bytes") => round(&words::with_unit(value, "B")),
        Objective::Cost(cost) => words::cost(cost, value).trim_end_matches(" per token").to_owned(),
        objective => said(objective, value),
    }))
}

/// A number with its unit without decimals that say nothing: `6 MB`.
fn round(text: &str) -> String {
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text.to_owned(),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    #[test]
    fn three_objectives_have_the_two_other_pairs_and_two_have_none() {
        let mut report = report();
        assert!(plots(&report).is_empty(), "perplexity and footprint are on the plot of all candidates");
        report.experiment.objectives.push(Objective::Cost(Cost::Energy));
        let plots = plots(&report);
        let titles: Vec<_> = plots.iter().map(|plot| (plot.name, plot.title.as_str())).collect();
        assert_eq!(titles, [("pair-1", "Perplexity against energy"), ("pair-2", "Footprint against energy")]);
        for plot in &plots {
            let svg = plot.svg();
            let rings = svg.matches("</title>").count();
            assert_eq!(rings, report.front.front.len() + 1, "each candidate of the front and the chosen one");
            assert!(svg.contains("uJ"), "{svg}");
        }
    }

    #[test]
    fn axes_are_named_and_marked_as_people_say_it() {
        assert_eq!(name(Objective::FiringRate), "firing rate");
        assert_eq!(["6.000 MB", "1.250 MB", "400 B", "0.1"].map(round), ["6 MB", "1.25 MB", "400 B", "0.1"]);
    }

    #[test]
    fn a_quality_has_its_interval_in_units_of_the_axis_and_a_cost_has_none() {
        let mut report = report();
        report.experiment.objectives.push(Objective::Cost(Cost::Energy));
        let lines = |report: &ReportDocument| -> Vec<usize> {
            plots(report).iter().map(|plot| plot.svg().matches("<line").count()).collect()
        };
        let before = lines(&report);
        for row in &mut report.front.front {
            row.quality_loss_interval = row.quality_loss.map(|loss| (loss - 0.01, loss + 0.02));
        }
        let after = lines(&report);
        assert!(after[0] > before[0] && after[1] == before[1], "{before:?} {after:?}");
        let float = report.front.float.clone().unwrap();
        let row = &report.front.front[0];
        let (down, up) = arms(&float, row, Objective::Perplexity).unwrap();
        let perplexity = float.perplexity.unwrap();
        assert!((down - 0.01 * perplexity).abs() < 1e-9 && (up - 0.02 * perplexity).abs() < 1e-9);
        assert_eq!(arms(&float, row, Objective::Cost(Cost::Energy)), None);
    }
}
